//! The [`Objects`] of `object_store`: S3, Azure, Google, a local directory, memory. One call is one request.
//!
//! Its errors are told apart by what a caller can do, and their texts are cut down: a URL's query and everything but
//! code and message of a server's answer is dropped, since both may carry signatures.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};

use super::objects::{ListedObject, Objects, StoreError};

/// A bare store. Made by [`StoreUrl::connect`](super::store_url::StoreUrl::connect). Its futures are `Send` and must be
/// polled inside a tokio runtime.
#[derive(Clone, Debug)]
pub struct UrlObjects {
    store: Arc<dyn ObjectStore>,
}

impl UrlObjects {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> UrlObjects {
        UrlObjects { store }
    }
}

impl Objects for UrlObjects {
    type Body = BoxStream<'static, Result<Bytes, StoreError>>;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let want_bytes = range.end - range.start;
        let said = |error| match store_error(path, error) {
            // The store knows what it has, not what was wanted.
            StoreError::ShortBody {
                path, got_bytes, ..
            } => StoreError::ShortBody {
                path,
                want_bytes,
                got_bytes,
            },
            other => other,
        };
        let location = location(path)?;
        let answer = self
            .store
            .get_opts(&location, options)
            .await
            .map_err(said)?;
        if answer.range != range {
            let got = answer.range;
            return Err(StoreError::ShortBody {
                path: path.to_owned(),
                want_bytes,
                got_bytes: got.end.saturating_sub(got.start),
            });
        }
        let path = path.to_owned();
        Ok(match answer.payload {
            GetResultPayload::Stream(body) => {
                body.map_err(move |error| store_error(&path, error)).boxed()
            }
            GetResultPayload::File(file, _) => file_body(Arc::new(file), path, range),
        })
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        let said = |error| store_error(path, error);
        let answer = self.store.get(&location(path)?).await.map_err(said)?;
        answer.bytes().await.map_err(said)
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        let location = location(path)?;
        let payload = PutPayload::from_bytes(body);
        match self
            .store
            .put_opts(&location, payload, PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(()),
            Err(Error::Precondition { .. } | Error::NotModified { .. }) => {
                Err(StoreError::AlreadyExists {
                    path: path.to_owned(),
                })
            }
            // There is nothing to be found by a put but its bucket.
            Err(Error::NotFound { .. }) => Err(no_bucket(path)),
            Err(error) => Err(store_error(path, error)),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let directory = match prefix.trim_end_matches('/') {
            "" => None,
            directory => Some(location(directory)?),
        };
        let listing = match after {
            Some(after) => self
                .store
                .list_with_offset(directory.as_ref(), &location(after)?),
            None => self.store.list(directory.as_ref()),
        };
        let listed = listing.map_ok(|meta| ListedObject {
            path: meta.location.into(),
            size_bytes: meta.size,
        });
        let mut listed: Vec<_> = listed.try_collect().await.map_err(|error| match error {
            Error::NotFound { .. } => no_bucket(prefix),
            error => store_error(prefix, error),
        })?;
        // Directories are walked in any order, and a server's order is its own affair.
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.store.delete(&location(path)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error(path, error)),
        }
    }
}

fn location(path: &str) -> Result<Path, StoreError> {
    Path::parse(path).map_err(|error| StoreError::Refused {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// A range of a local file, read off the runtime's threads in pieces as large as an extent: one hop each.
fn file_body(
    file: Arc<File>,
    path: String,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let pieces = range.clone().step_by(FILE_PIECE_BYTES).map(move |at| {
        let piece_bytes = (range.end - at).min(FILE_PIECE_BYTES as u64);
        (at, usize::try_from(piece_bytes).expect("at most one piece"))
    });
    stream::iter(pieces)
        .then(move |(at, piece_bytes)| {
            let (file, path) = (Arc::clone(&file), path.clone());
            async move {
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; piece_bytes];
                    file.read_exact_at(&mut piece, at).map(|()| piece)
                });
                let unavailable = |reason: String| StoreError::Unavailable { path, reason };
                match read.await {
                    Ok(Ok(piece)) => Ok(Bytes::from(piece)),
                    Ok(Err(error)) => Err(unavailable(error.to_string())),
                    Err(error) => Err(unavailable(error.to_string())),
                }
            }
        })
        .boxed()
}

