//! The text of connection strings, taken apart into keywords and values: both of libpq's forms.

use super::settings::SettingsError;

/// Keywords and their values, in order.
pub(super) type Pairs = Vec<(String, String)>;

/// Takes either form apart.
pub(super) fn pairs_of(text: &str) -> Result<Pairs, SettingsError> {
    let text = text.trim();
    match URL_SCHEMES.iter().find_map(|s| text.strip_prefix(s)) {
        Some(rest) => url_pairs(rest),
        None => keyword_pairs(text),
    }
}

/// `keyword = value`, values with spaces in single quotes, backslash escapes.
fn keyword_pairs(text: &str) -> Result<Pairs, SettingsError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest
            .split_once('=')
            .ok_or(SettingsError::Syntax("a keyword without ="))?;
        let after = after.trim_start();
        let (quoted, mut characters) = match after.strip_prefix('\'') {
            Some(inside) => (true, inside.chars()),
            None => (false, after.chars()),
        };
        let mut value = String::new();
        let mut closed = !quoted;
        loop {
            let before = characters.as_str();
            match characters.next() {
                None => break,
                Some('\\') => value.extend(characters.next()),
                Some('\'') if quoted => {
                    closed = true;
                    break;
                }
                Some(c) if !quoted && c.is_whitespace() => {
                    characters = before.chars();
                    break;
                }
                Some(c) => value.push(c),
            }
        }
        if !closed {
            return Err(SettingsError::Syntax("a quote is not closed"));
        }
        pairs.push((keyword.trim().to_owned(), value));
        rest = characters.as_str().trim_start();
    }
    Ok(pairs)
}

/// What is behind the scheme: `user:password@host:port/dbname?keyword=value&…`.
fn url_pairs(rest: &str) -> Result<Pairs, SettingsError> {
    let mut pairs = Vec::new();
    let mut push = |keyword: &str, value: &str| -> Result<(), SettingsError> {
        if !value.is_empty() {
            pairs.push((percent_decode(keyword)?, percent_decode(value)?));
        }
        Ok(())
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let (host, port) = match address.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed
                .split_once(']')
                .ok_or(SettingsError::Syntax("[ without ] in the host"))?;
            (host, after.strip_prefix(':').unwrap_or(""))
        }
        None => address.rsplit_once(':').unwrap_or((address, "")),
    };
    push("user", user)?;
    push("password", password)?;
    push("host", host)?;
    push("port", port)?;
    push("dbname", database)?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = parameter
            .split_once('=')
            .ok_or(SettingsError::Syntax("a parameter without ="))?;
        push(keyword, value)?;
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String, SettingsError> {
    let error = SettingsError::Syntax("% without two hex digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_at_checked(2).ok_or(error.clone())?;
        let digits = std::str::from_utf8(digits).map_err(|_| error.clone())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| error.clone())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| SettingsError::Syntax("not UTF-8"))
}

pub(super) const URL_SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];
