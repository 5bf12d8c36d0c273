//! `pageserver status`: asks the admin API of a running server.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::Context;
use super::admin_client::AdminClient;
use crate::exit::Failure;

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
    let client = AdminClient::new(
        context,
        arguments.url.as_deref(),
        arguments.ca.as_deref(),
        arguments.token_file.as_deref(),
    )?;
    let status = client.get("/v1/status")?;
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
        match value {
            Value::Object(_) => {
                println!("{:indent$}{name}", "");
                print_tree(value, indent + 2);
            }
            // Several of a kind.
            Value::Array(each) if each.iter().all(Value::is_object) => {
                for one in each {
                    println!("{:indent$}{name}", "");
                    print_tree(one, indent + 2);
                }
            }
            _ => println!(
                "{:indent$}{name:<width$} {}",
                "",
                plain(value),
                width = 36 - indent.min(20)
            ),
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
