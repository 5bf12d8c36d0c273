//! The `pageserver` program as an operator runs it: a site (data directory, configuration, keyring, environment), commands
//! on it, and servers on free ports of 127.0.0.1 that end with the test.
//!
//! The program is the one beside the tests, which `cargo test --workspace` builds; a test of this package alone takes
//! the one that was built last.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::page_client::{Connection, PageClient, dial};

/// Everything one deployment has on this machine, in a temporary folder.
pub struct Site {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Site {
    /// A site with the object store in its data directory, made by `pageserver init`. `settings` is TOML by table:
    /// `[("pages", "connections_max = 4")]`; ports and a small cache are set where it sets none.
    /// # Panics
    /// `init` fails.
    pub fn new(settings: &[(&str, &str)]) -> Site {
        Site::with_variables(settings, &[])
    }

    /// The same, with variables in the environment of every command.
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_variables(settings: &[(&str, &str)], variables: &[(&str, &str)]) -> Site {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let site = Site {
            folder,
            variables: variables.iter().map(owned).collect(),
        };
        site.configure(settings);
        site.succeed(&["init"]);
        site
    }

    /// Writes the configuration anew.
    /// # Panics
    /// The file can't be written.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let mut text = String::new();
        for (table, key, value) in STANDARD {
            text.push_str(&format!("[{table}]\n"));
            let own = settings.iter().filter(|(name, _)| *name == table);
            let own: String = own.map(|(_, lines)| format!("{lines}\n")).collect();
            if !own.lines().any(|line| line.starts_with(key)) {
                text.push_str(&format!("{key} = {value}\n"));
            }
            text.push_str(&own);
        }
        let is_other = |(name, _): &&(&str, &str)| STANDARD.iter().all(|(known, ..)| known != name);
        let others = settings.iter().filter(is_other);
        others.for_each(|(name, lines)| text.push_str(&format!("[{name}]\n{lines}\n")));
        fs::create_dir_all(self.data_dir()).expect("the data directory");
        fs::write(self.data_dir().join("pageserver.toml"), text).expect("the configuration");
    }

    /// A path in the site's folder, for files of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// The keyring.
    pub fn keyring(&self) -> PathBuf {
        self.path("config/pageserver/keyring")
    }

    /// The files of all stored layers, of a store in the data directory.
    pub fn layer_files(&self) -> Vec<PathBuf> {
        self.stored_files("layers")
    }

    /// The files of all objects below folders of this name, of a store in the data directory.
    /// # Panics
    /// There is no such store.
    pub fn stored_files(&self, kind: &str) -> Vec<PathBuf> {
        let root = self.data_dir().join("objects");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of the store") {
                let path = entry.expect("an entry").path();
                let is_meant = |path: &Path| {
                    let inner = path.strip_prefix(&root).expect("below the root");
                    inner.components().any(|part| part.as_os_str() == kind)
                };
                if path.is_dir() {
                    folders.push(path);
                } else if is_meant(&path) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// A command of the program on this site, not started.
    /// # Panics
    /// The program was not built.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", self.folder.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .envs(self.variables.iter().map(|(n, v)| (n, v)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    /// # Panics
    /// It can't be started.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    /// Runs a command that must succeed; what it printed.
    /// # Panics
    /// It does not.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {errors}",
            output.status
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that must succeed and print JSON.
    /// # Panics
    /// It does not.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.succeed(arguments);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// Runs a command that must end with this exit code; all it printed, standard output first.
    /// # Panics
    /// It ends otherwise.
    pub fn fail(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    /// Makes the tenant `acme` and imports `source` as its branch `main`; the new branch.
    /// # Panics
    /// The import fails.
    pub fn import(&self, source: &str) -> Branch {
        self.import_with(source, &[])
    }

    /// The same with more arguments.
    /// # Panics
    /// The import fails.
    pub fn import_with(&self, source: &str, more: &[&str]) -> Branch {
        let arguments = ["import", source, "acme/main", "--create-tenant", "--json"];
        let made = self.json(&[&arguments, more].concat());
        let tenants = self.json(&["tenant", "list", "--json"]);
        Branch {
            tenant: text(&tenants[0]["id"]),
            id: text(&made["branch"]),
            last_lsn: parse_lsn(&text(&made["stop_lsn"])),
        }
    }

    /// Starts a server and waits until it serves.
    /// # Panics
    /// It does not.
    pub fn serve(&self) -> Server {
        self.serve_by(self.command(&["serve", "--log-format", "json"]))
    }

    /// The same, with every system call of the server's threads written to the file `trace`.
    /// # Panics
    /// It does not serve, or `strace` is not installed.
    pub fn serve_traced(&self, trace: &Path) -> Server {
        let untraced = self.command(&["serve", "--log-format", "json"]);
        // -D: the server stays our child, and its tracer is somebody else's.
        let mut command = Command::new("strace");
        command.env_clear();
        command.args(["-D", "-f", "-qq", "-e", "signal=none", "-o"]);
        command.arg(trace);
        command
            .arg(untraced.get_program())
            .args(untraced.get_args());
        for (name, value) in untraced.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = untraced.get_current_dir() {
            command.current_dir(directory);
        }
        self.serve_by(command)
    }

    fn serve_by(&self, mut command: Command) -> Server {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Log::default());
        let kept = Arc::clone(&log);
        let reader = Builder::new()
            .name("server log".to_owned())
            .spawn(move || kept.read(stderr))
            .expect("a thread");
        let mut server = Server {
            child,
            log,
            reader: Some(reader),
            pages: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let line = server.log.wait_for_line("\"serving\"");
        let line: Value = serde_json::from_str(&line).expect("a log line of JSON");
        let address = |name: &str| text(&line[name]).parse().expect("an address");
        (server.pages, server.admin) = (address("pages"), address("admin"));
        server
    }
}

/// An imported branch.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Its tenant's id.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// Its last LSN, which is also the first that can be read.
    pub last_lsn: u64,
}

/// A running server; dropping it kills it, by its process id.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    /// Where pages are served.
    pub pages: SocketAddr,
    /// Where the admin API is.
    pub admin: SocketAddr,
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A pagestream of version 3.
    /// # Panics
    /// The server does not open one.
    pub fn client(&self, branch: &Branch) -> PageClient {
        let stream = dial(self.pages).expect("the server listens");
        let connection = Connection::open(stream, None).expect("a session");
        let pages = connection.pages(3, &branch.tenant, &branch.id);
        pages.expect("a pagestream")
    }

