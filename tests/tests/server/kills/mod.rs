//! Kills at random moments, as many as `PAGESERVER_KILLS` says: whatever is visible afterwards is whole and right.

use std::ops::Range;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use harness::page_client::{Answer, Ask, ClientError, LATEST, PageClient};
use harness::server::{Branch, Site};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::{Small, cluster_files, source};

#[test]
fn a_killed_import_leaves_nothing_visible_or_a_whole_branch() {
    let kills = kills();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // A new site now and then, so that the number of kills is not bounded by the size of a disk.
    for first in (0..kills).step_by(KILLS_PER_SITE) {
        let begun = now();
        let small = Small::new(&[]);
        let took = begun.elapsed();
        let last = kills.min(first + KILLS_PER_SITE);
        for number in first..last {
            kill_import(&small, &format!("killed-{number}"), took, &mut random);
        }
        assert_branches_served(&small, 1 + last - first);
    }
}

fn kill_import(small: &Small, name: &str, longest: Duration, random: &mut ChaCha8Rng) {
    let site = &small.site;
    let source = source(&small.cluster);
    let address = format!("acme/{name}");
    let mut command = site.command(&["import", &source, &address]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("the program runs");
    let ended = kill_after(child, moment(random, Duration::ZERO..longest));
    let listed = site.json(&["branch", "list", "acme", "--json"]);
    let names = listed.as_array().expect("a list").iter();
    let visible = names.filter(|branch| branch["name"] == name).count();
    if ended {
        assert_eq!(visible, 1, "{name}: imported and not there");
    }
    if visible == 0 {
        site.succeed(&["import", &source, &address]);
    } else {
        // It had come to its end: then it is as complete as any, and taken.
        site.fail(8, &["import", &source, &address]);
    }
}

/// Every branch of the tenant, page by page.
fn assert_branches_served(small: &Small, count: usize) {
    let listed = small.site.json(&["branch", "list", "acme", "--json"]);
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), count);
    let server = small.site.serve();
    for branch in listed {
        let branch = Branch {
            id: branch["id"].as_str().expect("an id").to_owned(),
            ..small.branch.clone()
        };
        small.files.assert_served(&mut server.client(&branch));
    }
}

#[test]
fn a_killed_server_starts_again_and_is_right() {
    let small = Small::new(&[("cache", "ram = \"4MiB\"")]);
    let blocks = small.files.blocks();
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for number in 0..kills() {
        if number % 4 == 3 {
            kill_start(&small.site, &mut random);
        }
        let server = small.site.serve();
        let mut client = server.client(&small.branch);
        let some: Vec<_> = (0..200).map(|_| *pick(&mut random, &blocks)).collect();
        small.files.assert_blocks_served(&mut client, &some, LATEST);
        let after = moment(&mut random, Duration::ZERO..Duration::from_millis(600));
        let seed = random.next_u64();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_until_gone(&small, client, seed));
            std::thread::sleep(after);
            server.kill();
            reader.join().expect("every page was right");
        });
    }
    let server = small.site.serve();
    small.files.assert_served(&mut server.client(&small.branch));
    let (status, _) = server.terminate();
    assert_eq!(status.code(), Some(0));
}

/// Kills a server that may not have come so far as to serve.
fn kill_start(site: &Site, random: &mut ChaCha8Rng) {
    let mut command = site.command(&["serve"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("the program runs");
    let after = moment(random, Duration::ZERO..Duration::from_millis(300));
    assert!(!kill_after(child, after), "a server that ends by itself");
}

/// Reads at random until the server is gone.
fn read_until_gone(small: &Small, mut client: PageClient, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let blocks = small.files.blocks();
    loop {
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

/// Kills a process after a while; whether it had succeeded by then.
fn kill_after(mut child: Child, after: Duration) -> bool {
    std::thread::sleep(after);
    // It may have ended already.
    let _gone = child.kill();
    let status = child.wait().expect("our child");
    assert!(status.code().is_none_or(|code| code == 0), "{status}");
    status.success()
}

fn moment(random: &mut ChaCha8Rng, within: Range<Duration>) -> Duration {
    let span = u64::try_from((within.end - within.start).as_micros()).expect("short");
    within.start + Duration::from_micros(random.next_u64() % span.max(1))
}

fn pick<'a, T>(random: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
    let count = u64::try_from(from.len()).expect("64 bits");
    &from[usize::try_from(random.next_u64() % count).expect("below a length")]
}

fn kills() -> usize {
    #[expect(clippy::disallowed_methods, reason = "tests have no main")]
    let wanted = std::env::var("PAGESERVER_KILLS").ok();
    wanted.map_or(KILLS, |text| text.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "tests have no main")]
fn now() -> Instant {
    Instant::now()
}

const KILLS: usize = 8;
const KILLS_PER_SITE: usize = 8;
