//! The commands that need no server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::page_client::{Answer, Ask, LATEST, RelationFork};
use harness::server::parse_lsn;

use crate::{Small, cluster_files};

#[test]
fn configuration_and_keys_are_told_apart_from_mistakes() {
    let small = Small::new(&[]);
    let site = &small.site;
    let again = site.succeed(&["init"]);
    assert_eq!(again.matches("was there").count(), 2, "{again}");

    for line in site.succeed(&["check", "--json"]).lines() {
        let finding: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(finding["ok"], true, "{line}");
    }
    let server = site.serve();
    let unfit = site.fail(3, &["check"]);
    assert!(unfit.contains("used by another pageserver"), "{unfit}");
    drop(server);

    site.configure(&[("pages", "conections_max = 3")]);
    for command in ["serve", "check", "init"] {
        let refused = site.fail(3, &[command]);
        assert!(refused.contains("conections_max"), "{command}: {refused}");
    }
    site.configure(&[("pages", "frame_max = \"2MiB\"\nidle_timeout = \"1ms\"")]);
    let refused = site.fail(3, &["serve"]);
    for key in ["pages.frame_max", "pages.idle_timeout"] {
        assert!(refused.contains(key), "{key}: {refused}");
    }
    site.configure(&[]);

    // A key goes to a safe place and comes back.
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&site.keyring()), 0o600);
    let exported = site.succeed(&["key", "export"]);
    assert_eq!(exported.lines().count(), 1);
    let safe = site.path("safe");
    let safe_text = safe.to_str().expect("UTF-8");
    site.succeed(&["key", "export", "--output", safe_text]);
    assert_eq!(fs::read_to_string(&safe).expect("written"), exported);
    assert_eq!(mode(&safe), 0o600);
    let ids = site.json(&["key", "list", "--json"]);
    fs::remove_file(site.keyring()).expect("a keyring");
    let lost = site.fail(8, &["branch", "list"]);
    assert!(lost.contains("key import"), "{lost}");
    fs::write(
        site.path("wrong"),
        exported.to_ascii_uppercase().replace('A', "B"),
    )
    .expect("written");
    site.fail(
        8,
        &["key", "import", site.path("wrong").to_str().expect("UTF-8")],
    );
    // Another deployment's keyring opens nothing here.
    site.succeed(&["init"]);
    assert_ne!(site.json(&["key", "list", "--json"]), ids);
    assert_ne!(site.run(&["branch", "list"]).status.code(), Some(0));
    fs::remove_file(site.keyring()).expect("a keyring");
    site.succeed(&["key", "import", safe_text]);
    assert_eq!(site.json(&["key", "list", "--json"]), ids);
    let server = site.serve();
    small.assert_right(&mut server.client(&small.branch));
}

#[test]
fn single_pages_and_branches_are_shown() {
    let small = Small::new(&[]);
    let site = &small.site;
    let listed = site.json(&["branch", "list", "--json"]);
    let [branch] = listed.as_array().expect("a list").as_slice() else {
        panic!("{listed}");
    };
    assert_eq!(branch["id"], small.branch.id);
    assert_eq!(branch["tenant_id"], small.branch.tenant);
    assert_eq!(
        (&branch["tenant"], &branch["name"]),
        (&"acme".into(), &"main".into())
    );
    let last = branch["last_lsn"].as_str().expect("an LSN");
    assert_eq!(parse_lsn(last), small.branch.last_lsn);
    let bytes: u64 = site
        .layer_files()
        .iter()
        .map(|path| path.metadata().expect("a file").len())
        .sum();
    assert_eq!(branch["layer_bytes"], bytes);

    let (rel, page) = small.first_page();
    let RelationFork {
        tablespace,
        database,
        relation,
        fork,
    } = rel;
    assert_eq!(fork, 0);
    let name = format!("{tablespace}/{database}/{relation}");
    let shown = site.run(&["get", "acme/main", "--rel", &name, "--block", "0"]);
    assert!(shown.status.success() && shown.stdout == page, "{name}");
    let at = format!("{}/{}@{last}", small.branch.tenant, small.branch.id);
    let header = site.json(&[
        "get", &at, "--rel", &name, "--block", "0", "--header", "--json",
    ]);
    let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"));
    let lsn = (u64::from(word(0)) << 32) | u64::from(word(4));
    assert_eq!(parse_lsn(header["lsn"].as_str().expect("an LSN")), lsn);
    assert_eq!(header["page_bytes"], 8192);
    let header = site.succeed(&["get", &at, "--rel", &name, "--block", "0", "--header"]);
    assert!(header.contains("layout_version"), "{header}");

    for (code, address, rel) in [
        (4, "acme/none", name.as_str()),
        (4, "none/main", &name),
        (4, "acme/main", "1663/5/4000000000"),
        (4, "acme/main@0/8", &name),
        (4, "acme/main@FFFF/0", &name),
        (2, "acme/main", "1663/5/0"),
        (2, "acme", &name),
    ] {
        site.fail(code, &["get", address, "--rel", rel, "--block", "0"]);
    }
    let source = crate::source(&small.cluster);
    let refused = site.fail(8, &["import", &source, "acme/main"]);
    assert!(refused.contains("main"), "{refused}");
    site.fail(4, &["import", &source, "nobody/main"]);
    site.fail(4, &["import", "/nothing/here", "acme/other"]);
}

