//! The check of this machine: is everything there that a start needs? Changes nothing but a probe object that it deletes again.

use rustix::process::{Resource, getrlimit};

use crate::access;
use crate::cli::Context;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;
use crate::node::engine_config;

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    result: Result<String, String>,
}

pub(super) fn run(context: &Context, is_json: bool) -> Result<(), Failure> {
    let findings = [
        Finding {
            what: "configuration",
            result: configuration(context),
        },
        Finding {
            what: "data directory",
            result: data_dir(context),
        },
        Finding {
            what: "page access",
            result: page_access(context),
        },
        Finding {
            what: "keyring and store",
            result: store(context),
        },
        Finding {
            what: "locked memory",
            result: locked_memory(context),
        },
        Finding {
            what: "io_uring",
            result: io_uring(),
        },
        Finding {
            what: "direct IO",
            result: alignment(context),
        },
    ];
    for Finding { what, result } in &findings {
        let (state, text) = match result {
            Ok(text) => ("ok", text),
            Err(text) => ("UNFIT", text),
        };
        if is_json {
            println!(
                "{}",
                serde_json::json!({ "what": what, "ok": result.is_ok(), "text": text })
            );
        } else {
            println!("{state:<6} {what:<18} {text}");
        }
    }
    let unfit = findings
        .iter()
        .filter(|finding| finding.result.is_err())
        .count();
    if unfit == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Config,
        format!("{unfit} of {} checks failed", findings.len()),
    ))
}

fn configuration(context: &Context) -> Result<String, String> {
    // Read and validated before this command began.
    if context.config_missing {
        Ok(format!(
            "{} is not there: all defaults",
            context.config_path.display()
        ))
    } else {
        Ok(context.config_path.display().to_string())
    }
}

fn data_dir(context: &Context) -> Result<String, String> {
    let path = context.data_dir.path();
    if !path.exists() {
        return Err(format!(
            "{} does not exist: pageserver init",
            path.display()
        ));
    }
    context.data_dir.lock().map_err(|e| e.to_string())?;
    Ok(format!("{} is free", path.display()))
}

fn page_access(context: &Context) -> Result<String, String> {
    for access in [&context.config.pages.access, &context.config.admin.access] {
        access::token(access).map_err(|e| e.to_string())?;
        access::server_config(access).map_err(|e| e.to_string())?;
    }
    Ok(format!(
        "{}, admin {}",
        context.config.pages.listen, context.config.admin.listen
    ))
}

fn store(context: &Context) -> Result<String, String> {
    let probe = || -> Result<(), Failure> {
        let deployment = Deployment::open(&context.deployment()?)?;
        let runtime = runtime().or_exit(Exit::Other)?;
        runtime.block_on(deployment.probe())?;
        deployment.close();
        Ok(())
    };
    probe().map_err(|failure| failure.to_string())?;
    Ok(format!("{} honours put-if-absent", context.store_url()))
}

fn locked_memory(context: &Context) -> Result<String, String> {
    let cores = u64::try_from(engine_config(&context.config, &context.data_dir).cores).unwrap_or(1);
    let want = cores * LOCKED_BYTES_PER_CORE;
    match getrlimit(Resource::Memlock).current {
        Some(limit) if limit < want => Err(format!(
            "{} KiB may be locked, {cores} cores want {} KiB: LimitMEMLOCK= in the service unit, or ulimit -l",
            limit >> 10,
            want >> 10
        )),
        Some(limit) => Ok(format!("{} KiB, {} KiB wanted", limit >> 10, want >> 10)),
        None => Ok("unlimited".to_owned()),
    }
}

fn io_uring() -> Result<String, String> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match setting.as_deref().map(str::trim) {
        Ok("0") | Err(_) => glommio::LocalExecutorBuilder::default()
            .spawn(|| async {})
            .and_then(glommio::ExecutorJoinHandle::join)
            .map(|()| "a ring can be set up".to_owned())
            .map_err(|e| format!("a ring can't be set up: {e}")),
        Ok(other) => Err(format!(
            "kernel.io_uring_disabled is {other}: sysctl kernel.io_uring_disabled=0"
        )),
    }
}

fn alignment(context: &Context) -> Result<String, String> {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
    let folder = context.data_dir.path();
    let probe = folder.join(format!("direct-io-probe-{}", std::process::id()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::DIRECT;
    let opened = rustix::fs::open(&probe, flags, Mode::RUSR | Mode::WUSR);
    let aligned = opened
        .and_then(|_file| rustix::fs::statx(CWD, &probe, AtFlags::empty(), StatxFlags::DIOALIGN));
    let _ = std::fs::remove_file(&probe);
    let facts = aligned.map_err(|e| format!("{}: no direct IO: {e}", folder.display()))?;
    match facts.stx_dio_offset_align {
        0 => Ok("possible; the file system does not tell its alignment".to_owned()),
        bytes if bytes > LARGEST_ALIGNMENT => Err(format!(
            "the file system wants {bytes} bytes, at most {LARGEST_ALIGNMENT} work"
        )),
        bytes => Ok(format!("aligned to {bytes} bytes")),
    }
}

/// What the ring of one core locks.
const LOCKED_BYTES_PER_CORE: u64 = 512 << 10;
const LARGEST_ALIGNMENT: u32 = 4096;
