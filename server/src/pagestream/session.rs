//! An open session outside a pagestream: commands as simple queries or by the extended protocol. Like `startup.rs`, a
//! state machine without input or output of its own.

use super::codec::Version;
use super::frames::{self, Fields, Frame, MalformedFrame, Severity};

/// What the owner of the socket does next, after sending what was appended to the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Wait for another message.
    More,
    /// Open this pagestream; the answer to the command is still to be written.
    Pagestream(Pagestream),
    /// The client said goodbye.
    Close,
}

/// A pagestream as a client asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagestream {
    /// The dialect.
    pub version: Version,
    /// Id or name, without a shard suffix.
    pub tenant: String,
    /// Id or name.
    pub branch: String,
    /// Whether ReadyForQuery follows at once when it ends (simple query) or only at the client's Sync.
    simple: bool,
}

/// The state of one open session.
#[derive(Debug, Default)]
pub struct Session {
    /// Prepared statements by name; at most [`STATEMENTS_MAX`].
    statements: Vec<(String, String)>,
    /// Portals by name; at most [`STATEMENTS_MAX`].
    portals: Vec<(String, String)>,
    /// An extended-protocol message failed: everything up to Sync is skipped.
    skipping: bool,
}

impl Session {
    /// Takes one message and appends the answer to `out`.
    /// # Errors
    /// The message is malformed; the connection ends.
    pub fn message(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<Next, MalformedFrame> {
        if self.skipping && !matches!(frame.tag, b'S' | b'X') {
            return Ok(Next::More);
        }
        match frame.tag {
            b'Q' => {
                let mut fields = Fields::new("Query", frame.body);
                let text = fields.text()?;
                fields.end()?;
                return Ok(simple_query(text, out));
            }
            b'P' => {
                let mut fields = Fields::new("Parse", frame.body);
                let (name, text) = (fields.text()?, fields.text()?);
                match Command::parse(text) {
                    Err(refusal) => self.refuse(out, &refusal),
                    Ok(_) if self.remember_statement(name, text) => {
                        frames::put(out, b'1', |_| ());
                    }
                    Ok(_) => self.refuse(out, &Refusal::too_many()),
                }
            }
            b'B' => {
                let mut fields = Fields::new("Bind", frame.body);
                let (portal, name) = (fields.text()?, fields.text()?);
                match find(&self.statements, name).map(str::to_owned) {
                    None => self.refuse(out, &Refusal::no_such("prepared statement", name)),
                    Some(text) if remember(&mut self.portals, portal, &text) => {
                        frames::put(out, b'2', |_| ());
                    }
                    Some(_) => self.refuse(out, &Refusal::too_many()),
                }
            }
            b'D' => {
                let mut fields = Fields::new("Describe", frame.body);
                let (kind, name) = (fields.byte()?, fields.text()?);
                let (known, what) = match kind {
                    b'S' => (&self.statements, "prepared statement"),
                    b'P' => (&self.portals, "portal"),
                    _ => return Err(MalformedFrame::Fields("Describe")),
                };
                if find(known, name).is_none() {
                    self.refuse(out, &Refusal::no_such(what, name));
                } else {
                    if kind == b'S' {
                        frames::put(out, b't', |out| out.extend_from_slice(&[0, 0]));
                    }
                    frames::put(out, b'n', |_| ());
                }
            }
            b'E' => {
                let mut fields = Fields::new("Execute", frame.body);
                let name = fields.text()?;
                match find(&self.portals, name).map(Command::parse) {
                    None => self.refuse(out, &Refusal::no_such("portal", name)),
                    Some(Err(refusal)) => self.refuse(out, &refusal),
                    Some(Ok(Command::Nothing)) => frames::put(out, b'I', |_| ()),
                    Some(Ok(Command::Set)) => frames::put_complete(out, "SET"),
                    Some(Ok(Command::Pagestream(ask))) => return Ok(Next::Pagestream(ask)),
                }
            }
            b'C' => {
                let mut fields = Fields::new("Close", frame.body);
                let (kind, name) = (fields.byte()?, fields.text()?);
                match kind {
                    b'S' => self.statements.retain(|(known, _)| known != name),
                    b'P' => self.portals.retain(|(known, _)| known != name),
                    _ => return Err(MalformedFrame::Fields("Close")),
                }
                frames::put(out, b'3', |_| ());
            }
            b'S' => {
                self.skipping = false;
                frames::put_ready(out);
            }
            b'H' => {}
            // What is left of a COPY that an error ended: Postgres ignores it too.
            b'd' | b'c' | b'f' => {}
            b'X' => return Ok(Next::Close),
            _ => return Err(MalformedFrame::Fields("frontend")),
        }
        Ok(Next::More)
    }

    /// The pagestream could not be opened.
    pub fn refuse_pagestream(
        &mut self,
        ask: &Pagestream,
        code: &str,
        text: &str,
        out: &mut Vec<u8>,
    ) {
        frames::put_error(out, Severity::Error, code, text);
        if ask.simple {
            frames::put_ready(out);
        } else {
            self.skipping = true;
        }
    }

    /// The client ended the pagestream with CopyDone.
    pub fn pagestream_done(&mut self, ask: &Pagestream, out: &mut Vec<u8>) {
        frames::put(out, b'c', |_| ());
        frames::put_complete(out, "COPY 0");
        if ask.simple {
            frames::put_ready(out);
        }
    }

    fn remember_statement(&mut self, name: &str, text: &str) -> bool {
        remember(&mut self.statements, name, text)
    }

    fn refuse(&mut self, out: &mut Vec<u8>, refusal: &Refusal) {
        frames::put_error(out, Severity::Error, refusal.code, &refusal.text);
        self.skipping = true;
    }
}

/// Statements and portals that one session may have at once.
const STATEMENTS_MAX: usize = 16;

fn simple_query(text: &str, out: &mut Vec<u8>) -> Next {
    match Command::parse(text) {
        Ok(Command::Pagestream(ask)) => {
            return Next::Pagestream(Pagestream {
                simple: true,
                ..ask
            });
        }
        Ok(Command::Set) => frames::put_complete(out, "SET"),
        Ok(Command::Nothing) => frames::put(out, b'I', |_| ()),
        Err(refusal) => frames::put_error(out, Severity::Error, refusal.code, &refusal.text),
    }
    frames::put_ready(out);
    Next::More
}

fn find<'a>(known: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = known.iter().find(|(known, _)| known == name);
    found.map(|(_, text)| text.as_str())
}

