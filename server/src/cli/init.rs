//! `pageserver init`: data directory, commented configuration, keyring.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::Args;
use engine::crypto::entropy::Entropy;
use engine::crypto::keyring::Keyring;

use super::Context;
use crate::config::DEFAULT_TEXT;
use crate::exit::{Exit, Failure, OrExit};

const EXAMPLES: &str = "\
Examples:
  pageserver init
  pageserver init --data-dir /var/lib/pageserver --keyring /etc/pageserver/keyring

A new configuration has --store and --keyring in it, so that later commands need not be told again. Nothing that is there
is overwritten: run it again after a mistake, or to make a missing keyring.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArguments {}

pub(super) fn run(context: &Context, _: &InitArguments) -> Result<(), Failure> {
    let keyring = context.keyring_path()?;
    context.data_dir.create().or_exit(Exit::Other)?;
    println!("data directory  {}", context.data_dir.path().display());
    let written = write_config(context, &keyring)?;
    println!(
        "configuration   {} ({})",
        context.config_path.display(),
        if written {
            "new"
        } else {
            "was there, unchanged"
        }
    );
    println!("object store    {}", context.store_url());
    make_keyring(context, &keyring)
}

fn write_config(context: &Context, keyring: &Path) -> Result<bool, Failure> {
    let path = &context.config_path;
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    let named = |e: std::io::Error| Failure::new(Exit::Other, format!("{}: {e}", path.display()));
    match opened {
        Ok(mut file) => {
            file.write_all(config_text(context, keyring).as_bytes())
                .map_err(named)?;
            file.sync_all().map_err(named)?;
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(named(e)),
    }
}

/// The default, with what the command line chose filled in. Of the keyring the whole path: later commands may be given
/// elsewhere.
fn config_text(context: &Context, keyring: &Path) -> String {
    let mut text = DEFAULT_TEXT.to_owned();
    if !context.config.keys.keyring.as_os_str().is_empty() {
        let chosen = format!("keyring = {:?}", keyring.display().to_string());
        text = text.replace("#keyring = \"\"", &chosen);
    }
    let url = &context.config.store.url;
    if !url.is_empty() {
        text = text.replace("#url = \"\"", &format!("url = {url:?}"));
    }
    text
}

fn make_keyring(context: &Context, path: &Path) -> Result<(), Failure> {
    if path.exists() {
        println!("keyring         {} (was there)", path.display());
        return Ok(());
    }
    let data = context.places_of_data();
    let data: Vec<&Path> = data.iter().map(AsRef::as_ref).collect();
    let keyring = Keyring::create(path, &data, Entropy::system()).or_exit(Exit::Refused)?;
    println!(
        "keyring         {} (new, key {})\n\n\
         Losing the keyring loses everything: without it no page can be opened, by nobody. Keep a copy apart from this\n\
         machine and from the object store:\n\n    pageserver key export\n",
        path.display(),
        keyring.current_key_id()
    );
    Ok(())
}
