//! Objects and cache files that are not what they were: an error that names the object, or a right page; never a wrong one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::page_client::{Answer, Ask, Connection, LATEST, dial};
use harness::server::{Server, Site};

use crate::cluster_files;
use crate::{Small, source};

/// Asks for every page; the texts of the errors. A wrong page is a failed test.
fn errors_of_all_pages(small: &Small, server: &Server) -> Vec<String> {
    let mut client = server.client(&small.branch);
    let blocks = small.files.blocks();
    let asks: Vec<Ask> = blocks
        .iter()
        .map(|(rel, block)| Ask::GetPage(*rel, *block))
        .collect();
    let answers = client.ask_all(&asks, LATEST).expect("answers");
    let mut errors = Vec::new();
    for ((rel, block), answer) in blocks.iter().zip(answers) {
        match answer {
            Answer::Error(text) => errors.push(text),
            page => {
                let right = small.files.page(*rel, *block);
                assert!(cluster_files::is_page(&page, right), "{rel:?} {block}");
            }
        }
    }
    errors
}

/// A server that has nothing of the store but what it reads now.
fn serve_cold(site: &Site) -> Server {
    // There may be no cache yet.
    let _none = fs::remove_dir_all(site.data_dir().join("cache"));
    site.serve()
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("ASCII")
}

#[test]
fn a_layer_that_is_missing_exchanged_or_newer_is_an_error_that_names_it() {
    let small = Small::new(&[]);
    let site = &small.site;
    let own = site.layer_files();
    // Another branch of the same tenant, of the same pages: valid objects, of another place.
    site.succeed(&["import", &source(&small.cluster), "acme/other"]);
    let other: Vec<PathBuf> = site
        .layer_files()
        .into_iter()
        .filter(|path| !own.contains(path))
        .collect();
    let layer = own
        .iter()
        .max_by_key(|path| path.metadata().expect("a file").len())
        .expect("a layer");
    let content = fs::read(layer).expect("a layer");
    // The header's version is looked at when something does not open.
    let mut newer = content.clone();
    newer[8] = 99;
    newer[200..]
        .iter_mut()
        .step_by(4_000)
        .for_each(|byte| *byte ^= 1);
    for (what, stored, scrubbed) in [
        ("missing", None, 0),
        (
            "of another branch",
            Some(fs::read(&other[0]).expect("a layer")),
            7,
        ),
        ("of a newer format", Some(newer), 7),
        ("cut short", Some(content[..content.len() / 2].to_vec()), 7),
    ] {
        match &stored {
            Some(bytes) => fs::write(layer, bytes).expect("written"),
            None => fs::remove_file(layer).expect("removed"),
        }
        let server = serve_cold(site);
        let errors = errors_of_all_pages(&small, &server);
        assert!(!errors.is_empty(), "{what}: nobody noticed");
        let named = errors.iter().filter(|text| text.contains(&small.branch.id));
        assert_eq!(named.count(), errors.len(), "{what}: {}", errors[0]);
        if what == "of a newer format" {
            assert!(errors[0].contains("99"), "{}", errors[0]);
        }
        drop(server);
        let report = site.run(&["scrub"]);
        assert_eq!(report.status.code(), Some(scrubbed), "{what}");
        // The store is repaired: so is what is read.
        fs::write(layer, &content).expect("written");
        let server = serve_cold(site);
        assert_eq!(errors_of_all_pages(&small, &server), [] as [String; 0]);
    }
}

#[test]
fn a_damaged_manifest_or_key_table_is_told_to_who_opens_the_branch_and_found_by_scrub() {
    let small = Small::new(&[]);
    let site = &small.site;
    for folder in ["manifest", "keys"] {
        let files = site.stored_files(folder);
        let path = files.last().expect("an object");
        let content = fs::read(path).expect("an object");
        let mut damaged = content.clone();
        damaged[content.len() - 30] ^= 1;
        fs::write(path, &damaged).expect("written");
        let report = site.fail(7, &["scrub"]);
        let found = report.lines().find(|line| line.starts_with("damaged"));
        assert!(found.expect(&report).contains(name(path)), "{report}");

        let server = serve_cold(site);
        let stream = dial(server.pages).expect("it listens");
        let mut session = Connection::open(stream, None).expect("a session");
        match session.begin_pages(3, &small.branch.tenant, &small.branch.id) {
            // A table of keys may be wanted by the first read only.
            Ok(()) => assert!(!errors_of_all_pages(&small, &server).is_empty(), "{folder}"),
            Err(refused) => assert_eq!(refused.code(), Some("XX001"), "{refused}"),
        }
        drop(server);
        fs::write(path, &content).expect("written");
        let server = serve_cold(site);
        assert_eq!(errors_of_all_pages(&small, &server), [] as [String; 0]);
        site.succeed(&["scrub"]);
    }
}

