//! libpq's `sslmode` in terms of rustls: `prefer` and `require` encrypt and look at no certificate, unless
//! authorities are given, which makes `require` a `verify-ca`; `verify-ca` looks at the chain, `verify-full` at the
//! host as well.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
};

use super::settings::{ConnectionSettings, SslMode};

/// Puts TLS over `stream`, on which the server has agreed to it.
pub(super) fn wrap(
    stream: TcpStream,
    host: &str,
    settings: &ConnectionSettings,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let roots = settings.ssl_root_certificates.as_deref();
    let mut config = match (settings.ssl_mode, roots) {
        (SslMode::VerifyFull, Some(path)) => builder
            .with_root_certificates(authorities(path)?)
            .with_no_client_auth(),
        (SslMode::VerifyCa | SslMode::Require, Some(path)) => {
            let chain = WebPkiServerVerifier::builder_with_provider(
                Arc::new(authorities(path)?),
                provider.clone(),
            )
            .build()
            .map_err(io::Error::other)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient::new(&provider, Some(chain))))
                .with_no_client_auth()
        }
        (SslMode::VerifyFull | SslMode::VerifyCa, None) => {
            return Err(io::Error::other(
                "sslmode verifies the server's certificate, and sslrootcert is not given \
                 (a file of authorities in PEM, or \"system\")",
            ));
        }
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lenient::new(&provider, None)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = stream;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn authorities(path: &Path) -> io::Result<RootCertStore> {
    let pem = std::fs::read(path)
        .map_err(|error| io::Error::other(format!("sslrootcert {}: {error}", path.display())))?;
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        roots.add(certificate?).map_err(io::Error::other)?;
    }
    Ok(roots)
}

/// Accepts the certificate of any host: whoever it is from, or from the authorities only. The handshake still has to
/// be signed by it.
#[derive(Debug)]
struct Lenient {
    algorithms: WebPkiSupportedAlgorithms,
    /// Verifies the chain, if authorities are known.
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl Lenient {
    fn new(provider: &CryptoProvider, chain: Option<Arc<WebPkiServerVerifier>>) -> Lenient {
        Lenient {
            algorithms: provider.signature_verification_algorithms,
            chain,
        }
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
