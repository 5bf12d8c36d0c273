//! A stub of Google Cloud Storage's XML interface: what `object_store` asks of it, from memory, and no more. It shows
//! that the requests are made and the answers understood, not how Google's servers behave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use object_store::path::Path;

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The running stub; stops when dropped.
pub struct GcsStub {
    port: u16,
    stopped: Arc<AtomicBool>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl GcsStub {
    /// Starts it on a free port of 127.0.0.1. Any bucket exists.
    /// # Panics
    /// If the system gives no port or no thread.
    pub fn start() -> GcsStub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let stopped = Arc::new(AtomicBool::new(false));
        let objects = Objects::default();
        let is_stopped = Arc::clone(&stopped);
        let accept = move || {
            for stream in listener.incoming() {
                if is_stopped.load(SeqCst) {
                    return;
                }
                let objects = Arc::clone(&objects);
                let serve = move || stream.map(|stream| serve(stream, &objects));
                Builder::new().spawn(serve).expect("a thread");
            }
        };
        Builder::new()
            .name("gcs-stub".to_owned())
            .spawn(accept)
            .expect("a thread");
        GcsStub { port, stopped }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for GcsStub {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        // Wakes the listener; if that is gone already, all is well.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request per connection. A client that breaks off ends its own thread.
fn serve(mut stream: TcpStream, objects: &Objects) {
    let Some(request) = read_request(&stream) else {
        return;
    };
    let (status, headers, body) = answer(&request, objects);
    let mut head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    head.push_str("last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\netag: \"1\"\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _broken_off = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body));
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // Slashes in the names of objects come encoded.
    let path = Path::from_url_path(path).ok()?.to_string();
    let query = parse_query(query);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len_bytes = headers
        .get("content-length")
        .map_or(Some(0), |n| n.parse().ok())?;
    let mut body = vec![0; len_bytes];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        query,
        headers,
        body,
    })
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn answer(request: &Request, objects: &Objects) -> Answer {
    let mut objects = objects.lock().expect("no thread panics with the lock");
    let plain = |status| (status, Vec::new(), Vec::new());
    let found = objects.get(&request.path);
    match request.method.as_str() {
        "PUT" => {
            let if_absent = request
                .headers
                .get("x-goog-if-generation-match")
                .is_some_and(|g| g == "0");
            if if_absent && found.is_some() {
                return plain("412 Precondition Failed");
            }
            objects.insert(request.path.clone(), request.body.clone());
            plain("200 OK")
        }
        "DELETE" => match objects.remove(&request.path) {
            Some(_) => plain("204 No Content"),
            None => plain("404 Not Found"),
        },
        "GET" if request.query.contains_key("list-type") => list(request, &objects),
        "GET" => match found {
            Some(body) => get(request, body),
            None => plain("404 Not Found"),
        },
        _ => plain("405 Method Not Allowed"),
    }
}

fn get(request: &Request, body: &[u8]) -> Answer {
    let range = request.headers.get("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    let Some((first, last)) = range else {
        return ("200 OK", Vec::new(), body.to_vec());
    };
    if first >= body.len() {
        return ("416 Range Not Satisfiable", Vec::new(), Vec::new());
    }
    let last = last.min(body.len() - 1);
    let content_range = format!("bytes {first}-{last}/{}", body.len());
    let headers = vec![("content-range", content_range)];
    ("206 Partial Content", headers, body[first..=last].to_vec())
}

fn list(request: &Request, objects: &BTreeMap<String, Vec<u8>>) -> Answer {
    let of = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (of("prefix"), of("start-after"));
    let bucket = format!("{}/", request.path);
    let mut xml = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    for (path, body) in objects {
        let Some(key) = path.strip_prefix(&bucket) else {
            continue;
        };
        if key.starts_with(&prefix) && key > after.as_str() {
            xml.push_str(&format!(
                "<Contents><Key>{key}</Key><Size>{}</Size>\
                 <LastModified>2026-01-01T00:00:00Z</LastModified></Contents>",
                body.len()
            ));
        }
    }
    xml.push_str("</ListBucketResult>");
    ("200 OK", Vec::new(), xml.into_bytes())
}
