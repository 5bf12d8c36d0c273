//! A pagestream client as small as one can be: version 3, blocking, for the demo's own questions.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use engine::types::PAGE_BYTES;

use crate::pagestream::codec::RelationFork;

/// One connection to the page service.
pub(super) struct PageClient {
    input: BufReader<TcpStream>,
    output: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl PageClient {
    /// Connects and opens a pagestream on a branch.
    pub(super) fn open(server: SocketAddr, tenant: &str, branch: &str) -> io::Result<PageClient> {
        let output = TcpStream::connect(server)?;
        output.set_nodelay(true)?;
        let mut client = PageClient {
            input: BufReader::with_capacity(64 << 10, output.try_clone()?),
            output,
            request: Vec::new(),
            answer: Vec::new(),
        };
        client
            .output
            .write_all(b"\0\0\0\x13\0\x03\0\0user\0demo\0\0")?;
        while client.receive()? != b'Z' {}
        let query = format!("pagestream_v3 {tenant} {branch}\0");
        let length = u32::try_from(query.len() + 4).expect("a short query");
        client
            .output
            .write_all(&[b"Q", &length.to_be_bytes()[..], query.as_bytes()].concat())?;
        match client.receive()? {
            b'W' => Ok(client),
            _ => Err(client.refusal()),
        }
    }

    /// Sends requests for `blocks` of a fork at the latest LSN, in one write.
    pub(super) fn ask(
        &mut self,
        rel: RelationFork,
        blocks: impl Iterator<Item = u32>,
    ) -> io::Result<()> {
        self.request.clear();
        for block in blocks {
            self.request.extend_from_slice(b"d\0\0\0\x2e\x02");
            self.request
                .extend_from_slice(&u64::from(block).to_be_bytes());
            self.request.extend_from_slice(&u64::MAX.to_be_bytes());
            self.request.extend_from_slice(&1_u64.to_be_bytes());
            for field in [rel.tablespace, rel.database, rel.relation] {
                self.request.extend_from_slice(&field.to_be_bytes());
            }
            self.request.push(rel.fork);
            self.request.extend_from_slice(&block.to_be_bytes());
        }
        self.output.write_all(&self.request)
    }

    /// The next answer, which must be a page.
    pub(super) fn page(&mut self) -> io::Result<&[u8]> {
        let kind = self.receive()?;
        if kind != b'd' || self.answer.first() != Some(&GET_PAGE_ANSWER) {
            return Err(self.refusal());
        }
        let page_at = self.answer.len().checked_sub(PAGE_BYTES);
        page_at
            .map(|at| &self.answer[at..])
            .ok_or_else(|| io::Error::other("a short page"))
    }

    fn receive(&mut self) -> io::Result<u8> {
        let mut head = [0; 5];
        self.input.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(4..=FRAME_BYTES_MAX).contains(&length) {
            return Err(io::Error::other("not the page protocol"));
        }
        self.answer.resize(length - 4, 0);
        self.input.read_exact(&mut self.answer)?;
        Ok(kind)
    }

    fn refusal(&self) -> io::Error {
        let text = String::from_utf8_lossy(&self.answer);
        let shown: String = text.chars().filter(|c| !c.is_control()).collect();
        io::Error::other(format!("the server answered {shown:?}"))
    }
}

const GET_PAGE_ANSWER: u8 = 102;
const FRAME_BYTES_MAX: usize = 1 << 20;
