//! The local keyring: CMKs in a file, the key provider of those who have no key service. Version 1, text.
//!
//! ```text
//! pageserver-keyring 1
//! pageserver-key-1:local-0f3a…:<64 hex digits>:<CRC-32C of all before, 8 hex digits>
//! ```
//!
//! One line per key; the last one wraps new KEKs, all unwrap. A key's line is also its exported form, fit to be
//! printed on paper: the checksum tells a typing error from a wrong key. Empty lines and lines that start with `#`
//! are left out.
//!
//! Whoever has this file can open everything, whoever loses it can open nothing. So it is kept apart from the data:
//! never inside the data directory nor in the object store ([`KeyringError::InsideData`]), readable by its owner
//! only (mode 0600, [`KeyringError::OpenToOthers`]), and replaced as a whole: temporary file, fsync, rename, fsync
//! of the directory. A crash leaves the old file or the new one.
//!
//! Wrapped KEK: nonce (12 random bytes: RFC 8452 bears 2^50 of them per key), 32 bytes of ciphertext, 16 of tag;
//! AES-256-GCM-SIV under the CMK; associated data: `WRAP_TEXT`, tenant, branch (zeros if none), CMK id.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aes_gcm_siv::Nonce;
use aes_gcm_siv::aead::{Aead, Payload};
use futures_util::future::{self, BoxFuture, FutureExt};
use zeroize::Zeroizing;

use super::entropy::Entropy;
use super::kek::{KEK_BYTES, Kek};
use super::key_provider::{EncryptionContext, KeyProvider, KeyProviderError, WrappedKek};

mod key_text;

pub use self::key_text::KeyTextProblem;

use self::key_text::{Cmk, FILE_BYTES_MAX, HEADER, hex, parse_file};

/// An opened keyring. `Debug` shows the ids of its keys only.
pub struct Keyring {
    path: PathBuf,
    entropy: Entropy,
    /// Never empty; the last one wraps.
    keys: Vec<Cmk>,
}

