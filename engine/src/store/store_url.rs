//! Which object store a URL means, and how it is reached.
//!
//! | URL | store | environment |
//! | --- | --- | --- |
//! | `file:///directory`, or a plain path | local directory, made with mode 0700 | |
//! | `s3://bucket/prefix` | S3 and anything that speaks it | `AWS_*` (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …) |
//! | `az://container/prefix`, `azure://…` | Azure blobs | `AZURE_*` (`AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, …) |
//! | `gs://bucket/prefix` | Google Cloud Storage | `GOOGLE_*` (`GOOGLE_SERVICE_ACCOUNT`, …) |
//! | `memory://` | memory of this process, for tests | |
//!
//! A URL carries no credentials: one that does is refused, because URLs are printed. Plain HTTP is allowed to
//! loopback addresses, elsewhere only if the environment says so (`AWS_ALLOW_HTTP` and its siblings).
//!
//! A put into a local directory writes `name#1` first, makes it durable and links it to `name`. A crash in between leaves
//! `name#1`, which no listing and no read shows: it costs its space, and with the server stopped it can be deleted.
//!
//! `object_store` is told not to retry and to have no time limit but that of connecting: both are `reliable`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::{Host, Url};

use super::objects::StoreError;
use super::url_objects::{UrlObjects, store_error};

/// Why a text does not name a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// It is no URL and no path.
    #[error("store {url:?}: {reason}")]
    Malformed {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another scheme than those above.
    #[error("store scheme {scheme:?}: expected file, s3, az, azure, gs or memory")]
    UnknownScheme {
        /// What stands before the colon.
        scheme: String,
    },
    /// A password, key or query in the URL. The URL is not repeated.
    #[error("a store's URL has no password and no query: credentials belong in the environment")]
    Credentials,
}

/// A store that was named. Cheap to clone. `Debug` and `Display` show no credentials.
#[derive(Clone)]
pub struct StoreUrl {
    text: String,
    place: Place,
    prefix: Path,
    /// The variables of this kind of store.
    environment: BTreeMap<String, String>,
}

#[derive(Clone)]
enum Place {
    Directory(PathBuf),
    /// Shared by all connections of this value and its clones.
    Memory(Arc<InMemory>),
    S3(Url),
    Azure(Url),
    Google(Url),
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({})", self.text)
    }
}

