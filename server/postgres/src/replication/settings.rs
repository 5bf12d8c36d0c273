//! Connection strings in both of libpq's forms: `host=… user=…` and `postgresql://user@host/…`.
//!
//! What libpq takes from its environment, the caller gives as [`ConnectionDefaults`]. Keywords that would change what
//! is connected to, and that are not known here, are refused by name; nothing is ignored but `replication`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::connection_string::{URL_SCHEMES, pairs_of};
use super::passfile;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A name or address.
    Tcp(String),
    /// The folder of its Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp(name) => f.write_str(name),
            Host::Unix(folder) => write!(f, "{}", folder.display()),
        }
    }
}

/// Whether the connection is encrypted, and what is asked of the server's certificate; libpq's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server can. Certificates are not looked at.
    Prefer,
    /// Or no connection. Certificates are looked at only if `sslrootcert` is given.
    Require,
    /// The certificate must come from a known authority.
    VerifyCa,
    /// And be for this host.
    VerifyFull,
}

/// All that is needed to connect. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Where the server listens.
    pub host: Host,
    /// TCP port, also part of the Unix socket's name.
    pub port: u16,
    /// Role, which needs REPLICATION.
    pub user: String,
    /// Its password, if one is known.
    pub password: Option<String>,
    /// Encryption.
    pub ssl_mode: SslMode,
    /// Authorities in PEM; `system` in the connection string means the system's.
    pub ssl_root_certificates: Option<PathBuf>,
    /// Longest wait for the connection itself, and then for each answer until the server is ready. Default 30 s.
    pub connect_timeout: Duration,
    /// Database of connections that are not for replication: `dbname`. Default `postgres`.
    pub database: String,
    /// What the server calls the connection in its views, and looks up in `synchronous_standby_names`. At most 63
    /// printable characters of ASCII. Default `pageserver`.
    pub application_name: String,
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("ssl_mode", &self.ssl_mode)
            .finish_non_exhaustive()
    }
}

/// What libpq would take from the environment; the caller reads it there.
#[derive(Clone, Default)]
pub struct ConnectionDefaults {
    /// PGHOST.
    pub host: Option<String>,
    /// PGPORT.
    pub port: Option<String>,
    /// PGUSER, or the name of the operating system's user.
    pub user: Option<String>,
    /// PGPASSWORD.
    pub password: Option<String>,
    /// PGPASSFILE, or `~/.pgpass`.
    pub passfile: Option<PathBuf>,
    /// PGSSLMODE.
    pub ssl_mode: Option<String>,
    /// PGSSLROOTCERT.
    pub ssl_root_certificates: Option<String>,
}

/// Why a connection string is refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Neither form.
    #[error("connection string: {0}")]
    Syntax(&'static str),
    /// A keyword that is not known here.
    #[error("connection string: {0:?} is not supported")]
    Keyword(String),
    /// A value out of range.
    #[error("connection string: {keyword} cannot be {value:?}")]
    Value {
        /// Which keyword.
        keyword: &'static str,
        /// Its value.
        value: String,
    },
    /// No user in the string nor in the defaults.
    #[error("connection string: user is missing")]
    NoUser,
}

impl ConnectionSettings {
    /// Whether `text` looks like a connection string, and not like a path.
    pub fn is_connection_string(text: &str) -> bool {
        URL_SCHEMES.iter().any(|scheme| text.starts_with(scheme))
            || text
                .split_once('=')
                .is_some_and(|(keyword, _)| KEYWORDS.contains(&keyword.trim()))
    }

    /// Parses either form.
    /// # Errors
    /// Malformed text, unknown keywords, values out of range, no user.
    pub fn parse(
        text: &str,
        defaults: &ConnectionDefaults,
    ) -> Result<ConnectionSettings, SettingsError> {
        let mut given = Given::default();
        for (keyword, value) in pairs_of(text)? {
            given.take(&keyword, value)?;
        }
        given.settle(defaults)
    }
}

const KEYWORDS: [&str; 12] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "passfile",
    "connect_timeout",
    "application_name",
    "replication",
];

#[derive(Default)]
struct Given {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    ssl_mode: Option<String>,
    ssl_root_certificates: Option<String>,
    passfile: Option<PathBuf>,
    connect_timeout: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
}

impl Given {
    fn take(&mut self, keyword: &str, value: String) -> Result<(), SettingsError> {
        match keyword {
            // An address in numbers is as good as a name, except to verify-full, which then wants a certificate
            // for the address.
            "host" => self.host = Some(value),
            "hostaddr" => {
                self.host.get_or_insert(value);
            }
            "port" => self.port = Some(value),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "sslmode" => self.ssl_mode = Some(value),
            "sslrootcert" => self.ssl_root_certificates = Some(value),
            "passfile" => self.passfile = Some(value.into()),
            "connect_timeout" => self.connect_timeout = Some(value),
            "dbname" => self.database = Some(value),
            "application_name" => self.application_name = Some(value),
            // Each connection knows what it is for.
            "replication" => {}
            other => return Err(SettingsError::Keyword(other.to_owned())),
        }
        Ok(())
    }

