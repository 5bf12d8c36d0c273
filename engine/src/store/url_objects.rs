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
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutPayload,
};

use super::objects::{ListedObject, Objects, StoreError};

/// A bare store. Made by [`StoreUrl::connect`](super::store_url::StoreUrl::connect). Its futures are `Send` and must be
/// polled inside a tokio runtime.
#[derive(Clone, Debug)]
pub struct UrlObjects {
    store: Arc<dyn ObjectStore>,
    lists_in_order: bool,
}

impl UrlObjects {
    /// `lists_in_order`: its listings come sorted by name, page by page.
    pub(super) fn new(store: Arc<dyn ObjectStore>, lists_in_order: bool) -> UrlObjects {
        UrlObjects {
            store,
            lists_in_order,
        }
    }

    /// What the store lists of a directory, behind `after` if it knows how to start there.
    fn listing(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<BoxStream<'static, Result<ObjectMeta, Error>>, StoreError> {
        let directory = match prefix.trim_end_matches('/') {
            "" => None,
            directory => Some(location(directory)?),
        };
        Ok(match after {
            Some(after) => self
                .store
                .list_with_offset(directory.as_ref(), &location(after)?),
            None => self.store.list(directory.as_ref()),
        })
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
        let said = |error| match store_error(path, error) {
            // All it says is that nothing of the range is there.
            StoreError::Truncated { path, .. } => StoreError::Truncated {
                path,
                want_end: range.end,
                object_bytes_max: range.start,
            },
            other => other,
        };
        let location = location(path)?;
        let answer = self
            .store
            .get_opts(&location, options)
            .await
            .map_err(said)?;
        if answer.meta.size < range.end {
            return Err(StoreError::Truncated {
                path: path.to_owned(),
                want_end: range.end,
                object_bytes_max: answer.meta.size,
            });
        }
        if answer.range != range {
            let got = answer.range;
            return Err(StoreError::ShortBody {
                path: path.to_owned(),
                want_bytes: range.end - range.start,
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
        let listing = self.listing(prefix, after)?;
        let mut listed = collect_listing(prefix, listing).await?;
        // A server that does not know how to start behind a name lists from the start.
        if let Some(after) = after {
            listed.retain(|object| object.path.as_str() > after);
        }
        // Directories are walked in any order, and a server's order is its own affair.
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }

    /// In a store that lists in order: as many pages as the answer needs.
    async fn list_first(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        if !self.lists_in_order {
            let mut listed = self.list(prefix, after).await?;
            listed.truncate(count_max);
            return Ok(listed);
        }
        let listing = self.listing(prefix, after)?.try_filter(|meta| {
            // As in `list`.
            std::future::ready(after.is_none_or(|after| meta.location.as_ref() > after))
        });
        collect_listing(prefix, listing.take(count_max)).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.store.delete(&location(path)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error(path, error)),
        }
    }
}

async fn collect_listing(
    prefix: &str,
    listing: impl Stream<Item = Result<ObjectMeta, Error>>,
) -> Result<Vec<ListedObject>, StoreError> {
    let listed = listing.map_ok(|meta| ListedObject {
        path: meta.location.into(),
        size_bytes: meta.size,
    });
    listed.try_collect().await.map_err(|error| match error {
        Error::NotFound { .. } => no_bucket(prefix),
        error => store_error(prefix, error),
    })
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
    let refused = |path: String| StoreError::Refused {
        path,
        reason: presentable(&text),
    };
    let unavailable = |path: String| StoreError::Unavailable {
        path,
        reason: presentable(&text),
    };
    // Which variant an answer becomes depends on the request and the store, so the answer itself comes first.
    match (http_status(&text), element(&text, "Code")) {
        (Some(404), Some("NoSuchBucket" | "ContainerNotFound")) => return no_bucket(&path),
        // S3 met another put of the same name and decided neither: the name may be free still.
        (Some(409), Some("ConditionalRequestConflict")) => return unavailable(path),
        _ => {}
    }
    match &error {
        Error::NotFound { .. } => StoreError::NotFound { path },
        Error::AlreadyExists { .. } => StoreError::AlreadyExists { path },
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => refused(path),
        _ if matches!(http_status(&text), Some(401 | 403)) => refused(path),
        _ if causes(&error).any(is_permission_denied) => refused(path),
        _ if http_status(&text) == Some(416) || causes(&error).any(is_out_of_range) => {
            StoreError::Truncated {
                path,
                want_end: 0,
                object_bytes_max: 0,
            }
        }
        _ => unavailable(path),
    }
}

/// The status of a server's answer. The library keeps the type that has it to itself, and for listings the variant
/// that would tell as well: the text is what is left.
fn http_status(text: &str) -> Option<u16> {
    let (_, status) = text.split_once("non-2xx status code: ")?;
    status.get(..3)?.parse().ok()
}

/// The content of the first `name` of an answer in XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(value, _)| value)
}

/// An error and what is below it.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether this is the file system saying that it may not.
fn is_permission_denied(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Whether this is the library saying that a range begins behind the object's end. Its type is private.
fn is_out_of_range(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.to_string().starts_with("Wanted range starting at ")
}

/// An error's text without what may be a credential, in one line of bounded length.
fn presentable(text: &str) -> String {
    let (head, answer) = match text.find('<') {
        Some(at) => {
            let code = element(text, "Code").unwrap_or("an answer in markup");
            let message = element(text, "Message").unwrap_or_default();
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

    /// What the library says of an answer, as it words it.
    fn answered(status: &str, code: &str) -> String {
        format!(
            "Error performing GET http://127.0.0.1:9/b in 1ms - Server returned non-2xx status code: {status}: \
             <?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>"
        )
    }

    #[test]
    fn an_answer_means_the_same_in_whichever_variant_it_comes() {
        let generic = |status, code| Error::Generic {
            store: "S3",
            source: answered(status, code).into(),
        };
        let refused = |error| matches!(store_error("x", error), StoreError::Refused { .. });
        assert!(refused(generic("404 Not Found", "NoSuchBucket")));
        assert!(refused(generic("404 Not Found", "ContainerNotFound")));
        assert!(refused(generic("403 Forbidden", "AccessDenied")));
        assert!(refused(generic(
            "401 Unauthorized",
            "AuthenticationRequired"
        )));
        assert!(refused(Error::NotFound {
            path: "x".to_owned(),
            source: answered("404 Not Found", "NoSuchBucket").into(),
        }));
        let out_of_range = generic("416 Range Not Satisfiable", "InvalidRange");
        assert!(matches!(
            store_error("x", out_of_range),
            StoreError::Truncated { .. }
        ));
        let overloaded = generic("503 Service Unavailable", "SlowDown");
        assert!(matches!(
            store_error("x", overloaded),
            StoreError::Unavailable { .. }
        ));
    }

    #[test]
    fn a_put_that_met_another_may_be_repeated_and_one_that_lost_may_not() {
        let conflict = |code| Error::AlreadyExists {
            path: "x".to_owned(),
            source: answered("409 Conflict", code).into(),
        };
        let undecided = store_error("x", conflict("ConditionalRequestConflict"));
        assert!(
            matches!(undecided, StoreError::Unavailable { .. }),
            "{undecided}"
        );
        let lost = store_error("x", conflict("BlobAlreadyExists"));
        assert!(matches!(lost, StoreError::AlreadyExists { .. }), "{lost}");
    }

    #[test]
    fn the_futures_of_a_bare_store_are_send() {
        fn assert_send<T: Send>(_: &T) {}
        let objects = UrlObjects::new(Arc::new(object_store::memory::InMemory::new()), true);
        assert_send(&objects.get("x", 0..1));
        assert_send(&objects.get_all("x"));
        assert_send(&objects.put_if_absent("x", Bytes::new()));
        assert_send(&objects.list("x", None));
        assert_send(&objects.delete("x"));
    }
}
