//! The `pageserver` binary.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use pageserver::cli::{self, Surroundings};

fn main() -> ExitCode {
    match cli::run(std::env::args_os(), surroundings()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pageserver: {failure}");
            ExitCode::from(failure.exit.code())
        }
    }
}

fn surroundings() -> Surroundings {
    let directory = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = || directory("HOME").map(|home| home.join(".config"));
    Surroundings {
        config_home: directory("XDG_CONFIG_HOME").or_else(home),
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    }
}
