//! `kill -9` in every stage of the work, as often in each as `PAGESERVER_KILLS` says. After every kill the oracle
//! judges: what is visible is whole, what is not can be done again, and every page that the server answers, from what
//! the kill left behind, is the cluster's own.
//!
//! | stage | what the process is doing when it is killed | how it is caught at it |
//! | --- | --- | --- |
//! | import | reads its source | has a file of it open, seen when it is stopped, and no layer is there yet |
//! | layer write | writes a layer into the local store | has its file open, seen when it is stopped |
//! | upload | sends a layer to an S3 server | a proxy holds the request, at any part of its body |
//! | manifest commit | puts an entry of the manifest, or the name | the proxy holds it, undone, or done and not answered |
//! | fill | receives an extent, or writes it to its slot | the proxy holds the answer; or a slot file has changed |
//! | cache-index write | writes the index, at work or while it stops | an index file has just changed |
//!
//! A kill counts for its stage only if the process was alive and caught at it. The tests print how many they made of
//! each; `tests/run --full` adds them up.

mod moments;

use std::fmt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::page_client::{Answer, Ask, ClientError, LATEST, PageClient};
use harness::server::{Branch, Server, Site};
use harness::store_proxy::{Hold, StoreProxy, Trap};
use harness::stores::StoreServer;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use self::moments::{stopped_with_open, wait_for_change};
use crate::{Small, cluster_files, s3_site, source};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Import,
    LayerWrite,
    Upload,
    ManifestCommit,
    Fill,
    CacheIndexWrite,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Import => "import",
            Stage::LayerWrite => "layer write",
            Stage::Upload => "upload",
            Stage::ManifestCommit => "manifest commit",
            Stage::Fill => "fill",
            Stage::CacheIndexWrite => "cache-index write",
        })
    }
}

#[test]
fn an_import_killed_while_it_reads_or_writes_layers_leaves_nothing_or_a_whole_branch() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut site = None;
    for stage in [Stage::Import, Stage::LayerWrite] {
        kill_in(stage, |number| {
            // A new site now and then, so that the number of kills is not bounded by the size of a disk.
            if number % KILLS_PER_SITE == 0 {
                site = None;
            }
            let small = site.get_or_insert_with(|| Small::new(&[]));
            let name = format!("{stage:?}-{number}");
            let layers = small.site.layer_files().len();
            let mut child = begin_import(small, &name);
            // A layer is open for as long as it takes to write and sync it.
            let linger = moment(
                &mut random,
                Duration::from_millis(if stage == Stage::Import { 20 } else { 1 }),
            );
            let cluster = small.cluster.data_directory();
            let caught = stopped_with_open(&mut child, linger, |path| match stage {
                Stage::Import => path.starts_with(&cluster),
                // Layers are read by servers only: whoever imports and has one open writes it.
                _ => path
                    .parent()
                    .is_some_and(|folder| folder.ends_with("layers")),
            });
            let succeeded = kill(child);
            let written = small.site.layer_files().len() > layers;
            judge_import(small, &name, succeeded);
            caught && (stage != Stage::Import || !written)
        });
    }
}

#[test]
fn an_import_killed_while_it_uploads_or_commits_leaves_nothing_or_a_whole_branch() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut site = None;
    for stage in [Stage::Upload, Stage::ManifestCommit] {
        kill_in(stage, |number| {
            if number % KILLS_PER_SITE == 0 {
                site = None;
            }
            let (_s3, proxy, small) = site.get_or_insert_with(|| {
                let s3 = StoreServer::s3();
                let proxy = StoreProxy::start(s3.endpoint());
                let small = Small::at(s3_site(&proxy.endpoint(), &[]));
                (s3, proxy, small)
            });
            let share = random.next_u64() % 1001;
            proxy.set_trap(if stage == Stage::Upload {
                Trap {
                    method: "PUT",
                    paths: &["/layers/"],
                    passing: 0,
                    hold: [Hold::Request(share), Hold::Answer(0)][number % 2],
                }
            } else {
                Trap {
                    method: "PUT",
                    paths: &["/manifest/", "/names/"],
                    // The branch's creation, its layers, its last edit, its name.
                    passing: random.next_u64() % 4,
                    hold: [Hold::Request(share), Hold::Answer(0)][number % 2],
                }
            });
            let name = format!("{stage:?}-{number}");
            let mut child = begin_import(small, &name);
            let caught = proxy.wait_sprung(|| child.try_wait().expect("our child").is_none());
            let succeeded = kill(child);
            proxy.release();
            judge_import(small, &name, succeeded);
            caught
        });
    }
}

