//! `pageserver scrub`: reads every object and verifies its checksums. They are over ciphertext, so no key is needed.

use std::fmt;

use clap::Args;
use engine::io::store_thread::StoreThreads;
use engine::io::tokio_clock::TokioClock;
use engine::scrub::Scrubber;
use engine::store::objects::{ListedObject, Objects, StoreError};
use engine::store::store_url::{StoreUrl, StoreUrlError};
use engine::store::{StoreClient, StoreConfig};
use futures_util::StreamExt;
use futures_util::stream;

use super::Context;
use super::import::{Display, human, now};
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;

const EXAMPLES: &str = "\
Examples:
  pageserver scrub
  pageserver scrub --store s3://bucket/prefix --json

Reads all of every layer, manifest entry, snapshot, key table, name and piece of WAL, and needs no key: checksums are
over ciphertext, and each object says in the clear where it belongs. Nothing is kept in memory but the piece at hand.
What it can't see is an object that is missing, and one that was forged together with its checksum: seals tell that
when it is opened.

Exit code 0: all sound. 7: something is damaged. 5: nothing is damaged, but some objects could not be read; try again.";

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
    let threads = StoreThreads::start(
        1,
        move || url.connect(),
        &StoreConfig::default(),
        TokioClock::since(now()),
        0,
    )
    .or_exit(Exit::Unavailable)?;
    let runtime = runtime().or_exit(Exit::Other)?;
    let report = runtime.block_on(scrub(&threads.client()))?;
    report.print(arguments.json);
    let failure = |exit, count: usize, what| Err(Failure::new(exit, format!("{count} {what}")));
    match (report.damaged.len(), report.unreadable.len()) {
        (0, 0) => Ok(()),
        (0, count) => failure(Exit::Unavailable, count, "objects could not be read"),
        (count, _) => failure(Exit::Corrupt, count, "damaged objects"),
    }
}

#[derive(Default)]
struct Report {
    layers: Count,
    others: Count,
    damaged: Vec<Finding>,
    /// The store did not answer: this says nothing about the object.
    unreadable: Vec<Finding>,
}

#[derive(Default)]
struct Count {
    objects: u64,
    bytes: u64,
}

struct Finding {
    path: String,
    reason: String,
}

impl Count {
    fn add(&mut self, object: &ListedObject) {
        self.objects += 1;
        self.bytes += object.size_bytes;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.objects, human(self.bytes))
    }
}

impl Report {
    fn print(&self, json: bool) {
        if json {
            let list = |findings: &[Finding]| -> Vec<_> {
                findings
                    .iter()
                    .map(|found| serde_json::json!({ "path": found.path, "reason": found.reason }))
                    .collect()
            };
            println!(
                "{}",
                serde_json::json!({
                    "layers": self.layers.objects,
                    "layer_bytes": self.layers.bytes,
                    "other_objects": self.others.objects,
                    "other_bytes": self.others.bytes,
                    "damaged": list(&self.damaged),
                    "unreadable": list(&self.unreadable),
                })
            );
            return;
        }
        for (what, findings) in [("damaged", &self.damaged), ("unreadable", &self.unreadable)] {
            for Finding { path, reason } in findings {
                println!("{what}  {path}: {reason}");
            }
        }
        println!(
            "{} layers, {} other objects: {} damaged, {} unreadable",
            self.layers,
            self.others,
            self.damaged.len(),
            self.unreadable.len(),
        );
    }
}

async fn scrub(store: &StoreClient) -> Result<Report, Failure> {
    let mut listed = Vec::new();
    for directory in ["catalog/", "tenants/"] {
        let found = store.list(directory, None).await;
        listed.extend(found.or_exit(Exit::Unavailable)?);
    }
    let total = listed.iter().map(|object| object.size_bytes).sum();
    let mut report = Report::default();
    let mut display = Display::new("scrubbed");
    let mut done = 0;
    let scrubbed = listed.into_iter().map(async |object: ListedObject| {
        let outcome = scrub_object(store, &object).await;
        (object, outcome)
    });
    let mut scrubbed = stream::iter(scrubbed).buffer_unordered(OBJECTS_AT_ONCE);
    while let Some((object, outcome)) = scrubbed.next().await {
        if Scrubber::is_layer(&object.path) {
            report.layers.add(&object);
        } else {
            report.others.add(&object);
        }
        done += object.size_bytes;
        display.show(done, Some(total)).or_exit(Exit::Other)?;
        let (list, reason) = match outcome {
            Ok(()) => continue,
            Err(Problem::Damaged(reason)) => (&mut report.damaged, reason),
            Err(Problem::Unreadable(reason)) => (&mut report.unreadable, reason),
        };
        let path = object.path;
        list.push(Finding { path, reason });
    }
    display.finish();
    for list in [&mut report.damaged, &mut report.unreadable] {
        list.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(report)
}

enum Problem {
    Damaged(String),
    Unreadable(String),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            // It was listed, with another length.
            StoreError::NotFound { .. } | StoreError::ShortBody { .. } => {
                Problem::Damaged(error.to_string())
            }
            other => Problem::Unreadable(other.to_string()),
        }
    }
}

async fn scrub_object(store: &StoreClient, object: &ListedObject) -> Result<(), Problem> {
    let ListedObject { path, size_bytes } = object;
    let damaged = |e: engine::scrub::ScrubError| Problem::Damaged(e.to_string());
    let tail_at = if Scrubber::is_layer(path) {
        size_bytes.saturating_sub(Scrubber::LAYER_TAIL_BYTES)
    } else {
        *size_bytes
    };
    let tail = store.read(path, tail_at..*size_bytes).await?;
    let mut scrubber = Scrubber::new(path, *size_bytes, &tail).map_err(damaged)?;
    let mut body = store.get(path, 0..*size_bytes).await?;
    while let Some(chunk) = body.next().await {
        scrubber.push(&chunk?).map_err(damaged)?;
    }
    scrubber.finish().map_err(damaged)
}

/// Small objects take longer to ask for than to read.
const OBJECTS_AT_ONCE: usize = 8;
