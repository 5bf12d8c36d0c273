//! What the hot path asks of the kernel, counted by `strace`.

use std::collections::BTreeMap;
use std::fs;

use harness::page_client::{Ask, LATEST};

use crate::{Small, cluster_files};

/// Pages read while system calls are counted.
const PAGES: usize = 2_000;
/// Times they are read until none comes from the store.
const ROUNDS_MAX: usize = 50;
/// Requests on their way at once.
const DEPTH: usize = 16;

/// Warm pages come by calls of the ring, and by writes that wake a sleeping core: at most one per batch, which is what a ring
/// submits. Nothing else is done for a page; what happens by the clock, however slow the machine, is far less often than
/// once in twenty pages.
#[test]
fn a_warm_page_takes_no_system_call_but_the_rings() {
    let small = Small::new(&[]);
    let trace = small.site.path("trace");
    let server = small.site.serve_traced(&trace);
    let mut client = server.client(&small.branch);
    let blocks = small.files.forks.iter().flat_map(|(rel, bytes)| {
        let count = bytes.len() / cluster_files::PAGE_BYTES;
        (0..u32::try_from(count).expect("small files")).map(move |block| Ask::GetPage(*rel, block))
    });
    let asks: Vec<Ask> = blocks.take(PAGES).collect();
    assert_eq!(asks.len(), PAGES, "initdb makes more pages than that");
    let mut read_all = || {
        for batch in asks.chunks(DEPTH) {
            let answers = client.ask_all(batch, LATEST);
            assert_eq!(answers.expect("pages").len(), batch.len());
        }
    };
    let from_store = || server.metric("pageserver_reads_total{tier=\"store\"}");
    // Until what came from the store has been written to the cache, and everything has grown to its size.
    let warm = (0..ROUNDS_MAX).any(|_| {
        let before = from_store();
        read_all();
        from_store() == before
    });
    assert!(warm, "the cache does not keep {PAGES} pages");
    let cores = core_threads(server.pid());
    assert!(!cores.is_empty());
    let began = fs::metadata(&trace).expect("the trace").len();
    read_all();
    let text = fs::read(&trace).expect("the trace");
    let began = usize::try_from(began).expect("it fits in memory");
    let calls = calls_of(&String::from_utf8_lossy(&text[began..]), &cores);

    let count = |name: &str| calls.get(name).copied().unwrap_or_default();
    let (enters, wakes) = (count("io_uring_enter"), count("write"));
    let others: usize = calls.values().sum::<usize>() - enters - wakes;
    assert!(enters > 0, "the tracer saw nothing: {calls:?}");
    assert!(wakes <= enters, "more than one wake per batch: {calls:?}");
    assert!(others <= PAGES / 20, "other calls: {calls:?}");
}

/// Thread ids of the process's cores.
fn core_threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it is running");
    let ids = tasks.map(|task| task.expect("a task").file_name());
    let ids = ids.map(|id| id.into_string().expect("a number"));
    ids.filter(|id| {
        let name = fs::read_to_string(format!("/proc/{pid}/task/{id}/comm"));
        name.is_ok_and(|name| name.starts_with("core-"))
    })
    .collect()
}

/// How often these threads began which call.
fn calls_of(trace: &str, threads: &[String]) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        if let Some((name, _)) = call.trim_start().split_once('(')
            && !name.contains('<')
            && threads.iter().any(|id| id == thread)
        {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}