    fn settle(self, defaults: &ConnectionDefaults) -> Result<ConnectionSettings, SettingsError> {
        let or = |own: Option<String>, default: &Option<String>| {
            own.filter(|value| !value.is_empty())
                .or_else(|| default.clone())
        };
        let host = or(self.host, &defaults.host).unwrap_or_else(|| "/var/run/postgresql".into());
        if host.contains(',') {
            return Err(SettingsError::Value {
                keyword: "host",
                value: host,
            });
        }
        let host = if host.starts_with('/') {
            Host::Unix(host.into())
        } else {
            Host::Tcp(host)
        };
        let port = or(self.port, &defaults.port).unwrap_or_else(|| "5432".into());
        let port = port.parse().map_err(|_| SettingsError::Value {
            keyword: "port",
            value: port,
        })?;
        let user = or(self.user, &defaults.user).ok_or(SettingsError::NoUser)?;
        let ssl_mode = ssl_mode(or(self.ssl_mode, &defaults.ssl_mode))?;
        let roots = or(self.ssl_root_certificates, &defaults.ssl_root_certificates);
        let timeout = self.connect_timeout.unwrap_or_else(|| "30".into());
        let seconds: u64 = timeout
            .parse()
            .ok()
            .filter(|seconds| (1..=3600).contains(seconds))
            .ok_or(SettingsError::Value {
                keyword: "connect_timeout",
                value: timeout,
            })?;
        let application_name = or(self.application_name, &None);
        let application_name = application_name.unwrap_or_else(|| "pageserver".into());
        let is_printable = application_name
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte));
        if !is_printable || application_name.len() > APPLICATION_NAME_BYTES_MAX {
            return Err(SettingsError::Value {
                keyword: "application_name",
                value: application_name,
            });
        }
        let passfile = self.passfile.or_else(|| defaults.passfile.clone());
        let database = or(self.database, &None).unwrap_or_else(|| "postgres".into());
        let password = or(self.password, &defaults.password)
            .or_else(|| passfile::look_up(passfile.as_deref()?, &host, port, &database, &user));
        Ok(ConnectionSettings {
            host,
            port,
            user,
            password,
            ssl_mode,
            ssl_root_certificates: roots.map(|path| match path.as_str() {
                "system" => SYSTEM_ROOTS.into(),
                _ => path.into(),
            }),
            connect_timeout: Duration::from_secs(seconds),
            database,
            application_name,
        })
    }
}

fn ssl_mode(text: Option<String>) -> Result<SslMode, SettingsError> {
    Ok(match text.as_deref() {
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            return Err(SettingsError::Value {
                keyword: "sslmode",
                value: other.to_owned(),
            });
        }
    })
}

/// The server cuts longer ones off, and shows other characters as question marks: such a name would never be found in
/// `synchronous_standby_names`.
const APPLICATION_NAME_BYTES_MAX: usize = 63;
/// Debian's bundle; other systems name a file.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnectionSettings, SettingsError> {
        ConnectionSettings::parse(text, &ConnectionDefaults::default())
    }

    #[test]
    fn both_forms_say_the_same() {
        let by_keywords =
            parse(r"host=db.example port = 5433 user='a \'b' password=p\ w sslmode=require");
        let by_url = parse("postgresql://a%20'b:p%20w@db.example:5433/postgres?sslmode=require");
        let settings = by_keywords.expect("keywords parse");
        assert_eq!(Ok(&settings), by_url.as_ref());
        assert_eq!(settings.host, Host::Tcp("db.example".into()));
        assert_eq!((settings.port, settings.user.as_str()), (5433, "a 'b"));
        assert_eq!(settings.password.as_deref(), Some("p w"));
        assert_eq!(settings.ssl_mode, SslMode::Require);
    }

    #[test]
    fn database_and_name_are_the_strings_or_have_defaults() {
        let text = "postgres://u@h/app?application_name=page%20server";
        let settings = parse(text).expect("parses");
        assert_eq!(settings.database, "app");
        assert_eq!(settings.application_name, "page server");
        let settings = parse("user=u application_name=''").expect("parses");
        assert_eq!(settings.database, "postgres");
        assert_eq!(settings.application_name, "pageserver");
    }

    #[test]
    fn sockets_addresses_and_defaults_are_understood() {
        let socket = parse("host=/run/pg user=u").expect("a socket");
        assert_eq!(socket.host, Host::Unix("/run/pg".into()));
        assert_eq!((socket.port, socket.ssl_mode), (5432, SslMode::Prefer));
        let six = parse("postgres://u@[::1]:7/").expect("an IPv6 address");
        assert_eq!((six.host, six.port), (Host::Tcp("::1".into()), 7));
        let socket = parse("postgresql://u@%2Frun%2Fpg").expect("a socket in a url");
        assert_eq!(socket.host, Host::Unix("/run/pg".into()));
        let defaults = ConnectionDefaults {
            user: Some("me".into()),
            port: Some("1".into()),
            ..Default::default()
        };
        let settings = ConnectionSettings::parse("host=h", &defaults).expect("by defaults");
        assert_eq!((settings.user.as_str(), settings.port), ("me", 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("host=h", SettingsError::NoUser),
            (
                "user=u target_session_attrs=any",
                SettingsError::Keyword("target_session_attrs".into()),
            ),
            ("user=u host", SettingsError::Syntax("a keyword without =")),
            ("user='u", SettingsError::Syntax("a quote is not closed")),
            (
                "postgres://u%2@h",
                SettingsError::Syntax("% without two hex digits"),
            ),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        for text in [
            "user=u port=70000",
            "user=u sslmode=maybe",
            "user=u connect_timeout=0",
            "user=u host=a,b",
            "user=u application_name=bö",
            "user=u application_name=a234567890123456789012345678901234567890123456789012345678901234",
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                matches!(error, SettingsError::Value { .. }),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_password_is_not_in_debug() {
        let settings = parse("user=u password=geheim").expect("parses");
        assert!(!format!("{settings:?}").contains("geheim"));
    }

    #[test]
    fn connection_strings_are_told_from_paths() {
        for text in ["host=h", "postgres://h", " port = 1"] {
            assert!(ConnectionSettings::is_connection_string(text), "{text}");
        }
        for text in ["/srv/data", "./a=b", "data"] {
            assert!(!ConnectionSettings::is_connection_string(text), "{text}");
        }
    }
}