/// Why a keyring was not opened, made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It would be lost, copied or stolen together with what it protects.
    #[error("keyring {path} lies inside {data}: keep keys apart from the data they open")]
    InsideData {
        /// The keyring.
        path: PathBuf,
        /// The data directory or object store.
        data: PathBuf,
    },
    /// Its mode lets others in.
    #[error("keyring {path} has mode {mode:04o}: others can get at it (chmod 600)")]
    OpenToOthers {
        /// The keyring.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is one already, and it is not overwritten.
    #[error("keyring {path} exists already")]
    Exists {
        /// The keyring.
        path: PathBuf,
    },
    /// It is not a keyring, or of a version we do not know, or damaged.
    #[error("keyring {path}, line {line}: {problem}")]
    Malformed {
        /// The keyring.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: KeyTextProblem,
    },
    /// The text to import is no key.
    #[error("key to import: {0}")]
    BadImport(KeyTextProblem),
    /// A key of that id is there, with other bytes.
    #[error("key {0} is in the keyring with other bytes")]
    Conflict(String),
    /// There is no key of that id.
    #[error("key {0} is not in the keyring")]
    NoSuchKey(String),
    /// The file system refused.
    #[error("keyring {path}: {op}: {source}")]
    Io {
        /// The keyring.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Keyring {
    /// Makes a keyring with one fresh key at `path`, which must not exist; its directory is made if it is not
    /// there (mode 0700). `data` are the places that must not contain it: data directory, local object store.
    pub fn create(path: &Path, data: &[&Path], entropy: Entropy) -> Result<Keyring, KeyringError> {
        let mut ring = Keyring {
            path: path.to_owned(),
            entropy,
            keys: Vec::new(),
        };
        ring.keys.push(Cmk::draw(&ring.entropy));
        ring.make_directory()?;
        refuse_inside(path, data)?;
        ring.save(Replace::Refuse)?;
        Ok(ring)
    }

    /// Makes a keyring at `path`, which must not exist, of one exported key.
    pub fn create_from(
        path: &Path,
        data: &[&Path],
        entropy: Entropy,
        exported: &str,
    ) -> Result<Keyring, KeyringError> {
        let ring = Keyring {
            path: path.to_owned(),
            entropy,
            keys: vec![Cmk::parse(exported.trim()).map_err(KeyringError::BadImport)?],
        };
        ring.make_directory()?;
        refuse_inside(path, data)?;
        ring.save(Replace::Refuse)?;
        Ok(ring)
    }

    /// Opens the keyring at `path`. `data` as in [`Keyring::create`].
    pub fn open(path: &Path, data: &[&Path], entropy: Entropy) -> Result<Keyring, KeyringError> {
        refuse_inside(path, data)?;
        let failed = |op| {
            move |source| KeyringError::Io {
                path: path.to_owned(),
                op,
                source,
            }
        };
        let file = File::open(path).map_err(failed("open"))?;
        let mode = file.metadata().map_err(failed("stat"))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyringError::OpenToOthers {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX + 1));
        let limit = u64::try_from(FILE_BYTES_MAX + 1).expect("a small number");
        file.take(limit)
            .read_to_string(&mut text)
            .map_err(failed("read"))?;
        let keys = parse_file(&text).map_err(|(line, problem)| KeyringError::Malformed {
            path: path.to_owned(),
            line,
            problem,
        })?;
        Ok(Keyring {
            path: path.to_owned(),
            entropy,
            keys,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of its keys, the one that wraps last.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    /// The id of the key that wraps new KEKs.
    pub fn current_key_id(&self) -> &str {
        &self.current().id
    }

    /// Adds a fresh key, which wraps from now on, and returns its id. Durable on return.
    pub fn generate(&mut self) -> Result<String, KeyringError> {
        let key = Cmk::draw(&self.entropy);
        let id = key.id.clone();
        self.add(key)?;
        Ok(id)
    }

    /// The key `id` as one line of text for a safe place. Who reads it can open everything.
    pub fn export(&self, id: &str) -> Result<Zeroizing<String>, KeyringError> {
        self.keys
            .iter()
            .find(|key| key.id == id)
            .map(Cmk::text)
            .ok_or_else(|| KeyringError::NoSuchKey(id.to_owned()))
    }

    /// Adds an exported key and returns its id. It wraps from now on, unless it was there already. Durable on
    /// return.
    pub fn import(&mut self, exported: &str) -> Result<String, KeyringError> {
        let key = Cmk::parse(exported.trim()).map_err(KeyringError::BadImport)?;
        let id = key.id.clone();
        match self.keys.iter().find(|known| known.id == id) {
            Some(known) if known.bytes == key.bytes => {}
            Some(_) => return Err(KeyringError::Conflict(id)),
            None => self.add(key)?,
        }
        Ok(id)
    }

    /// Adds the key to file and ring, or to neither.
    fn add(&mut self, key: Cmk) -> Result<(), KeyringError> {
        self.keys.push(key);
        self.save(Replace::Allow).inspect_err(|_| {
            self.keys.pop();
        })
    }

    fn current(&self) -> &Cmk {
        self.keys.last().expect("a keyring is never empty")
    }

    fn make_directory(&self) -> Result<(), KeyringError> {
        use std::os::unix::fs::DirBuilderExt;
        let directory = directory_of(&self.path);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| self.failed("make directory", source))
    }

    fn save(&self, replace: Replace) -> Result<(), KeyringError> {
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
        text.push_str(HEADER);
        text.push('\n');
        for key in &self.keys {
            text.push_str(&key.text());
            text.push('\n');
        }
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", hex(&self.entropy.draw::<8>())));
        let temporary = PathBuf::from(name);
        let written = self.write_and_place(&temporary, &text, replace);
        if written.is_err() {
            // Best effort: the error that counts is the one above.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn write_and_place(
        &self,
        temporary: &Path,
        text: &str,
        replace: Replace,
    ) -> Result<(), KeyringError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)
            .map_err(|source| self.failed("create", source))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|source| self.failed("write", source))?;
        match replace {
            Replace::Allow => std::fs::rename(temporary, &self.path)
                .map_err(|source| self.failed("rename", source))?,
            Replace::Refuse => {
                // A link fails where a rename would overwrite.
                std::fs::hard_link(temporary, &self.path).map_err(|source| {
                    if source.kind() == io::ErrorKind::AlreadyExists {
                        KeyringError::Exists {
                            path: self.path.clone(),
                        }
                    } else {
                        self.failed("link", source)
                    }
                })?;
                std::fs::remove_file(temporary).map_err(|source| self.failed("unlink", source))?;
            }
        }
        File::open(directory_of(&self.path))
            .and_then(|directory| directory.sync_all())
            .map_err(|source| self.failed("sync directory", source))
    }

    fn failed(&self, op: &'static str, source: io::Error) -> KeyringError {
        KeyringError::Io {
            path: self.path.clone(),
            op,
            source,
        }
    }
}