#[test]
fn cache_files_that_are_damaged_exchanged_or_of_another_server_cost_a_fetch_only() {
    let small = Small::new(&[("cache", "size = \"512MiB\"")]);
    let site = &small.site;
    let cache = site.data_dir().join("cache");
    let slots = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&cache).expect("a cache");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .filter(|path| name(path).starts_with("slots"))
            .collect()
    };
    let flip = |bytes: &mut Vec<u8>| bytes.iter_mut().step_by(4_000).for_each(|byte| *byte ^= 1);
    let swap = |bytes: &mut Vec<u8>| {
        let mut halves = bytes.as_chunks_mut::<SLOT_BYTES>().0.chunks_exact_mut(2);
        halves.by_ref().for_each(|pair| pair.swap(0, 1));
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 3);
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let changes = [
        ("flipped", &flip as Change<'_>),
        ("swapped", &swap),
        ("cut", &cut),
    ];
    for (what, change) in changes {
        let server = site.serve();
        assert_eq!(errors_of_all_pages(&small, &server), [] as [String; 0]);
        let (status, _) = server.terminate();
        assert_eq!(status.code(), Some(0));
        for path in slots() {
            let mut bytes = fs::read(&path).expect("a slot file");
            change(&mut bytes);
            fs::write(&path, bytes).expect("written");
        }
        let server = site.serve();
        assert_eq!(
            errors_of_all_pages(&small, &server),
            [] as [String; 0],
            "{what}"
        );
        let doubtful = server.metric("pageserver_engine_seal_failures_cache_total")
            + server.metric("pageserver_engine_extents_demanded_total");
        assert!(doubtful > 0, "{what}: the damage was not met");
    }

    // The cache of another server on the same store: nothing in it is taken over.
    let server = site.serve();
    assert_eq!(errors_of_all_pages(&small, &server), [] as [String; 0]);
    assert_eq!(server.terminate().0.code(), Some(0));
    fs::remove_file(site.data_dir().join("server-id")).expect("an id");
    let server = site.serve();
    assert_eq!(errors_of_all_pages(&small, &server), [] as [String; 0]);
    assert!(server.metric("pageserver_reads_total{tier=\"store\"}") > 0);
    drop(server);

    // Files that can't be opened for writing: served without a cache.
    for path in slots() {
        fs::remove_file(&path).expect("a slot file");
        fs::create_dir(&path).expect("a folder in its place");
    }
    let server = site.serve();
    assert_eq!(errors_of_all_pages(&small, &server), [] as [String; 0]);
    assert_eq!(server.metric("pageserver_reads_total{tier=\"cache\"}"), 0);
}

const SLOT_BYTES: usize = 256 << 10;

/// A file system of its own on a file of `mib` MiB; unmounted on drop.
struct SmallVolume(PathBuf);

impl SmallVolume {
    fn mount(site: &Site, mib: u64, at: PathBuf) -> SmallVolume {
        let image = site.path("volume");
        let file = fs::File::create(&image).expect("the volume's file");
        file.set_len(mib << 20).expect("a sparse file");
        fs::create_dir_all(&at).expect("a folder to mount on");
        let run = |program: &str, arguments: &[&Path]| {
            let status = Command::new(program).args(arguments).status();
            assert!(status.expect("it is installed").success(), "{program}");
        };
        run("mkfs.ext4", &["-q".as_ref(), &image]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &at]);
        SmallVolume(at)
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

#[test]
fn with_a_full_disk_pages_are_served_without_caching_and_a_small_one_is_used() {
    let small = Small::new(&[]);
    let cache = small.site.data_dir().join("cache");
    let volume = SmallVolume::mount(&small.site, 96, cache.clone());
    let filler = cache.join("filler");
    let filled = fs::write(&filler, vec![7; 192 << 20]);
    let error = filled.expect_err("more than the volume has");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let server = small.site.serve();
    for _ in 0..2 {
        assert_eq!(errors_of_all_pages(&small, &server), Vec::<String>::new());
    }
    assert_eq!(server.metric("pageserver_cache_slots{"), 0);
    let log = server.log();
    assert!(log.contains("the cache stays smaller"), "{log}");
    drop(server);

    // Much less than the configuration wants; the next start has no less.
    fs::remove_file(filler).expect("the filler");
    let mut slots = Vec::new();
    for _ in 0..2 {
        let server = small.site.serve();
        for _ in 0..2 {
            assert_eq!(errors_of_all_pages(&small, &server), Vec::<String>::new());
        }
        slots.push(server.metric("pageserver_cache_slots{"));
        assert!(server.metric("pageserver_reads_total{tier=\"cache\"}") > 0);
        let log = server.log();
        assert!(log.contains("the cache gets what fits"), "{log}");
        assert_eq!(server.terminate().0.code(), Some(0));
    }
    assert!((200..384).contains(&slots[0]), "{slots:?} slots");
    assert!((slots[0]..384).contains(&slots[1]), "{slots:?} slots");
    drop(volume);
}
