//! Logs go to standard error, as lines for people or as JSON; standard output is for what was asked for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Why logs can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("log filter {filter:?}: {reason}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else set up logs in this process.
    #[error("logs are set up already")]
    Twice,
}

/// Sends the process's logs to standard error. Once per process.
pub fn start(config: &LogConfig) -> Result<(), LoggingError> {
    let filter: EnvFilter = config.filter.parse().map_err(|e| LoggingError::Filter {
        filter: config.filter.clone(),
        reason: format!("{e}"),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Human => builder.with_target(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|_| LoggingError::Twice)
}