impl KeyProvider for Keyring {
    fn name(&self) -> &'static str {
        PROVIDER_NAME
    }

    fn wrap<'a>(
        &'a self,
        kek: &'a Kek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<WrappedKek, KeyProviderError>> {
        let key = self.current();
        let nonce = self.entropy.draw::<NONCE_BYTES>();
        let sealed = key.cipher().encrypt(
            &Nonce::from(nonce),
            Payload {
                msg: kek.expose(),
                aad: &associated_data(context, &key.id),
            },
        );
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed.expect("a KEK is not near the cipher's 64 GiB"));
        future::ready(Ok(WrappedKek {
            key_id: key.id.clone(),
            bytes,
        }))
        .boxed()
    }

    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedKek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<Kek, KeyProviderError>> {
        future::ready(self.unwrap_now(wrapped, context)).boxed()
    }
}

impl Keyring {
    fn unwrap_now(
        &self,
        wrapped: &WrappedKek,
        context: &EncryptionContext,
    ) -> Result<Kek, KeyProviderError> {
        let refused = |reason: &str| KeyProviderError::Refused {
            key_id: wrapped.key_id.clone(),
            reason: reason.to_owned(),
        };
        let key = self
            .keys
            .iter()
            .find(|key| key.id == wrapped.key_id)
            .ok_or_else(|| refused("not in this keyring"))?;
        let (nonce, sealed) = wrapped
            .bytes
            .split_first_chunk::<NONCE_BYTES>()
            .filter(|(_, sealed)| sealed.len() == KEK_BYTES + TAG_BYTES)
            .ok_or_else(|| KeyProviderError::OurFault {
                key_id: wrapped.key_id.clone(),
                reason: "not a KEK that a keyring wrapped".to_owned(),
            })?;
        let payload = Payload {
            msg: sealed,
            aad: &associated_data(context, &key.id),
        };
        let opened = key
            .cipher()
            .decrypt(&Nonce::from(*nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| refused("wrapped by another key, for another tenant, or damaged"))?;
        let bytes = opened.first_chunk().expect("length checked above");
        Ok(Kek::from_bytes(*bytes))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("path", &self.path)
            .field("keys", &self.key_ids().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Refuses a keyring at or below one of the `data` paths, symbolic links followed as far as the paths exist.
fn refuse_inside(path: &Path, data: &[&Path]) -> Result<(), KeyringError> {
    let keyring = resolve(path);
    match data.iter().find(|data| keyring.starts_with(resolve(data))) {
        None => Ok(()),
        Some(data) => Err(KeyringError::InsideData {
            path: path.to_owned(),
            data: (*data).to_owned(),
        }),
    }
}

/// The path without links and dots, as far as it exists; the rest behind it.
fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|existing| {
            let real = existing.canonicalize().ok()?;
            let rest = path.strip_prefix(existing).ok()?;
            Some(if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            })
        })
        .unwrap_or(path)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn associated_data(context: &EncryptionContext, key_id: &str) -> Vec<u8> {
    let mut data = WRAP_TEXT.to_vec();
    data.extend_from_slice(&context.tenant.0.0);
    data.extend_from_slice(&context.branch.map_or([0; 16], |branch| branch.0.0));
    data.extend_from_slice(key_id.as_bytes());
    data
}

/// Whether a new file may take the place of an old one.
#[derive(Clone, Copy)]
enum Replace {
    Allow,
    Refuse,
}

const PROVIDER_NAME: &str = "local-keyring";
/// The start of the associated data of a wrapped KEK.
const WRAP_TEXT: &[u8] = b"pageserver local keyring 1";

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests;
