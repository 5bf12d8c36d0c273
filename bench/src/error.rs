//! Why a benchmark could not run. A person reads it and starts again, so there are few kinds; the text names the place.

use std::io;

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was under way, with the file or address.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The other side answered something that is not an answer to what was asked.
    #[error("{0}")]
    Protocol(String),
    /// The machine, the data or the command line does not fit the run.
    #[error("{0}")]
    Unfit(String),
}

/// What every step of a benchmark returns.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Names what was under way when the system refused.
pub(crate) trait Doing<T> {
    /// Wraps the error with `what`, such as "open /dev/vda".
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| BenchError::Io {
            doing: what().into(),
            source: e.into(),
        })
    }
}
