//! A client of the page protocol, written from docs/PAGESTREAM.md and not from the server's codec, so that a mistake in
//! one of them shows. Blocking, over any stream; every echo of every answer is compared with what was sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A relation's fork as the protocol writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFork {
    /// Tablespace.
    pub tablespace: u32,
    /// Database; 0 for shared relations.
    pub database: u32,
    /// File number.
    pub relation: u32,
    /// 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Is the fork there?
    Exists(RelationFork),
    /// How many blocks has it?
    Nblocks(RelationFork),
    /// One block.
    GetPage(RelationFork, u32),
    /// Bytes of a database.
    DbSize(u32),
    /// A segment: which SLRU, which segment.
    GetSlruSegment(u8, u32),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Exists`.
    Exists(bool),
    /// To `Nblocks`.
    Nblocks(u32),
    /// To `GetPage`: 8192 bytes.
    GetPage(Vec<u8>),
    /// To `DbSize`.
    DbSize(i64),
    /// To `GetSlruSegment`: whole blocks.
    GetSlruSegment(Vec<u8>),
    /// To anything.
    Error(String),
}

/// The two LSNs of a request: where to read, and since when the page did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lsns {
    /// Request LSN.
    pub request: u64,
    /// Not-modified-since LSN.
    pub not_modified_since: u64,
}

/// Read what is newest.
pub const LATEST: Lsns = Lsns {
    request: u64::MAX,
    not_modified_since: 0,
};

/// A request that was sent: what the answer has to echo.
#[derive(Debug)]
pub struct Sent {
    ask: Ask,
    header: Vec<u8>,
    body: Vec<u8>,
}

/// Why a session, a command or an answer did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said so: SQLSTATE and text.
    #[error("{code}: {text}")]
    Server {
        /// SQLSTATE.
        code: String,
        /// Message.
        text: String,
    },
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server sent what the protocol does not have at this place.
    #[error("out of protocol: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The SQLSTATE, if the server sent one.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Server { code, .. } => Some(code),
            ClientError::Io(_) | ClientError::Protocol(_) => None,
        }
    }
}

/// A connection of the PostgreSQL protocol.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    /// For tests that write bytes of their own.
    pub stream: S,
}

/// Connects; reads and writes give up after a while, so that a server that hangs fails the test.
/// # Errors
/// The system's.
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks for TLS; the server's one byte.
/// # Errors
/// The connection's.
pub fn request_tls(stream: &mut TcpStream) -> io::Result<u8> {
    let mut packet = 8_u32.to_be_bytes().to_vec();
    packet.extend(80_877_103_u32.to_be_bytes());
    stream.write_all(&packet)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// A frame with its tag.
/// # Panics
/// The body is longer than a frame can be.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("frames are short");
    let mut frame = vec![tag];
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    frame
}

impl<S: Read + Write> Connection<S> {
    /// Opens a session, by password if one is given.
    /// # Errors
    /// The server refused, or the connection broke.
    pub fn open(stream: S, password: Option<&str>) -> Result<Connection<S>, ClientError> {
        let mut connection = Connection { stream };
        let mut body = (3_u32 << 16).to_be_bytes().to_vec();
        body.extend(b"client_encoding\0UTF8\0user\0me\0\0");
        let length = u32::try_from(body.len() + 4).expect("short");
        // At once: who is refused as it connects finds the connection closed at a second write, and does not hear why.
        let startup = [&length.to_be_bytes()[..], &body].concat();
        connection.stream.write_all(&startup)?;
        loop {
            let (tag, body) = connection.message()?;
            match (tag, body.as_slice()) {
                (b'R', [0, 0, 0, 0]) | (b'S', _) => {}
                (b'R', [0, 0, 0, 3]) => {
                    let mut body = password.unwrap_or_default().as_bytes().to_vec();
                    body.push(0);
                    connection.stream.write_all(&frame(b'p', &body))?;
                }
                (b'Z', b"I") => return Ok(connection),
                _ => return Err(out_of_protocol("startup", tag, &body)),
            }
        }
    }

    /// The next message; an ErrorResponse is an error.
    /// # Errors
    /// That, or the connection broke.
    pub fn message(&mut self) -> Result<(u8, Vec<u8>), ClientError> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let [tag, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).expect("32 bits");
        let mut body = vec![0; length.checked_sub(4).expect("a length counts itself")];
        self.stream.read_exact(&mut body)?;
        if tag != b'E' {
            return Ok((tag, body));
        }
        let text = String::from_utf8(body).expect("errors are UTF-8");
        let field = |wanted: char| {
            let fields = text.split('\0').find_map(|f| f.strip_prefix(wanted));
            fields.unwrap_or_default().to_owned()
        };
        Err(ClientError::Server {
            code: field('C'),
            text: field('M'),
        })
    }

    /// Sends a simple query and does not wait.
    /// # Errors
    /// The connection's.
    pub fn query(&mut self, text: &str) -> io::Result<()> {
        let mut body = text.as_bytes().to_vec();
        body.push(0);
        self.stream.write_all(&frame(b'Q', &body))
    }

    /// Expects the server to be ready for a query.
    /// # Errors
    /// It is not.
    pub fn ready(&mut self) -> Result<(), ClientError> {
        match self.message()? {
            (b'Z', _) => Ok(()),
            (tag, body) => Err(out_of_protocol("ReadyForQuery", tag, &body)),
        }
    }

    /// Begins a pagestream of version 2 or 3. When the server refuses, the session goes on.
    /// # Errors
    /// It did, or the connection broke.
    pub fn begin_pages(
        &mut self,
        version: u8,
        tenant: &str,
        branch: &str,
    ) -> Result<(), ClientError> {
        self.query(&format!("pagestream_v{version} {tenant} {branch}"))?;
        match self.message() {
            Ok((b'W', body)) if body == [0, 0, 0] => Ok(()),
            Ok((tag, body)) => Err(out_of_protocol("pagestream", tag, &body)),
            Err(refused @ ClientError::Server { .. }) => {
                self.ready()?;
                Err(refused)
            }
            Err(broken) => Err(broken),
        }
    }

    /// As [`begin_pages`](Self::begin_pages), and the client of it.
    /// # Errors
    /// As there.
    pub fn pages(
        mut self,
        version: u8,
        tenant: &str,
        branch: &str,
    ) -> Result<PageClient<S>, ClientError> {
        self.begin_pages(version, tenant, branch)?;
        Ok(self.into_pages(version))
    }

    /// The client of a pagestream that [`begin_pages`](Self::begin_pages) began.
    pub fn into_pages(self, version: u8) -> PageClient<S> {
        PageClient {
            connection: self,
            version,
            next_id: 1 << 60,
        }
    }
}

/// A pagestream.
#[derive(Debug)]
pub struct PageClient<S = TcpStream> {
    /// What it runs over.
    pub connection: Connection<S>,
    version: u8,
    next_id: u64,
}

impl<S: Read + Write> PageClient<S> {
    /// Sends a request and does not wait.
    /// # Errors
    /// The connection's.
    pub fn send(&mut self, ask: Ask, lsns: Lsns) -> io::Result<Sent> {
        let mut header = Vec::new();
        if self.version == 3 {
            header.extend(self.next_id.to_be_bytes());
            self.next_id += 1;
        }
        header.extend(lsns.request.to_be_bytes());
        header.extend(lsns.not_modified_since.to_be_bytes());
        let (tag, body) = ask.encode();
        let mut request = vec![tag];
        request.extend(&header);
        request.extend(&body);
        self.connection.stream.write_all(&frame(b'd', &request))?;
        Ok(Sent { ask, header, body })
    }

    /// The answer to the oldest request that has none.
    /// # Errors
    /// The connection broke, or the answer is not one to this request.
    pub fn receive(&mut self, sent: &Sent) -> Result<Answer, ClientError> {
        let (tag, answer) = self.connection.message()?;
        if tag != b'd' {
            return Err(out_of_protocol("an answer", tag, &answer));
        }
        let wrong = |what: &str| ClientError::Protocol(format!("{what} in the answer to {sent:?}"));
        let (tag, rest) = answer.split_first().ok_or_else(|| wrong("no tag"))?;
        let mut rest = rest;
        if self.version == 3 {
            rest = rest
                .strip_prefix(sent.header.as_slice())
                .ok_or_else(|| wrong("another header"))?;
            if *tag != 103 {
                rest = rest
                    .strip_prefix(sent.body.as_slice())
                    .ok_or_else(|| wrong("another body"))?;
            }
        }
        let answer = match (*tag, sent.ask) {
            (100, Ask::Exists(_)) => match rest {
                [flag @ (0 | 1)] => Some(Answer::Exists(*flag == 1)),
                _ => None,
            },
            (101, Ask::Nblocks(_)) => {
                let blocks = rest.try_into().ok().map(u32::from_be_bytes);
                blocks.map(Answer::Nblocks)
            }
            (102, Ask::GetPage(..)) => {
                (rest.len() == 8192).then(|| Answer::GetPage(rest.to_owned()))
            }
            (103, _) => rest.strip_suffix(b"\0").and_then(|text| {
                let text = String::from_utf8(text.to_owned()).ok()?;
                (!text.contains('\0')).then_some(Answer::Error(text))
            }),
            (104, Ask::DbSize(_)) => {
                let bytes = rest.try_into().ok().map(i64::from_be_bytes);
                bytes.map(Answer::DbSize)
            }
            (105, Ask::GetSlruSegment(..)) => {
                rest.split_first_chunk().and_then(|(count, pages)| {
                    let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
                    (pages.len() == count * 8192).then(|| Answer::GetSlruSegment(pages.to_owned()))
                })
            }
            _ => None,
        };
        answer.ok_or_else(|| wrong(&format!("tag {tag} and {} bytes", rest.len())))
    }

    /// One request and its answer.
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn ask(&mut self, ask: Ask, lsns: Lsns) -> Result<Answer, ClientError> {
        let sent = self.send(ask, lsns)?;
        self.receive(&sent)
    }

    /// Many requests, [`WINDOW`] of them under way at once, and their answers in order.
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn ask_all(&mut self, asks: &[Ask], lsns: Lsns) -> Result<Vec<Answer>, ClientError> {
        let mut answers = Vec::with_capacity(asks.len());
        for window in asks.chunks(WINDOW) {
            let mut sent = Vec::with_capacity(window.len());
            for ask in window {
                sent.push(self.send(*ask, lsns)?);
            }
            for sent in &sent {
                answers.push(self.receive(sent)?);
            }
        }
        Ok(answers)
    }

    /// Ends the pagestream; the session can go on.
    /// # Errors
    /// The server does not answer as the protocol says.
    pub fn done(mut self) -> Result<Connection<S>, ClientError> {
        self.connection.stream.write_all(&frame(b'c', &[]))?;
        for wanted in [b'c', b'C', b'Z'] {
            let (tag, body) = self.connection.message()?;
            if tag != wanted {
                return Err(out_of_protocol("the end of a pagestream", tag, &body));
            }
        }
        Ok(self.connection)
    }
}

impl Ask {
    fn encode(self) -> (u8, Vec<u8>) {
        let fork = |rel: RelationFork| {
            let mut body = Vec::new();
            for number in [rel.tablespace, rel.database, rel.relation] {
                body.extend(number.to_be_bytes());
            }
            body.push(rel.fork);
            body
        };
        match self {
            Ask::Exists(rel) => (0, fork(rel)),
            Ask::Nblocks(rel) => (1, fork(rel)),
            Ask::GetPage(rel, block) => (2, [fork(rel), block.to_be_bytes().to_vec()].concat()),
            Ask::DbSize(database) => (3, database.to_be_bytes().to_vec()),
            Ask::GetSlruSegment(kind, segment) => {
                (4, [vec![kind], segment.to_be_bytes().to_vec()].concat())
            }
        }
    }
}

fn out_of_protocol(place: &str, tag: u8, body: &[u8]) -> ClientError {
    let tag = char::from(tag);
    ClientError::Protocol(format!("{place}: message {tag:?} of {} bytes", body.len()))
}

/// Requests under way at once in [`PageClient::ask_all`].
pub const WINDOW: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);
