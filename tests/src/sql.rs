//! A session of a cluster by the simple query protocol: for servers that come without `psql`, and for tests in which
//! several sessions interleave statement by statement.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

/// An open session of the superuser. Dropping it closes the connection, which ends its transaction.
pub struct Session {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What the server said no with.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct SqlError {
    /// SQLSTATE.
    pub code: String,
    /// The server's words.
    pub message: String,
}

/// Rows of the last result that had some, as text.
pub type Rows = Vec<Vec<Option<String>>>;

impl Session {
    /// Connects to a server on this machine that trusts everybody.
    ///
    /// # Panics
    /// It does not take the connection.
    pub fn open(port: u16, database: &str) -> Session {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_nodelay(true).expect("an option of TCP");
        // Nothing here takes minutes; what hangs shall fail.
        let patience = Some(Duration::from_secs(300));
        stream.set_read_timeout(patience).expect("an option");
        let mut session = Session {
            stream,
            buffer: BytesMut::new(),
        };
        let user = postgres::local_cluster::SUPERUSER;
        let parameters = [("user", user), ("database", database)];
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out).expect("a message");
        session.stream.write_all(&out).expect("sent");
        session.finish().expect("a session");
        session
    }

    /// Runs statements and answers the rows of the last that had some.
    ///
    /// # Panics
    /// The server says no.
    pub fn run(&mut self, sql: &str) -> Rows {
        self.try_run(sql)
            .unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// As [`run`](Self::run), for statements that the server may refuse.
    /// # Errors
    /// What it said.
    pub fn try_run(&mut self, sql: &str) -> Result<Rows, SqlError> {
        self.start(sql);
        self.finish()
    }

    /// Runs each statement by itself, in transactions of their own.
    ///
    /// # Panics
    /// The server says no to one.
    pub fn run_each(&mut self, statements: &[&str]) {
        for sql in statements {
            self.run(sql);
        }
    }

    /// The first column of the first row.
    ///
    /// # Panics
    /// The server says no, or there is no such value.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.run(sql);
        let first = rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next());
        first.flatten().unwrap_or_else(|| panic!("no value: {sql}"))
    }

    /// Sends statements without waiting for the answer: they may have to wait for another session.
    ///
    /// # Panics
    /// The connection is lost.
    pub fn start(&mut self, sql: &str) {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).expect("a message");
        self.stream.write_all(&out).expect("sent");
    }

    /// Waits for the answer to what was [started](Self::start).
    /// # Errors
    /// The server says no.
    ///
    /// # Panics
    /// The connection is lost.
    pub fn finish(&mut self) -> Result<Rows, SqlError> {
        use postgres_protocol::message::backend::DataRowBody;
        let mut rows = Rows::new();
        let mut failed = None;
        let texts = |body: &DataRowBody| {
            let mut row = Vec::new();
            let mut ranges = body.ranges();
            use fallible_iterator::FallibleIterator;
            while let Some(range) = ranges.next().expect("a well-formed row") {
                let text = range.map(|range| &body.buffer()[range]);
                row.push(text.map(|text| String::from_utf8_lossy(text).into_owned()));
            }
            row
        };
        loop {
            match self.receive() {
                Message::RowDescription(_) => rows.clear(),
                Message::DataRow(body) => rows.push(texts(&body)),
                Message::ErrorResponse(body) => failed = Some(error_of(&body)),
                Message::ReadyForQuery(_) => match failed {
                    None => return Ok(rows),
                    Some(error) => return Err(error),
                },
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Message {
        loop {
            if let Some(message) = Message::parse(&mut self.buffer).expect("a message") {
                return message;
            }
            let mut chunk = [0; 16 << 10];
            let count = self.stream.read(&mut chunk).expect("an answer in time");
            assert!(count > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }
}

fn error_of(body: &postgres_protocol::message::backend::ErrorResponseBody) -> SqlError {
    use fallible_iterator::FallibleIterator;
    let mut error = SqlError {
        code: String::new(),
        message: String::new(),
    };
    let mut fields = body.fields();
    while let Some(field) = fields.next().expect("a well-formed error") {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => error.code = text,
            b'M' => error.message = text,
            _ => {}
        }
    }
    error
}