impl StoreUrl {
    /// Understands `text`; touches nothing. Of `environment` only the variables of the named kind of store are kept.
    /// # Errors
    /// [`StoreUrlError`].
    pub fn parse(
        text: &str,
        environment: &BTreeMap<String, String>,
    ) -> Result<StoreUrl, StoreUrlError> {
        let malformed = |reason: &dyn fmt::Display| StoreUrlError::Malformed {
            url: text.to_owned(),
            reason: reason.to_string(),
        };
        if !text.contains("://") {
            let directory = std::path::absolute(text).map_err(|error| malformed(&error))?;
            return Ok(StoreUrl::directory(directory));
        }
        let url = Url::parse(text).map_err(|error| malformed(&error))?;
        if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(StoreUrlError::Credentials);
        }
        let (place, variables) = match url.scheme() {
            "file" => {
                let directory = url
                    .to_file_path()
                    .map_err(|()| malformed(&"expected file:///absolute/path"))?;
                return Ok(StoreUrl::directory(directory));
            }
            "memory" => (Place::Memory(Arc::new(InMemory::new())), "MEMORY_"),
            "s3" => (Place::S3(url.clone()), "AWS_"),
            "az" | "azure" => (Place::Azure(url.clone()), "AZURE_"),
            "gs" => (Place::Google(url.clone()), "GOOGLE_"),
            other => {
                return Err(StoreUrlError::UnknownScheme {
                    scheme: other.to_owned(),
                });
            }
        };
        if url.host_str().is_none_or(str::is_empty) && !matches!(place, Place::Memory(_)) {
            return Err(malformed(&"no bucket"));
        }
        let prefix = Path::from_url_path(url.path()).map_err(|error| malformed(&error))?;
        let environment = environment
            .iter()
            .filter(|(name, _)| name.starts_with(variables))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect();
        Ok(StoreUrl {
            text: text.to_owned(),
            place,
            prefix,
            environment,
        })
    }

    fn directory(directory: PathBuf) -> StoreUrl {
        StoreUrl {
            text: format!("file://{}", directory.display()),
            place: Place::Directory(directory),
            prefix: Path::default(),
            environment: BTreeMap::new(),
        }
    }

    /// Sets a client up; a local directory is made if it is not there. Each thread calls it by itself: connections
    /// belong to a runtime. No request is made.
    /// # Errors
    /// `Refused`: settings are missing or contradictory, or the directory cannot be made.
    pub fn connect(&self) -> Result<UrlObjects, StoreError> {
        let store = self.build().map_err(|error| StoreError::Refused {
            path: self.text.clone(),
            reason: error,
        })?;
        Ok(UrlObjects::new(store, self.lists_in_order()))
    }

    /// Whether listings come sorted by name. A directory is walked as it lies on the disk, and the directory buckets of
    /// S3 (one zone, low latency) are the one kind of bucket that sorts nothing.
    fn lists_in_order(&self) -> bool {
        match &self.place {
            Place::Directory(_) => false,
            Place::S3(url) => !url
                .host_str()
                .is_some_and(|bucket| bucket.ends_with("--x-s3")),
            Place::Memory(_) | Place::Azure(_) | Place::Google(_) => true,
        }
    }

    fn build(&self) -> Result<Arc<dyn ObjectStore>, String> {
        let said = |error: object_store::Error| store_error(&self.text, error).to_string();
        // The three builders have the same methods and no trait in common.
        macro_rules! remote {
            ($builder:ty, $url:expr) => {{
                let builder = <$builder>::new()
                    .with_client_options(self.client_options())
                    .with_retry(no_retries());
                let known =
                    |(name, value): (&String, &String)| Some((name.parse().ok()?, value.clone()));
                let store = self
                    .environment
                    .iter()
                    .filter_map(known)
                    .fold(builder, |builder, (key, value)| {
                        builder.with_config(key, value)
                    })
                    .with_url($url.as_str())
                    .build()
                    .map_err(said)?;
                Arc::new(PrefixStore::new(store, self.prefix.clone()))
            }};
        }
        Ok(match &self.place {
            Place::Directory(directory) => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
                    .map_err(|error| error.to_string())?;
                let store = LocalFileSystem::new_with_prefix(directory).map_err(said)?;
                Arc::new(store.with_fsync(true))
            }
            Place::Memory(memory) => Arc::new(Arc::clone(memory)),
            Place::S3(url) => remote!(AmazonS3Builder, url),
            Place::Azure(url) => remote!(MicrosoftAzureBuilder, url),
            Place::Google(url) => remote!(GoogleCloudStorageBuilder, url),
        })
    }

    /// No time limits but that of connecting; plain HTTP where every configured endpoint is on loopback.
    fn client_options(&self) -> ClientOptions {
        let is_endpoint = |name: &str| name.contains("endpoint") || name.contains("base_url");
        let mut endpoints = self
            .environment
            .iter()
            .filter(|(name, _)| is_endpoint(name))
            .peekable();
        let loopback_only =
            endpoints.peek().is_some() && endpoints.all(|(_, endpoint)| is_loopback(endpoint));
        ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(loopback_only)
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let url = Url::parse(endpoint);
    match url.as_ref().ok().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreUrl, StoreUrlError> {
        StoreUrl::parse(text, &BTreeMap::new())
    }

    #[test]
    fn a_url_with_credentials_is_refused_and_not_repeated() {
        for url in [
            "s3://key:secret@bucket/prefix",
            "az://container/prefix?sig=secret",
            "gs://bucket/#secret",
        ] {
            let error = parse(url).expect_err("credentials in a URL");
            assert_eq!(error, StoreUrlError::Credentials);
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let unknown = parse("ftp://host/x").expect_err("no such scheme");
        assert!(unknown.to_string().contains("\"ftp\""), "{unknown}");
        assert!(parse("s3:///prefix").is_err(), "no bucket");
        assert!(parse("file://host/x").is_err(), "a host in a file URL");
    }

    #[test]
    fn debug_shows_no_environment() {
        let environment =
            BTreeMap::from([("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter2".to_owned())]);
        let url = StoreUrl::parse("s3://bucket/prefix", &environment).expect("valid");
        assert!(!format!("{url:?} {url}").contains("hunter2"));
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for (endpoint, loopback) in [
            ("http://127.0.0.1:9000", true),
            ("http://localhost:9000/", true),
            ("http://[::1]:9000", true),
            ("http://10.0.0.1:9000", false),
            ("http://localhost.example.com", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_loopback(endpoint), loopback, "{endpoint}");
        }
    }

    #[test]
    fn a_directory_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("store");
        let url = parse(root.to_str().expect("UTF-8")).expect("a path");
        url.connect().expect("made");
        let mode = std::fs::metadata(&root).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
