//! `pageserver status`: asks the admin API of a running server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::Context;
use crate::access;
use crate::config::AccessConfig;
use crate::exit::{Exit, Failure, OrExit};

const EXAMPLES: &str = "\
Examples:
  pageserver status
  pageserver status --json | jq .reads
  pageserver status --url https://pages1:9898 --ca authority.pem --token-file token

The token, if the admin API wants one, is read from --token-file, else from admin.access.token_file. Behind TLS the
server's certificate has to come from the authorities in --ca, else from admin.access.tls_certificate (which is enough
on the server's own machine), and has to name the host of the URL. Exit code 5 if no server answers, 8 if it refuses.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArguments {
    /// Where the admin API is [default: admin.listen, by https if admin.access.tls_certificate is set].
    #[arg(long)]
    url: Option<String>,
    /// Certificates of the authorities to trust, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the token of the admin API.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &StatusArguments) -> Result<(), Failure> {
    let mut own = context.config.admin.access.clone();
    if arguments.token_file.is_some() {
        own.token_file.clone_from(&arguments.token_file);
    }
    let base = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if own.tls_certificate.is_some() => format!("https://{}", context.config.admin.listen),
        None => format!("http://{}", context.config.admin.listen),
    };
    let url = format!("{base}/v1/status");
    let roots = arguments.ca.as_deref().or(own.tls_certificate.as_deref());
    let roots = roots.filter(|_| base.starts_with("https:"));
    let status = ask(&url, roots, &own)?;
    if arguments.json {
        println!("{status}");
    } else {
        print_tree(&status, 0);
    }
    Ok(())
}

fn ask(url: &str, roots: Option<&Path>, access: &AccessConfig) -> Result<Value, Failure> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .tls_config(tls(roots)?)
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(token) = access::token(access).or_exit(Exit::Config)? {
        let value = zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()));
        request = request.header("authorization", value.as_str());
    }
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
    let mut response = request.call().map_err(failed)?;
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

fn print_tree(value: &Value, indent: usize) {
    let Value::Object(fields) = value else {
        println!("{:indent$}{}", "", plain(value));
        return;
    };
    for (name, value) in fields {
        if value.is_object() {
            println!("{:indent$}{name}", "");
            print_tree(value, indent + 2);
        } else {
            println!(
                "{:indent$}{name:<width$} {}",
                "",
                plain(value),
                width = 36 - indent.min(20)
            );
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
