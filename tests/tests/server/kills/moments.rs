//! How a process is caught at what it does, from outside: by the files it has open, by those it has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

/// Whether a process was stopped (and not let go on) while it had such a file open; false if it ended first. It is
/// stopped `linger` after that was first seen, and looked at again.
pub(super) fn stopped_with_open(
    child: &mut Child,
    linger: Duration,
    wanted: impl Fn(&Path) -> bool,
) -> bool {
    let pid = Pid::from_child(child);
    while child.try_wait().expect("our child").is_none() {
        if !has_open(pid, &wanted) {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        std::thread::sleep(linger);
        // It may have ended meanwhile; it stays our child until it is waited for.
        let _ended = kill_process(pid, Signal::STOP);
        if has_open(pid, &wanted) {
            return true;
        }
        let _ended = kill_process(pid, Signal::CONT);
    }
    false
}

fn has_open(pid: Pid, wanted: impl Fn(&Path) -> bool) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else {
        return false;
    };
    let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.into_iter().any(|target| wanted(&target))
}

/// Waits until a file changes whose name begins so; false if `goes_on` says false before.
pub(super) fn wait_for_change(
    folder: &Path,
    prefix: &str,
    mut goes_on: impl FnMut() -> bool,
) -> bool {
    let before = last_change(folder, prefix);
    while last_change(folder, prefix) == before {
        if !goes_on() {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

fn last_change(folder: &Path, prefix: &str) -> Option<SystemTime> {
    let files = fs::read_dir(folder).expect("a folder");
    let paths = files.map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix))
    };
    // A file may be removed between the two calls.
    paths
        .filter(named)
        .filter_map(|path| path.metadata().ok()?.modified().ok())
        .max()
}

const LOOK_EVERY: Duration = Duration::from_micros(100);