    /// Asks it to stop.
    /// # Panics
    /// It was waited for already.
    pub fn ask_to_stop(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it is there");
    }

    /// Whether it has ended.
    /// # Panics
    /// The system does not say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    /// Asks it to stop, waits for that; status and time it took.
    /// # Panics
    /// It is still there after `STOP_MAX`.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let begun = now();
        self.ask_to_stop();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return (status, begun.elapsed());
            }
            let log = self.log.text();
            assert!(begun.elapsed() < STOP_MAX, "it does not stop: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it at once, as a crash would.
    /// # Panics
    /// It was gone already.
    pub fn kill(mut self) {
        let log = self.log.text();
        assert!(
            self.child.try_wait().expect("our child").is_none(),
            "it ended by itself: {log}"
        );
        self.child.kill().expect("it is there");
        self.child.wait().expect("our child");
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// A request to the admin API on a connection of its own.
    /// # Panics
    /// No answer.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let stream = dial(self.admin).expect("the admin service listens");
        HttpConnection::new(stream).request(method, path, "", body)
    }

    /// The sum of a metric's samples whose line begins so.
    /// # Panics
    /// There is none.
    pub fn metric(&self, prefix: &str) -> u64 {
        let (status, page) = self.http("GET", "/metrics", "");
        assert_eq!(status, 200, "{page}");
        let values: Vec<u64> = page
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(!values.is_empty(), "no metric {prefix} in {page}");
        values.iter().sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ended = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.text());
        }
    }
}

/// A connection of HTTP/1.1 that is kept open from one request to the next.
pub struct HttpConnection<S: Read + Write>(BufReader<S>);

impl<S: Read + Write> HttpConnection<S> {
    /// Over a stream that was just opened.
    pub fn new(stream: S) -> HttpConnection<S> {
        HttpConnection(BufReader::new(stream))
    }

    /// One request with these header lines, each with its end of line; status and body.
    /// # Panics
    /// No well-formed answer comes.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        );
        let stream = self.0.get_mut();
        stream.write_all(request.as_bytes()).expect("sent");
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            line.trim_end().to_owned()
        };
        let status = line();
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("{method} {path}: {status:?}"));
        let mut length = 0;
        loop {
            let header = line().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            assert!(!header.starts_with("transfer-encoding"), "{header}");
            if header.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the body");
        (status, String::from_utf8(body).expect("UTF-8"))
    }
}

#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    text: String,
    ended: bool,
}

impl Log {
    fn read(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { break };
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.text.push_str(&line);
            state.text.push('\n');
            self.changed.notify_all();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended = true;
        self.changed.notify_all();
    }

    fn text(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.text.clone()
    }

    fn wait_for_line(&self, wanted: &str) -> String {
        let begun = now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = state.text.lines().find(|line| line.contains(wanted)) {
                return line.to_owned();
            }
            assert!(
                !state.ended && begun.elapsed() < START_MAX,
                "no server: {}",
                state.text
            );
            let waited = self.changed.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// `X/X` as a number.
/// # Panics
/// It is no LSN.
pub fn parse_lsn(text: &str) -> u64 {
    let halves = text.split_once('/').map(|(high, low)| {
        let half = |digits| u64::from_str_radix(digits, 16).expect("hex digits");
        (half(high) << 32) | half(low)
    });
    halves.unwrap_or_else(|| panic!("{text:?} is no LSN"))
}

/// The program beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let folder = tests.parent().and_then(Path::parent);
    let program = folder.expect("a build folder").join("pageserver");
    assert!(
        program.is_file(),
        "{} is not built: cargo build --release -p pageserver, or cargo test --release --workspace",
        program.display()
    );
    program
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[expect(clippy::disallowed_methods, reason = "tests have no main")]
fn now() -> Instant {
    Instant::now()
}

/// What every test wants: table, key, value.
const STANDARD: [(&str, &str, &str); 4] = [
    ("pages", "listen", "\"127.0.0.1:0\""),
    ("admin", "listen", "\"127.0.0.1:0\""),
    ("cache", "size", "\"128MiB\""),
    ("runtime", "cores", "2"),
];
const START_MAX: Duration = Duration::from_secs(60);
/// A little more than a server may take.
const STOP_MAX: Duration = Duration::from_secs(15);
