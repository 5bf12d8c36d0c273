//! How a command ends: an exit code that scripts can act on, and an error chain for people.

use std::error::Error;
use std::fmt;

/// Exit codes, as `pageserver --help` and docs/OPERATIONS.md list them. Part of the interface: never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something else failed.
    Other = 1,
    /// The command line makes no sense (clap's own code).
    Usage = 2,
    /// The configuration is missing, unreadable or invalid.
    Config = 3,
    /// There is no such tenant, branch or page.
    NotFound = 4,
    /// The store, the key provider or the server did not answer; trying again is right.
    Unavailable = 5,
    /// Another server has the data directory, or somebody the port.
    InUse = 6,
    /// Something stored is damaged.
    Corrupt = 7,
    /// Refused for a reason that the message names: the source, the keys or the request has to change.
    Refused = 8,
}

impl Exit {
    /// Every code with what it means.
    pub const ALL: [(Exit, &'static str); 8] = [
        (Exit::Other, "something else failed"),
        (Exit::Usage, "the command line makes no sense"),
        (
            Exit::Config,
            "the configuration is missing, unreadable or invalid",
        ),
        (Exit::NotFound, "no such tenant, branch or page"),
        (
            Exit::Unavailable,
            "store, key provider or server did not answer; try again",
        ),
        (
            Exit::InUse,
            "another server has the data directory, or somebody has the port",
        ),
        (Exit::Corrupt, "something stored is damaged"),
        (Exit::Refused, "refused, for the reason in the message"),
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Other => 1,
            Exit::Usage => 2,
            Exit::Config => 3,
            Exit::NotFound => 4,
            Exit::Unavailable => 5,
            Exit::InUse => 6,
            Exit::Corrupt => 7,
            Exit::Refused => 8,
        }
    }
}

/// Why a command failed, and with which code.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What failed.
    pub error: Box<dyn Error + Send + Sync>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure {
            exit,
            error: error.into(),
            hint: None,
        }
    }

    /// The same, with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.error.to_string();
        let mut source = self.error.source();
        while let Some(cause) = source {
            let cause_says = cause.to_string();
            // Some errors name their cause themselves.
            if !said.ends_with(&cause_says) {
                said = format!("{said}: {cause_says}");
            }
            source = cause.source();
        }
        f.write_str(&said)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// Attaches an exit code to an error.
pub trait OrExit<T> {
    /// The value, or a failure with this code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(exit, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_they_always_were() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_failure_shows_its_whole_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("open it")]
        struct Outer(#[source] std::io::Error);
        let inner = std::io::Error::other("no disk");
        let failure = Failure::new(Exit::Other, Outer(inner)).hint("buy one");
        assert_eq!(failure.to_string(), "open it: no disk\nhint: buy one");
    }

    #[test]
    fn a_cause_that_was_named_already_is_not_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("open it: {source}")]
        struct Outer {
            source: std::io::Error,
        }
        let source = std::io::Error::other("no disk");
        let failure = Failure::new(Exit::Other, Outer { source });
        assert_eq!(failure.to_string(), "open it: no disk");
    }
}
