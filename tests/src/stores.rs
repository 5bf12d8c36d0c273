//! Servers that play object stores, on free ports of 127.0.0.1, stopped when dropped: moto for S3, Azurite for Azure,
//! and a stub of our own for Google, for which there is no server to be had.
//!
//! A server that is not installed is a failure that names what installs it, not a test left out.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use engine::store::store_url::StoreUrl;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use rustix::process::{Pid, Signal, kill_process};

use crate::gcs_stub::GcsStub;
use crate::tools;

/// A running server and the store it serves: an empty bucket and a prefix.
pub struct StoreServer {
    store: StoreUrl,
    endpoint: String,
    process: Process,
}

enum Process {
    Child(Child),
    Stub(#[expect(dead_code, reason = "it stops when dropped")] GcsStub),
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Process::Child(child) = self {
            // It may have ended by itself.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

impl StoreServer {
    /// moto, which speaks S3.
    /// # Panics
    /// If it is not installed or does not start.
    pub fn s3() -> StoreServer {
        let port = free_port();
        let mut command = Command::new(tools::moto_server());
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = start(command, port, "moto (pip install 'moto[server]')");
        let endpoint = format!("http://127.0.0.1:{port}");
        let made = ureq::put(format!("{endpoint}/pages")).send_empty();
        made.expect("moto makes a bucket");
        StoreServer {
            store: store(
                "s3://pages/some/prefix",
                &[
                    ("AWS_ENDPOINT_URL", &endpoint),
                    ("AWS_REGION", "us-east-1"),
                    ("AWS_ACCESS_KEY_ID", "test"),
                    ("AWS_SECRET_ACCESS_KEY", "test"),
                ],
            ),
            endpoint,
            process: Process::Child(child),
        }
    }

    /// Azurite, which speaks Azure's blob protocol.
    /// # Panics
    /// If it is not installed or does not start.
    pub fn azure() -> StoreServer {
        let port = free_port();
        let mut command = Command::new(tools::azurite_blob());
        command.args(["--inMemoryPersistence", "--silent", "--skipApiVersionCheck"]);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        let child = start(command, port, "azurite (npm install azurite)");
        let endpoint = format!("http://127.0.0.1:{port}/{AZURITE_ACCOUNT}");
        make_azure_container(&format!("{endpoint}/pages?restype=container"));
        StoreServer {
            store: store(
                "az://pages/some/prefix",
                &[
                    ("AZURE_STORAGE_ENDPOINT", &endpoint),
                    ("AZURE_STORAGE_ACCOUNT_NAME", AZURITE_ACCOUNT),
                    ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY),
                ],
            ),
            endpoint,
            process: Process::Child(child),
        }
    }

    /// The stub of Google Cloud Storage. The key switches authorization off: without one the client would ask the
    /// metadata service of the machine it runs on for a token, `GOOGLE_SKIP_SIGNATURE` or not, which only reads heed.
    pub fn google() -> StoreServer {
        let stub = GcsStub::start();
        let endpoint = format!("http://127.0.0.1:{}", stub.port());
        StoreServer {
            store: store(
                "gs://pages/some/prefix",
                &[
                    ("GOOGLE_BASE_URL", &endpoint),
                    ("GOOGLE_SERVICE_ACCOUNT_KEY", GOOGLE_KEY),
                ],
            ),
            endpoint,
            process: Process::Stub(stub),
        }
    }

    /// The server's address, `http://…`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes the server hang: it takes connections and requests, and answers none until it is resumed.
    /// # Panics
    /// If it has ended.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    /// # Panics
    /// If it has ended.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let Process::Child(child) = &self.process else {
            panic!("a server in this process can't be stopped");
        };
        let pid = i32::try_from(child.id()).expect("a process id");
        let pid = Pid::from_raw(pid).expect("not zero");
        kill_process(pid, signal).expect("it is there");
    }

    /// The store in it.
    pub fn store(&self) -> &StoreUrl {
        &self.store
    }
}

/// A store by URL with just these variables.
/// # Panics
/// If the URL is not one of a store.
pub fn store(url: &str, variables: &[(&str, &str)]) -> StoreUrl {
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    StoreUrl::parse(url, &variables).expect("a store's URL")
}

/// A port of 127.0.0.1 that nobody listens on at the moment.
/// # Panics
/// If the system has none left.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Starts a server and waits until it accepts connections.
fn start(mut command: Command, port: u16, package: &str) -> Child {
    let program = command.get_program().to_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| {
        let program = Path::new(&program).display();
        panic!("{program}: {error}; tests/tools/install installs it, package {package}")
    });
    for _ in 0..READY_TRIES {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return child;
        }
        if let Ok(Some(status)) = child.try_wait() {
            panic!(
                "{} ended at its start: {status}",
                Path::new(&program).display()
            );
        }
        std::thread::sleep(READY_PAUSE);
    }
    let _gone = child.kill();
    panic!(
        "{} does not listen on port {port}",
        Path::new(&program).display()
    );
}

/// The client library makes no containers, but signs any request.
fn make_azure_container(url: &str) {
    let key = AzureAccessKey::try_new(AZURITE_KEY).expect("a key in base64");
    let credential = AzureCredential::AccessKey(key);
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = "PUT".parse().expect("a method");
    *request.uri_mut() = url.parse().expect("a URL");
    request
        .headers_mut()
        .insert("content-length", "0".parse().expect("a header value"));
    AzureAuthorizer::new(&credential, AZURITE_ACCOUNT)
        .try_authorize(&mut request)
        .expect("a request that can be signed");
    let mut signed = ureq::put(url);
    for (name, value) in request.headers() {
        signed = signed.header(name.as_str(), value.to_str().expect("printable"));
    }
    signed.send_empty().expect("Azurite makes a container");
}

/// Azurite's account and key are the same everywhere and written in its manual.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const GOOGLE_KEY: &str =
    r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;
const READY_TRIES: u32 = 1200;
const READY_PAUSE: Duration = Duration::from_millis(50);
