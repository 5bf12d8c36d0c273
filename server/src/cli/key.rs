//! `pageserver key`: the keys of the local keyring, out to a safe place and back.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use engine::crypto::entropy::Entropy;
use engine::crypto::keyring::Keyring;
use zeroize::Zeroizing;

use super::Context;
use crate::exit::{Exit, Failure, OrExit};

const EXAMPLES: &str = "\
Examples:
  pageserver key list
  pageserver key export                      one line, to print on paper
  pageserver key export --output /media/usb/acme.key
  pageserver key import /media/usb/acme.key

Whoever has an exported key can open everything that it protects.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Lists the ids of the keys; the last one wraps new keys.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes a key as one line of text, fit for paper.
    Export {
        /// Which [default: the one that wraps new keys].
        id: Option<String>,
        /// To a new file of mode 0600 instead of standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Adds an exported key; makes the keyring if there is none.
    Import {
        /// A file, or - for standard input.
        file: PathBuf,
    },
}

pub(super) fn run(context: &Context, arguments: &KeyArguments) -> Result<(), Failure> {
    match &arguments.command {
        KeyCommand::List { json } => {
            let keyring = context.open_keyring()?;
            let ids: Vec<&str> = keyring.key_ids().collect();
            if *json {
                println!("{}", serde_json::json!({ "keys": ids }));
            } else {
                ids.iter().for_each(|id| println!("{id}"));
            }
            Ok(())
        }
        KeyCommand::Export { id, output } => {
            let keyring = context.open_keyring()?;
            let id = id.as_deref().unwrap_or(keyring.current_key_id());
            let text = keyring.export(id).or_exit(Exit::NotFound)?;
            match output {
                None => println!("{}", text.as_str()),
                Some(path) => write_secret(path, &text)?,
            }
            Ok(())
        }
        KeyCommand::Import { file } => import(context, file),
    }
}

fn import(context: &Context, file: &Path) -> Result<(), Failure> {
    let text = read_secret(file)?;
    let path = context.keyring_path()?;
    let id = if path.exists() {
        let mut keyring = context.open_keyring()?;
        keyring.import(&text).or_exit(Exit::Refused)?
    } else {
        let data = context.places_of_data();
        let data: Vec<&Path> = data.iter().map(AsRef::as_ref).collect();
        let keyring =
            Keyring::create_from(&path, &data, Entropy::system(), &text).or_exit(Exit::Refused)?;
        keyring.current_key_id().to_owned()
    };
    println!("{id} is in {}", path.display());
    Ok(())
}

fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let named = |e: std::io::Error| Failure::new(Exit::Other, format!("{}: {e}", path.display()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(named)?;
    file.write_all(text.as_bytes()).map_err(named)?;
    file.write_all(b"\n").map_err(named)?;
    file.sync_all().map_err(named)
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let named = |e: std::io::Error| Failure::new(Exit::Other, format!("{}: {e}", path.display()));
    let mut text = Zeroizing::new(String::with_capacity(EXPORTED_BYTES_MAX));
    let limit = u64::try_from(EXPORTED_BYTES_MAX).expect("a small number");
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(named)?;
        file.take(limit).read_to_string(&mut text)
    }
    .map_err(named)?;
    Ok(text)
}

/// An exported key is one short line; more than this is something else.
const EXPORTED_BYTES_MAX: usize = 4096;