#[test]
fn damage_in_a_stored_layer_is_found_and_never_served() {
    let small = Small::new(&[]);
    let site = &small.site;
    let sound = site.json(&["scrub", "--json"]);
    assert_eq!(sound["damaged"], serde_json::json!([]));
    let layers = site.layer_files();
    assert_eq!(sound["layers"], layers.len());
    let checked = site.json(&["check", "acme/main", "--deep", "--json"]);
    assert_eq!(checked["findings"], serde_json::json!([]));
    assert_eq!(checked["layers"], layers.len());
    let pages = small.files.blocks().len() as u64;
    assert!(checked["keys"].as_u64() > Some(pages), "{checked:#}");
    assert_eq!(
        checked["read_bytes"].as_u64().map(|read| read > 0),
        Some(true)
    );

    let layer = layers
        .iter()
        .max_by_key(|path| path.metadata().expect("a file").len());
    let layer = layer.expect("a layer");
    let content = fs::read(layer).expect("a layer");
    let mut damaged = content.clone();
    damaged[content.len() / 2] ^= 1;
    fs::write(layer, &damaged).expect("written");
    let report = site.fail(7, &["scrub"]);
    let name = layer.file_name().expect("a name").to_str().expect("ASCII");
    let found = report
        .lines()
        .find(|line| line.starts_with("damaged"))
        .expect(&report);
    assert!(found.contains(name), "{report}");
    // What is only named and listed is as it was.
    site.succeed(&["check", "acme/main"]);
    let report = site.fail(7, &["check", "acme/main", "--deep"]);
    let found = report.lines().find(|line| line.starts_with("WRONG"));
    assert!(found.expect(&report).contains(name), "{report}");

    let server = site.serve();
    let mut client = server.client(&small.branch);
    let blocks = small.files.blocks();
    let asks: Vec<Ask> = blocks
        .iter()
        .map(|(rel, block)| Ask::GetPage(*rel, *block))
        .collect();
    let mut refused = Vec::new();
    for ((rel, block), answer) in blocks
        .iter()
        .zip(client.ask_all(&asks, LATEST).expect("answers"))
    {
        if matches!(answer, Answer::Error(_)) {
            refused.push((*rel, *block));
            continue;
        }
        let page = small.files.page(*rel, *block);
        assert!(
            cluster_files::is_page(&answer, page),
            "{rel:?} block {block} is wrong"
        );
    }
    assert!(
        !refused.is_empty() && refused.len() < blocks.len(),
        "{} refused",
        refused.len()
    );
    // Once the store is repaired, so is what is read from it.
    fs::write(layer, &content).expect("written");
    drop(server);
    let server = site.serve();
    small
        .files
        .assert_blocks_served(&mut server.client(&small.branch), &refused, LATEST);
    site.succeed(&["scrub"]);
}
