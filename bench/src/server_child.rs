//! `pageserver serve` as a child process: the program beside this one, told to stop as an operator would.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{BenchError, Doing, Result};

/// Path of the program.
///
/// # Errors
/// The system does not say where this one is.
pub(crate) fn program() -> Result<PathBuf> {
    let this = std::env::current_exe().doing(|| "find this program")?;
    Ok(this.with_file_name("pageserver"))
}

/// A server; killed when dropped.
pub(crate) struct ServerChild {
    child: Child,
    log: PathBuf,
}

impl ServerChild {
    /// Starts it on a data directory, with a configuration; it logs into the data directory.
    ///
    /// # Errors
    /// No such program.
    pub(crate) fn start(data_dir: &Path, config: &Path) -> Result<ServerChild> {
        let program = program()?;
        let path = data_dir.join("serve.log");
        let log = fs::File::create(&path).doing(|| format!("write {}", path.display()))?;
        let mut command = Command::new(&program);
        command.arg("--data-dir").arg(data_dir);
        command.arg("--config").arg(config).arg("serve");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().doing(|| "share the log")?)
            .stderr(log)
            .spawn()
            .doing(|| format!("start {}", program.display()))?;
        Ok(ServerChild { child, log: path })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Nothing while it runs.
    ///
    /// # Errors
    /// It has ended: what it said last.
    pub(crate) fn look(&mut self) -> Result<()> {
        match self.child.try_wait().doing(|| "look at the server")? {
            None => Ok(()),
            Some(status) => Err(BenchError::Unfit(format!(
                "the server ended, {status}: {}",
                last_lines(&self.log)
            ))),
        }
    }

    /// Stops it, and waits for its end.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).doing(|| "stop the server")?;
        }
        let status = self.child.wait().doing(|| "wait for the server")?;
        if status.success() {
            Ok(())
        } else {
            Err(BenchError::Unfit(format!("the server ended with {status}")))
        }
    }
}

impl Drop for ServerChild {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server said last.
fn last_lines(path: &Path) -> String {
    let Ok(file) = fs::File::open(path) else {
        return String::new();
    };
    let lines: Vec<String> = BufReader::new(file)
        .lines()
        .map_while(std::result::Result::ok)
        .collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