#[test]
fn a_server_killed_while_it_fills_its_cache_or_writes_its_index_starts_again_and_is_right() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let s3 = StoreServer::s3();
    let proxy = StoreProxy::start(s3.endpoint());
    // So small that there is always something to be fetched.
    let small = Small::at(s3_site(&proxy.endpoint(), &[("cache", "size = \"16MiB\"")]));
    for stage in [Stage::Fill, Stage::CacheIndexWrite] {
        kill_in(stage, |number| {
            if number % 4 == 3 {
                kill_start(&small.site, &mut random);
            }
            let server = small.site.serve();
            let caught = kill_at_work(&small, server, &proxy, (stage, number), &mut random);
            let server = small.site.serve();
            small.files.assert_served(&mut server.client(&small.branch));
            server.kill();
            caught
        });
    }
    let server = small.site.serve();
    small.files.assert_served(&mut server.client(&small.branch));
    let (status, _) = server.terminate();
    assert_eq!(status.code(), Some(0));
}

/// Kills as often as is wanted; `kill` says whether it was in the stage.
fn kill_in(stage: Stage, mut kill: impl FnMut(usize) -> bool) {
    #[expect(clippy::disallowed_methods, reason = "tests have no main")]
    let wanted = std::env::var("PAGESERVER_KILLS").ok();
    let wanted = wanted.map_or(KILLS, |text| text.parse().expect("a number"));
    let mut kills = 0;
    for number in 0..wanted * TRIES_PER_KILL {
        if kills == wanted {
            break;
        }
        kills += usize::from(kill(number));
    }
    // What tests/run --full adds up.
    println!("kills: {kills} {stage}");
    assert_eq!(kills, wanted, "{stage}: not caught at it often enough");
}

fn begin_import(small: &Small, name: &str) -> Child {
    let address = format!("acme/{name}");
    let mut command = small
        .site
        .command(&["import", &source(&small.cluster), &address]);
    spawn(&mut command)
}

/// What an import that was killed has left: nothing, and then it is done again; or all of it.
fn judge_import(small: &Small, name: &str, succeeded: bool) {
    let site = &small.site;
    let source = source(&small.cluster);
    let address = format!("acme/{name}");
    if succeeded {
        assert!(find(site, name).is_some(), "{name}: imported and not there");
    }
    if find(site, name).is_some() {
        // Then it is as complete as any, and taken.
        site.fail(8, &["import", &source, &address]);
    } else {
        site.succeed(&["import", &source, &address]);
    }
    let branch = Branch {
        id: find(site, name).expect("imported"),
        ..small.branch.clone()
    };
    let server = site.serve();
    small.files.assert_served(&mut server.client(&branch));
}

/// The id of a branch, if it is listed.
fn find(site: &Site, name: &str) -> Option<String> {
    let listed = site.json(&["branch", "list", "acme", "--json"]);
    let branches = listed.as_array().expect("a list");
    let branch = branches.iter().find(|branch| branch["name"] == name)?;
    Some(branch["id"].as_str().expect("an id").to_owned())
}

