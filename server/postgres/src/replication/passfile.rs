//! libpq's password file: lines of `host:port:database:user:password`, `*` for any, backslash before `:` and `\`.
//! A file that others may read is not used, as in libpq.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::settings::Host;

/// The password of `user`, for replication or a database: the first line that fits one of both.
pub(super) fn look_up(
    path: &Path,
    host: &Host,
    port: u16,
    database: &str,
    user: &str,
) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file not used: others may read it (chmod 600)");
        return None;
    }
    let content = std::fs::read_to_string(path).ok()?;
    find(&content, host, port, database, user)
}

fn find(content: &str, host: &Host, port: u16, database: &str, user: &str) -> Option<String> {
    let host = match host {
        Host::Tcp(name) => name.clone(),
        // The default socket folder counts as localhost.
        Host::Unix(folder) if folder == Path::new("/var/run/postgresql") => "localhost".to_owned(),
        Host::Unix(folder) => folder.display().to_string(),
    };
    let port = port.to_string();
    let fits = |given: &str, wanted: &str| given == "*" || given == wanted;
    let lines = content.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(fields)
        .find_map(|fields| match fields.as_slice() {
            [given_host, given_port, given_database, given_user, password]
                if fits(given_host, &host)
                    && fits(given_port, &port)
                    && (fits(given_database, "replication") || fits(given_database, database))
                    && fits(given_user, user) =>
            {
                Some(password.clone())
            }
            _ => None,
        })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let field = fields.last_mut().expect("never empty");
        match c {
            '\\' => field.extend(characters.next()),
            ':' => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let content =
            "# comment\nother:5432:*:me:no\n*:5432:replication:me:a\\:b\\\\\n*:*:*:*:last";
        let host = Host::Tcp("h".into());
        let find = |content, port| find(content, &host, port, "postgres", "me");
        assert_eq!(find(content, 5432).as_deref(), Some("a:b\\"));
        assert_eq!(find(content, 1).as_deref(), Some("last"));
        assert_eq!(find("h:1:*:*", 1), None);
        assert_eq!(
            find("h:1:other:me:no\nh:1:postgres:me:yes", 1).as_deref(),
            Some("yes")
        );
    }
}
