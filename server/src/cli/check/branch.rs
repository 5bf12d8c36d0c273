//! The check of a branch.

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine::check::{CheckConfig, CheckReport, Finding, Inspector};
use engine::types::{BranchId, TenantId};
use postgres::inspect::PageInspector;

use super::CheckArguments;
use crate::address::BranchAddress;
use crate::cli::import::{Display, human};
use crate::cli::{Context, scratch_engine};
use crate::cpu::BlockingThreads;
use crate::exit::{Exit, Failure};

pub(super) fn run(
    context: &Context,
    address: &BranchAddress,
    arguments: &CheckArguments,
) -> Result<(), Failure> {
    let is_deep = arguments.deep;
    let work = async move |engine: &Arc<Engine>, place: (TenantId, BranchId)| {
        let config = CheckConfig {
            is_deep,
            step_bytes: STEP_BYTES,
            open_deadline: OPEN_DEADLINE,
        };
        let inspector: Arc<dyn Inspector> = Arc::new(PageInspector);
        let mut display = Display::new("checked");
        let mut shown = Ok(());
        let progress = |report: &CheckReport| {
            shown = display.show(report.read_bytes, Some(report.layer_bytes));
        };
        let checking = engine.check_branch(place, &config, &inspector, &BlockingThreads, progress);
        let report = checking.await?;
        shown.map_err(|error| Failure::new(Exit::Other, error))?;
        display.finish();
        Ok(report)
    };
    let report = scratch_engine::with(context, address, work)?;
    if arguments.json {
        println!("{}", as_json(&report, is_deep));
    } else {
        print(&report, is_deep);
    }
    match report.findings.len() as u64 + report.more_findings {
        0 => Ok(()),
        1 => Err(Failure::new(
            Exit::Corrupt,
            "something is not as it should be",
        )),
        count => Err(Failure::new(
            Exit::Corrupt,
            format!("{count} things are not as they should be"),
        )),
    }
}

fn print(report: &CheckReport, is_deep: bool) {
    for Finding { place, reason } in &report.findings {
        println!("WRONG  {place}: {reason}");
    }
    if report.more_findings > 0 {
        println!("WRONG  {} more like these", report.more_findings);
    }
    if let Some((from, to)) = report.readable {
        println!("readable from {from} to {to}");
    }
    if let Some((parent, at)) = report.parent {
        println!("what it has of its parent, branch {parent} up to {at}, is checked with that");
    }
    let (layers, bytes) = (report.layers, human(report.layer_bytes));
    println!("{layers} layers ({bytes})");
    let (pieces, bytes) = (report.wal_pieces, human(report.wal_bytes));
    println!("{pieces} pieces of WAL behind them ({bytes} of WAL)");
    if let (count @ 1.., bytes) = report.orphans {
        let bytes = human(bytes);
        println!(
            "{count} layers that nothing names ({bytes}): the next server that writes the branch deletes them"
        );
    }
    if is_deep {
        let CheckReport {
            keys,
            versions,
            replayed,
            unread,
            ..
        } = report;
        println!("{keys} keys in {versions} versions: {replayed} replayed on the one before");
        if *unread > 0 {
            println!("{unread} changes below what can be read were opened, and not replayed");
        }
    }
}

fn as_json(report: &CheckReport, is_deep: bool) -> serde_json::Value {
    let findings = report.findings.iter();
    let findings: Vec<_> = findings
        .map(|found| serde_json::json!({ "place": found.place, "reason": found.reason }))
        .collect();
    serde_json::json!({
        "deep": is_deep,
        "readable_from": report.readable.map(|(from, _)| from.to_string()),
        "last_lsn": report.readable.map(|(_, to)| to.to_string()),
        "parent": report.parent.map(|(parent, _)| parent.to_string()),
        "layers": report.layers,
        "layer_bytes": report.layer_bytes,
        "read_bytes": report.read_bytes,
        "wal_pieces": report.wal_pieces,
        "wal_bytes": report.wal_bytes,
        "orphans": report.orphans.0,
        "orphan_bytes": report.orphans.1,
        "keys": report.keys,
        "versions": report.versions,
        "replayed": report.replayed,
        "unread": report.unread,
        "findings": findings,
        "more_findings": report.more_findings,
    })
}

/// Bytes of layers that are opened at once.
const STEP_BYTES: u64 = 64 << 20;
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
