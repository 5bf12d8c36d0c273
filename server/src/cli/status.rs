//! `pageserver status`: asks the admin API of a running server.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::Context;
use crate::access;
use crate::exit::{Exit, Failure, OrExit};

const EXAMPLES: &str = "\
Examples:
  pageserver status
  pageserver status --json | jq .reads
  pageserver status --url http://127.0.0.1:9898

The token, if the admin API wants one, is read from admin.access.token_file. For an API behind TLS ask with curl:
this command speaks plain HTTP, to loopback.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArguments {
    /// Where the admin API is [default: http:// and admin.listen].
    #[arg(long)]
    url: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &StatusArguments) -> Result<(), Failure> {
    let base = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", context.config.admin.listen),
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let url = format!("{base}/v1/status");
    let mut request = agent.get(&url);
    if let Some(token) = access::token(&context.config.admin.access).or_exit(Exit::Config)? {
        let value = zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()));
        request = request.header("authorization", value.as_str());
    }
    let failed = |e: ureq::Error| {
        Failure::new(Exit::Unavailable, format!("{url}: {e}"))
            .hint("is `pageserver serve` running?")
    };
    let mut response = request.call().map_err(failed)?;
    let status: Value = response.body_mut().read_json().map_err(failed)?;
    if arguments.json {
        println!("{status}");
    } else {
        print_tree(&status, 0);
    }
    Ok(())
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