/// Reads until the server is caught in the stage, and kills it; whether it was.
fn kill_at_work(
    small: &Small,
    mut server: Server,
    proxy: &StoreProxy,
    (stage, number): (Stage, usize),
    random: &mut ChaCha8Rng,
) -> bool {
    let cache = small.site.data_dir().join("cache");
    let mut client = server.client(&small.branch);
    // Opens the layers, so that what is fetched from now on is extents.
    let blocks = small.files.blocks();
    let some: Vec<_> = (0..100).map(|_| *pick(random, &blocks)).collect();
    small.files.assert_blocks_served(&mut client, &some, LATEST);
    let enough = AtomicBool::new(false);
    let (seed, share, pause) = (
        random.next_u64(),
        random.next_u64() % 1000,
        random.next_u64(),
    );
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_until(small, client, seed, &enough));
        // So that it is not always the first of the kind.
        std::thread::sleep(Duration::from_micros(pause % 200_000));
        let until = now() + CATCH_MAX;
        let caught = match (stage, number % 2) {
            (Stage::Fill, 0) => {
                proxy.set_trap(Trap {
                    method: "GET",
                    paths: &["/layers/"],
                    passing: 0,
                    hold: Hold::Answer(share),
                });
                proxy.wait_sprung(|| now() < until)
            }
            (Stage::Fill, _) => wait_for_change(&cache, "slots-", || now() < until),
            (_, 0) => wait_for_change(&cache, "index-", || now() < until),
            _ => {
                enough.store(true, Ordering::Relaxed);
                while !reader.is_finished() {
                    std::thread::yield_now();
                }
                server.ask_to_stop();
                wait_for_change(&cache, "index-", || !server.has_ended())
            }
        };
        let caught = caught && !server.has_ended();
        drop(server);
        proxy.release();
        enough.store(true, Ordering::Relaxed);
        reader.join().expect("every page was right");
        caught
    })
}

/// Kills a server that may not have come so far as to serve.
fn kill_start(site: &Site, random: &mut ChaCha8Rng) {
    let child = spawn(&mut site.command(&["serve"]));
    std::thread::sleep(moment(random, Duration::from_millis(300)));
    assert!(!kill(child), "a server that ends by itself");
}

/// Reads at random until the server is gone, or it is enough.
fn read_until(small: &Small, mut client: PageClient, seed: u64, enough: &AtomicBool) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let blocks = small.files.blocks();
    while !enough.load(Ordering::Relaxed) {
        let some: Vec<_> = (0..16).map(|_| *pick(&mut random, &blocks)).collect();
        let asks: Vec<Ask> = some
            .iter()
            .map(|(rel, block)| Ask::GetPage(*rel, *block))
            .collect();
        let answers: Vec<Answer> = match client.ask_all(&asks, LATEST) {
            Ok(answers) => answers,
            Err(ClientError::Io(_)) => return,
            Err(other) => panic!("{other}"),
        };
        for ((rel, block), answer) in some.iter().zip(&answers) {
            let page = small.files.page(*rel, *block);
            assert!(
                cluster_files::is_page(answer, page),
                "{rel:?} block {block}"
            );
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program runs")
}

/// Kills a process; whether it had succeeded before.
fn kill(mut child: Child) -> bool {
    // It may have ended already.
    let _gone = child.kill();
    let status = child.wait().expect("our child");
    assert!(status.code().is_none_or(|code| code == 0), "{status}");
    status.success()
}

fn moment(random: &mut ChaCha8Rng, longest: Duration) -> Duration {
    let span = u64::try_from(longest.as_micros()).expect("short");
    Duration::from_micros(random.next_u64() % span.max(1))
}

fn pick<'a, T>(random: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
    let count = u64::try_from(from.len()).expect("64 bits");
    &from[usize::try_from(random.next_u64() % count).expect("below a length")]
}

#[expect(clippy::disallowed_methods, reason = "tests have no main")]
fn now() -> Instant {
    Instant::now()
}

/// Kills in each stage, unless another number is asked for.
const KILLS: usize = 2;
/// A process that is not caught in its stage is tried again so often, on average.
const TRIES_PER_KILL: usize = 20;
const KILLS_PER_SITE: usize = 8;
/// Longest wait for a server that is being read to do what it is to be killed at.
const CATCH_MAX: Duration = Duration::from_secs(60);
