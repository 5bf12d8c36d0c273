//! Asks the admin API of a running server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::Context;
use crate::access;
use crate::exit::{Exit, Failure, OrExit};

/// A server's admin API.
pub(super) struct AdminClient {
    base: String,
    agent: ureq::Agent,
    authorization: Option<zeroize::Zeroizing<String>>,
}

impl AdminClient {
    /// The API at `url`, else the one that the configuration says. The token and the authorities to trust come from the
    /// arguments, else from the configuration.
    pub(super) fn new(
        context: &Context,
        url: Option<&str>,
        ca: Option<&Path>,
        token_file: Option<&Path>,
    ) -> Result<AdminClient, Failure> {
        let mut own = context.config.admin.access.clone();
        if let Some(token_file) = token_file {
            own.token_file = Some(token_file.to_owned());
        }
        let base = match url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if own.tls_certificate.is_some() => {
                format!("https://{}", context.config.admin.listen)
            }
            None => format!("http://{}", context.config.admin.listen),
        };
        let roots = ca.or(own.tls_certificate.as_deref());
        let roots = roots.filter(|_| base.starts_with("https:"));
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .tls_config(tls(roots)?)
            .http_status_as_error(false)
            .build()
            .into();
        let token = access::token(&own).or_exit(Exit::Config)?;
        let authorization =
            token.map(|token| zeroize::Zeroizing::new(format!("Bearer {}", token.as_str())));
        Ok(AdminClient {
            base,
            agent,
            authorization,
        })
    }

    /// What a GET answers.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value.as_str());
        }
        self.answer(path, request.call())
    }

    /// What a POST without content answers.
    pub(super) fn post(&self, path: &str) -> Result<Value, Failure> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value.as_str());
        }
        self.answer(path, request.send_empty())
    }

    fn answer(
        &self,
        path: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        let url = format!("{}{path}", self.base);
        let failed = |e: ureq::Error| {
            let is_about_tls = match &e {
                ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
                ureq::Error::Io(e) => e.kind() == std::io::ErrorKind::InvalidData,
                _ => false,
            };
            let hint = match is_about_tls {
                true => {
                    "name the authorities of the server's certificate with --ca FILE, and in --url a host that it is for"
                }
                false => "is `pageserver serve` running?",
            };
            Failure::new(Exit::Unavailable, format!("{url}: {e}")).hint(hint)
        };
        let mut response = answer.map_err(failed)?;
        match response.status().as_u16() {
            200 => response.body_mut().read_json().map_err(failed),
            401 => Err(
                Failure::new(Exit::Refused, format!("{url}: the server wants a token"))
                    .hint("name the file that has it with --token-file FILE"),
            ),
            status => Err(Failure::new(
                Exit::Unavailable,
                format!("{url}: HTTP status {status}"),
            )),
        }
    }
}

fn tls(roots: Option<&Path>) -> Result<TlsConfig, Failure> {
    let trusted = match roots {
        None => Vec::new(),
        Some(path) => access::certificates(path).or_exit(Exit::Config)?,
    };
    let trusted = trusted
        .iter()
        .map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(trusted)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// Longer than a follower takes to store what it has received.
const PATIENCE: Duration = Duration::from_secs(60);