fn remember(known: &mut Vec<(String, String)>, name: &str, text: &str) -> bool {
    known.retain(|(known, _)| known != name);
    if known.len() == STATEMENTS_MAX {
        return false;
    }
    known.push((name.to_owned(), text.to_owned()));
    true
}

enum Command {
    Nothing,
    Set,
    Pagestream(Pagestream),
}

struct Refusal {
    code: &'static str,
    text: String,
}

impl Refusal {
    fn new(code: &'static str, text: impl Into<String>) -> Refusal {
        Refusal {
            code,
            text: text.into(),
        }
    }

    fn too_many() -> Refusal {
        Refusal::new("53400", format!("more than {STATEMENTS_MAX} statements"))
    }

    fn no_such(what: &str, name: &str) -> Refusal {
        Refusal::new("26000", format!("no {what} named {name:?}"))
    }
}

impl Command {
    fn parse(text: &str) -> Result<Command, Refusal> {
        let text = text.trim().trim_end_matches(';');
        let mut words = text.split_whitespace();
        let Some(first) = words.next() else {
            return Ok(Command::Nothing);
        };
        match first.to_ascii_lowercase().as_str() {
            "set" => Ok(Command::Set),
            "pagestream_v2" => pagestream(Version::V2, first, words),
            "pagestream_v3" => pagestream(Version::V3, first, words),
            name @ ("basebackup" | "fullbackup" | "lease") => Err(Refusal::new(
                "0A000",
                format!("{name} is not supported yet by this version of pageserver"),
            )),
            name => Err(Refusal::new(
                "42601",
                format!("unknown command {:?}", first_chars(name)),
            )),
        }
    }
}

fn pagestream<'a>(
    version: Version,
    name: &str,
    mut words: impl Iterator<Item = &'a str>,
) -> Result<Command, Refusal> {
    let (Some(tenant), Some(branch), None) = (words.next(), words.next(), words.next()) else {
        let text = format!("{name} takes a tenant and a timeline, as ids or as names");
        return Err(Refusal::new("42601", text));
    };
    Ok(Command::Pagestream(Pagestream {
        version,
        tenant: without_shard(tenant).to_owned(),
        branch: branch.to_owned(),
        simple: false,
    }))
}

/// Cuts a shard suffix (`-`, two hex digits of the number, two of the count) off a tenant id. Any core answers for any
/// shard, so the suffix only has to be understood.
fn without_shard(tenant: &str) -> &str {
    match tenant.split_once('-') {
        Some((id, shard)) if is_hex(id, 32) && is_hex(shard, 4) => id,
        _ => tenant,
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn first_chars(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

#[cfg(test)]
mod tests;
