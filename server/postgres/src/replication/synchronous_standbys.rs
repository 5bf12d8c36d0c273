//! `synchronous_standby_names`: for whom commits wait, and what the setting would be without us.
//!
//! Forms: `a, b` and `1 (a, b)`, which mean `FIRST 1 (a, b)`; `FIRST n (…)`; `ANY n (…)`. Names are compared without regard
//! to case; `*` is everybody; quotes are double, doubled within a name.

use std::fmt;

/// A value of the setting that names somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SynchronousStandbys {
    /// Any of them, and not the first of the list that are there.
    is_any: bool,
    /// For how many a commit waits.
    count: usize,
    names: Vec<String>,
}

impl SynchronousStandbys {
    /// Parses a value that the server has taken; `None` if commits wait for nobody.
    pub fn parse(text: &str) -> Option<SynchronousStandbys> {
        let mut rest = text;
        let mut tokens = Vec::new();
        while let Some(token) = next_token(&mut rest) {
            tokens.push(token);
        }
        let (head, list) = match tokens.iter().position(|token| *token == Token::Open) {
            Some(at) => (&tokens[..at], &tokens[at + 1..]),
            None => (&[][..], &tokens[..]),
        };
        let words: Vec<&str> = head.iter().filter_map(Token::word).collect();
        let (is_any, count) = match words.as_slice() {
            [] => (false, 1),
            [count] => (false, count.parse().ok()?),
            [method, count] => (method.eq_ignore_ascii_case("any"), count.parse().ok()?),
            _ => return None,
        };
        let names: Vec<String> = list
            .iter()
            .filter_map(Token::word)
            .map(str::to_owned)
            .collect();
        (!names.is_empty()).then_some(SynchronousStandbys {
            is_any,
            count,
            names,
        })
    }

    /// Whether a standby of this name is one of them.
    pub fn names(&self, application_name: &str) -> bool {
        let mut names = self.names.iter();
        names.any(|name| is_everybody(name) || name.eq_ignore_ascii_case(application_name))
    }

    /// Whether commits wait for this one, whoever else is there: the others are too few.
    pub fn cannot_do_without(&self, application_name: &str) -> bool {
        let Some(others) = self.without(application_name) else {
            return self.names(application_name);
        };
        self.names(application_name)
            && others.names.len() < self.count
            && !others.names.iter().any(|name| is_everybody(name))
    }

    /// The setting without this one; `None` if that is nobody. `*` stays.
    pub fn without(&self, application_name: &str) -> Option<SynchronousStandbys> {
        let stays = |name: &&String| !name.eq_ignore_ascii_case(application_name);
        let names: Vec<String> = self.names.iter().filter(stays).cloned().collect();
        (!names.is_empty()).then(|| SynchronousStandbys {
            is_any: self.is_any,
            count: self.count.min(names.len()),
            names,
        })
    }
}

/// As the setting is written.
impl fmt::Display for SynchronousStandbys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = if self.is_any { "ANY" } else { "FIRST" };
        let quoted = |name: &String| match is_everybody(name) {
            true => name.clone(),
            false => format!("\"{}\"", name.replace('"', "\"\"")),
        };
        let names: Vec<String> = self.names.iter().map(quoted).collect();
        write!(f, "{method} {} ({})", self.count, names.join(", "))
    }
}

fn is_everybody(name: &str) -> bool {
    name == "*"
}

#[derive(PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Open,
}

impl Token {
    fn word(&self) -> Option<&str> {
        match self {
            Token::Word(word) => Some(word),
            Token::Open => None,
        }
    }
}

/// Takes a token off; commas, white space and closing parentheses are between them.
fn next_token(rest: &mut &str) -> Option<Token> {
    let is_between = |c: char| c.is_whitespace() || c == ',' || c == ')';
    *rest = rest.trim_start_matches(is_between);
    let first = rest.chars().next()?;
    if first == '(' {
        *rest = &rest[1..];
        return Some(Token::Open);
    }
    if first != '"' {
        let end = rest.find(|c| is_between(c) || c == '(' || c == '"');
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        *rest = after;
        return Some(Token::Word(word.to_owned()));
    }
    let mut word = String::new();
    *rest = &rest[1..];
    loop {
        let (part, after) = rest.split_once('"').unwrap_or((rest, ""));
        word.push_str(part);
        *rest = after;
        match after.strip_prefix('"') {
            Some(after) => {
                word.push('"');
                *rest = after;
            }
            None => return Some(Token::Word(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SynchronousStandbys {
        SynchronousStandbys::parse(text).expect(text)
    }

    #[test]
    fn all_forms_of_the_setting_are_understood() {
        for (text, means) in [
            ("a", "FIRST 1 (\"a\")"),
            ("a, B ,\"c d\"", "FIRST 1 (\"a\", \"B\", \"c d\")"),
            ("2 (a,b)", "FIRST 2 (\"a\", \"b\")"),
            ("first 2(a, *)", "FIRST 2 (\"a\", *)"),
            ("ANY 1 (\"x\"\"y\", any)", "ANY 1 (\"x\"\"y\", \"any\")"),
            ("*", "FIRST 1 (*)"),
        ] {
            assert_eq!(parse(text).to_string(), means, "{text}");
            assert_eq!(parse(means), parse(text), "{means}");
        }
        assert_eq!(SynchronousStandbys::parse(" "), None);
    }

    #[test]
    fn who_is_alone_is_known() {
        for (text, is_named, is_alone) in [
            ("pageserver", true, true),
            ("PageServer", true, true),
            ("\"page server\"", false, false),
            ("other", false, false),
            ("pageserver, other", true, false),
            ("2 (pageserver, other)", true, true),
            ("ANY 1 (pageserver, other)", true, false),
            ("ANY 2 (pageserver, other, third)", true, false),
            ("2 (other, third)", false, false),
            ("*", true, false),
            ("2 (*)", true, false),
            ("2 (pageserver, *)", true, false),
        ] {
            let setting = parse(text);
            assert_eq!(setting.names("pageserver"), is_named, "{text}");
            assert_eq!(setting.cannot_do_without("pageserver"), is_alone, "{text}");
        }
    }

    #[test]
    fn without_us_no_more_are_waited_for_than_are_left() {
        let without = |text| {
            parse(text)
                .without("pageserver")
                .map(|left| left.to_string())
        };
        assert_eq!(without("pageserver"), None);
        assert_eq!(
            without("2 (pageserver, b)").as_deref(),
            Some("FIRST 1 (\"b\")")
        );
        let any = without("ANY 1 (b, PAGESERVER, c)");
        assert_eq!(any.as_deref(), Some("ANY 1 (\"b\", \"c\")"));
    }
}
