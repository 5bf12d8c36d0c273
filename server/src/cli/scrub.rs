//! `pageserver scrub`: reads every layer and verifies its checksums. They are over ciphertext, so no key is needed.

use clap::Args;
use engine::layer::scrub_object;
use engine::store::objects::{ListedObject, Objects};
use engine::store::store_url::{StoreUrl, StoreUrlError};
use indicatif::ProgressBar;
use std::io::IsTerminal;

use super::Context;
use super::import::human;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;

const EXAMPLES: &str = "\
Examples:
  pageserver scrub
  pageserver scrub --store s3://bucket/prefix --json

Reads all of every layer, one after the other, and needs no key: checksums are over ciphertext. What is not a layer
(manifests, key tables, names) has no checksum apart from its seal: it is verified when it is opened. Exit code 7 if
anything is damaged.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ScrubArguments {
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &ScrubArguments) -> Result<(), Failure> {
    let url = StoreUrl::parse(&context.store_url(), &context.surroundings.variables);
    let url = url.map_err(|e: StoreUrlError| Failure::new(Exit::Config, e))?;
    let runtime = runtime().or_exit(Exit::Other)?;
    runtime.block_on(async {
        let objects = url.connect().or_exit(Exit::Unavailable)?;
        let report = scrub(&objects).await?;
        report.print(arguments.json);
        if report.damaged.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(
                Exit::Corrupt,
                format!("{} damaged layers", report.damaged.len()),
            ))
        }
    })
}

#[derive(Default)]
struct Report {
    layers: u64,
    layer_bytes: u64,
    other_objects: u64,
    /// Path and what is wrong.
    damaged: Vec<(String, String)>,
}

impl Report {
    fn print(&self, json: bool) {
        if json {
            let damaged: Vec<_> = self
                .damaged
                .iter()
                .map(|(path, reason)| serde_json::json!({ "path": path, "reason": reason }))
                .collect();
            println!(
                "{}",
                serde_json::json!({
                    "layers": self.layers,
                    "layer_bytes": self.layer_bytes,
                    "other_objects": self.other_objects,
                    "damaged": damaged,
                })
            );
            return;
        }
        for (path, reason) in &self.damaged {
            println!("damaged  {path}: {reason}");
        }
        println!(
            "{} layers, {}: {} damaged; {} other objects, which only their seals protect",
            self.layers,
            human(self.layer_bytes),
            self.damaged.len(),
            self.other_objects,
        );
    }
}

async fn scrub(objects: &impl Objects) -> Result<Report, Failure> {
    let listed = objects
        .list("tenants/", None)
        .await
        .or_exit(Exit::Unavailable)?;
    let (layers, others): (Vec<ListedObject>, Vec<ListedObject>) = listed
        .into_iter()
        .partition(|object| object.path.contains("/layers/"));
    let mut report = Report {
        other_objects: u64::try_from(others.len()).unwrap_or(u64::MAX),
        ..Report::default()
    };
    let bytes = layers.iter().map(|layer| layer.size_bytes).sum();
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(bytes)
    } else {
        ProgressBar::hidden()
    };
    for layer in layers {
        // One layer in memory at a time.
        match objects.get_all(&layer.path).await {
            Ok(body) => {
                if let Err(e) = scrub_object(&body) {
                    report.damaged.push((layer.path, e.to_string()));
                }
            }
            Err(e) => report.damaged.push((layer.path, e.to_string())),
        }
        report.layers += 1;
        report.layer_bytes += layer.size_bytes;
        bar.set_position(report.layer_bytes);
    }
    bar.finish_and_clear();
    Ok(report)
}
