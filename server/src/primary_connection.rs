//! How to connect to a Postgres that is named by a connection string, with what libpq takes from the environment.

use std::collections::BTreeMap;
use std::path::Path;

use postgres::replication::{ConnectionDefaults, ConnectionSettings, SettingsError};

/// The settings of a connection string; `variables` are the environment.
/// # Errors
/// What is wrong with the string.
pub fn connection_settings(
    variables: &BTreeMap<String, String>,
    text: &str,
) -> Result<ConnectionSettings, SettingsError> {
    let variable = |name: &str| variables.get(name).cloned();
    let home_passfile = || variable("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let defaults = ConnectionDefaults {
        host: variable("PGHOST"),
        port: variable("PGPORT"),
        user: variable("PGUSER").or_else(|| variable("USER")),
        password: variable("PGPASSWORD"),
        passfile: variable("PGPASSFILE")
            .map(Into::into)
            .or_else(home_passfile),
        ssl_mode: variable("PGSSLMODE"),
        ssl_root_certificates: variable("PGSSLROOTCERT"),
    };
    ConnectionSettings::parse(text, &defaults)
}
