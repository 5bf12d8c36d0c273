//! Certificates and tokens from their files. The two listeners share this; neither file's content is ever shown.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::config::AccessConfig;

/// Why a listener's access can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file has nothing of what is wanted.
    #[error("{path}: no {what} in it")]
    Empty {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("{path}: {source}")]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// The token of `access`, if one is configured: the first line of its file.
pub fn token(access: &AccessConfig) -> Result<Option<Zeroizing<String>>, AccessError> {
    let Some(path) = &access.token_file else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).map_err(unreadable(path))?;
    let text = Zeroizing::new(text);
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(AccessError::Empty {
            path: path.clone(),
            what: "token",
        });
    }
    Ok(Some(Zeroizing::new(token.to_owned())))
}

/// The TLS set-up of `access`, if one is configured.
pub fn server_config(access: &AccessConfig) -> Result<Option<Arc<ServerConfig>>, AccessError> {
    let (Some(chain_path), Some(key_path)) = (&access.tls_certificate, &access.tls_key) else {
        return Ok(None);
    };
    let chain = certificates(chain_path)?;
    let key = rustls_pemfile::private_key(&mut open(key_path)?)
        .map_err(unreadable(key_path))?
        .ok_or_else(|| AccessError::Empty {
            path: key_path.clone(),
            what: "private key",
        })?;
    let tls = |source| AccessError::Tls {
        path: chain_path.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(tls)?;
    Ok(Some(Arc::new(config)))
}

/// All certificates in a PEM file, of which there must be one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let found = rustls_pemfile::certs(&mut open(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable(path))?;
    if found.is_empty() {
        return Err(AccessError::Empty {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

fn open(path: &Path) -> Result<BufReader<File>, AccessError> {
    File::open(path)
        .map(BufReader::new)
        .map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> AccessError {
    let path = path.to_owned();
    move |source| AccessError::Unreadable { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_certificates_come_from_their_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            Some(path)
        };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
        let mut access = AccessConfig {
            token_file: write("token", " secret \nignored\n"),
            tls_certificate: write("crt", &made.cert.pem()),
            tls_key: write("key", &made.signing_key.serialize_pem()),
            allow_insecure: false,
        };
        let read = token(&access).expect("readable").expect("there");
        assert_eq!(read.as_str(), "secret");
        assert!(server_config(&access).expect("fits").is_some());

        access.tls_key = write("nokey", "nothing");
        assert!(matches!(
            server_config(&access),
            Err(AccessError::Empty { .. })
        ));
        access.token_file = write("empty", "\n");
        assert!(matches!(token(&access), Err(AccessError::Empty { .. })));
        access.token_file = Some(folder.path().join("missing"));
        assert!(matches!(
            token(&access),
            Err(AccessError::Unreadable { .. })
        ));
        assert!(token(&AccessConfig::default()).expect("fine").is_none());
    }
}