fn no_bucket(path: &str) -> StoreError {
    StoreError::Refused {
        path: path.to_owned(),
        reason: "there is no such bucket or container".to_owned(),
    }
}

/// What an error of `object_store` means for a request on `path`.
pub(super) fn store_error(path: &str, error: Error) -> StoreError {
    let path = path.to_owned();
    let text = error.to_string();
    match &error {
        Error::NotFound { .. }
            if ["NoSuchBucket", "ContainerNotFound"]
                .iter()
                .any(|code| text.contains(code)) =>
        {
            no_bucket(&path)
        }
        Error::NotFound { .. } => StoreError::NotFound { path },
        Error::AlreadyExists { .. } => StoreError::AlreadyExists { path },
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Refused {
            path,
            reason: presentable(&text),
        },
        _ if is_permission_denied(&error) => StoreError::Refused {
            path,
            reason: presentable(&text),
        },
        _ if OUT_OF_RANGE.iter().any(|sign| text.contains(sign)) => StoreError::ShortBody {
            path,
            want_bytes: 0,
            got_bytes: 0,
        },
        _ => StoreError::Unavailable {
            path,
            reason: presentable(&text),
        },
    }
}

/// Whether the file system, somewhere below, said that it may not.
fn is_permission_denied(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::PermissionDenied;
        }
        cause = error.source();
    }
    false
}

/// An error's text without what may be a credential, in one line of bounded length.
fn presentable(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(value, _)| value)
    };
    let (head, answer) = match text.find('<') {
        Some(at) => {
            let code = element("Code").unwrap_or("an answer in markup");
            let message = element("Message").unwrap_or_default();
            (&text[..at], format!("{code} {message}"))
        }
        None => (text, String::new()),
    };
    let words = head
        .split_whitespace()
        .map(|word| match word.split_once('?') {
            Some((address, _)) if address.contains("://") => address,
            _ => word,
        });
    let line = words
        .chain(answer.split_whitespace())
        .collect::<Vec<_>>()
        .join(" ");
    line.chars().take(REASON_CHARS_MAX).collect()
}

const FILE_PIECE_BYTES: usize = 256 * 1024;
const REASON_CHARS_MAX: usize = 300;
/// How stores say that a range begins behind the object's end. The crate has no variant for it.
const OUT_OF_RANGE: [&str; 3] = ["416 ", "InvalidRange", "Wanted range starting at"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_code_and_message_and_lose_queries_and_bodies() {
        let text = "Generic S3 error: error sending request for url \
                    (https://account.example/c/x?sv=2020&sig=SECRET) status 403: \
                    <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
                    <Message>It does not match.</Message><StringToSign>SECRET</StringToSign></Error>";
        let shown = presentable(text);
        assert!(!shown.contains("SECRET"), "{shown}");
        for kept in [
            "https://account.example/c/x",
            "SignatureDoesNotMatch It does not match.",
        ] {
            assert!(shown.contains(kept), "{shown}");
        }
        assert_eq!(presentable(&"x".repeat(1000)).len(), REASON_CHARS_MAX);
    }

    #[test]
    fn the_futures_of_a_bare_store_are_send() {
        fn assert_send<T: Send>(_: &T) {}
        let objects = UrlObjects::new(Arc::new(object_store::memory::InMemory::new()));
        assert_send(&objects.get("x", 0..1));
        assert_send(&objects.get_all("x"));
        assert_send(&objects.put_if_absent("x", Bytes::new()));
        assert_send(&objects.list("x", None));
        assert_send(&objects.delete("x"));
    }
}
