//! Branches of branches: made, listed, changed and deleted by the program and by a server's admin API, and their pages.

use harness::page_client::LATEST;
use harness::server::{Branch, Server, Site};
use harness::stores::StoreServer;
use serde_json::{Value, json};

use crate::{Small, s3_site};

/// A branch of the imported one's tenant, for clients.
fn branch(small: &Small, id: &Value) -> Branch {
    Branch {
        id: text(id),
        ..small.branch.clone()
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// Some pages of a branch, which must be those of the cluster.
fn assert_pages(small: &Small, server: &Server, id: &Value) {
    let some: Vec<_> = small.files.blocks().into_iter().step_by(5).collect();
    let mut client = server.client(&branch(small, id));
    small.files.assert_blocks_served(&mut client, &some, LATEST);
}

/// Name, parent's name and protection of every branch, in the order of the list.
fn listed(site: &Site) -> Vec<(String, String, bool)> {
    let branches = site.json(&["branch", "list", "acme", "--json"]);
    let branches = branches.as_array().expect("a list");
    let name = |branch: &Value| branch["name"].as_str().unwrap_or("-").to_owned();
    let name_of = |id: &Value| {
        let found = branches.iter().find(|branch| branch["id"] == *id);
        found.map_or_else(|| "-".to_owned(), name)
    };
    let view = |b: &Value| (name(b), name_of(&b["parent_id"]), b["protected"] == true);
    branches.iter().map(view).collect()
}

fn row(name: &str, parent: &str) -> (String, String, bool) {
    (name.to_owned(), parent.to_owned(), false)
}

#[test]
fn branches_are_made_without_a_copy_and_serve_their_parents_pages() {
    let small = Small::new(&[]);
    let site = &small.site;
    let main = site.json(&["branch", "list", "acme", "--json"])[0].clone();
    let last = text(&main["last_lsn"]);
    let before = site.stored_files("tenants").len();
    let made = site.json(&[
        "branch",
        "create",
        "acme/dev",
        "--from",
        "acme/main",
        "--json",
    ]);
    assert_eq!(site.stored_files("tenants").len(), before + 1, "one object");
    assert_eq!(made["parent_id"], main["id"]);
    assert_eq!(
        (&made["left_at"], &made["name"]),
        (&main["last_lsn"], &json!("dev"))
    );
    // A branch of a branch, at an LSN, by the parent's id.
    let from = format!("acme/{}@{last}", text(&made["id"]));
    let shown = site.succeed(&["branch", "create", "acme/inner", "--from", &from]);
    assert!(
        shown.contains("acme/inner") && shown.contains(&last),
        "{shown}"
    );
    let inner = site.json(&["branch", "list", "acme", "--json"])[2].clone();
    assert_eq!(
        (&inner["name"], &inner["parent_id"]),
        (&json!("inner"), &made["id"])
    );
    let sizes = |view: &Value| (view["layer_bytes"].clone(), view["shared_bytes"].clone());
    assert_eq!(sizes(&inner), (json!(0), main["layer_bytes"].clone()));
    assert_eq!(sizes(&main).1, json!(0));

    // As a tree, for people.
    let tree = site.succeed(&["branch", "list"]);
    let lines: Vec<&str> = tree.lines().collect();
    assert_eq!(lines.len(), 4, "{tree}");
    for (line, start) in lines
        .iter()
        .zip(["BRANCH", "acme/main", "  acme/dev", "    acme/inner"])
    {
        assert!(line.starts_with(start), "{tree}");
    }

    let server = site.serve();
    for id in [&made["id"], &inner["id"]] {
        assert_pages(&small, &server, id);
    }
    small
        .files
        .assert_served(&mut server.client(&branch(&small, &inner["id"])));
    let (rel, page) = small.first_page();
    let name = format!("{}/{}/{}", rel.tablespace, rel.database, rel.relation);
    let shown = site.run(&["get", "acme/inner", "--rel", &name, "--block", "0"]);
    assert!(shown.status.success() && shown.stdout == page, "{name}");
    site.succeed(&["scrub"]);

    for (code, arguments, says) in [
        (8, ["acme/dev", "acme/main"], "exists already"),
        (8, ["acme/new", "acme/main@0/8"], "can be read from"),
        (8, ["acme/new", "acme/main@FFFF/0"], last.as_str()),
        (2, ["acme/a@b", "acme/main"], "LSN"),
        (4, ["acme/new", "acme/none"], "no such branch"),
        (
            4,
            ["acme/new", "acme/00112233445566778899aabbccddeeff"],
            "no such branch",
        ),
        (4, ["none/new", "acme/main"], "no such tenant"),
    ] {
        let [name, from] = arguments;
        let refused = site.fail(code, &["branch", "create", name, "--from", from]);
        assert!(refused.contains(says), "{name} from {from}: {refused}");
    }
    site.succeed(&["tenant", "create", "other"]);
    site.fail(2, &["branch", "create", "other/new", "--from", "acme/main"]);
    let help = site.succeed(&["branch", "create", "--help"]);
    assert!(
        help.contains("--from") && help.contains("tenant/branch@LSN"),
        "{help}"
    );
    assert_eq!(listed(site).len(), 3);
}

#[test]
fn names_are_changed_protected_moved_and_used_again() {
    let small = Small::new(&[]);
    let site = &small.site;
    let last = text(&site.json(&["branch", "list", "--json"])[0]["last_lsn"]);
    for (name, from) in [("acme/dev", "acme/main"), ("acme/inner", "acme/dev")] {
        site.succeed(&["branch", "create", name, "--from", from]);
    }
    let refused = site.fail(8, &["branch", "delete", "acme/main"]);
    assert!(refused.contains("has children: dev, inner"), "{refused}");
    let said = site.succeed(&["branch", "delete", "acme/inner"]);
    assert!(said.contains("until garbage is collected"), "{said}");
    site.fail(4, &["branch", "delete", "acme/inner"]);

    site.succeed(&["branch", "protect", "acme/dev"]);
    assert_eq!(listed(site)[1], ("dev".to_owned(), "main".to_owned(), true));
    for command in ["delete", "reset"] {
        let refused = site.fail(8, &["branch", command, "acme/dev"]);
        assert!(refused.contains("unprotect"), "{refused}");
    }
    site.succeed(&["branch", "unprotect", "acme/dev"]);
    site.succeed(&["branch", "rename", "acme/dev", "devel"]);
    site.fail(8, &["branch", "rename", "acme/devel", "main"]);
    site.fail(4, &["branch", "rename", "acme/dev", "other"]);
    assert_eq!(listed(site), [row("main", "-"), row("devel", "main")]);

    let before = site.json(&["branch", "list", "--json"])[1]["id"].clone();
    let reset = site.json(&["branch", "reset", "acme/devel", "--json"]);
    assert_eq!(reset["was"], before);
    assert_ne!(reset["id"], before);
    assert_eq!(reset["left_at"], last.as_str());
    let refused = site.fail(8, &["branch", "reset", "acme/devel", "--to", "0/8"]);
    assert!(refused.contains(&last), "{refused}");
    let refused = site.fail(8, &["branch", "reset", "acme/main"]);
    assert!(refused.contains("no parent"), "{refused}");

    let main = site.json(&["branch", "list", "--json"])[0]["id"].clone();
    let point = format!("acme/main@{last}");
    let restored = site.json(&["branch", "restore", &point, "--json"]);
    let kept_as = format!("main-before-{}", last.replace('/', "-"));
    assert_eq!(
        (&restored["was"], &restored["kept_as"]),
        (&main, &json!(kept_as))
    );
    let shown = site.succeed(&["branch", "restore", &point, "--keep-as", "again"]);
    assert!(shown.contains("acme/again"), "{shown}");
    site.fail(8, &["branch", "restore", &point, "--keep-as", "again"]);
    site.fail(8, &["branch", "restore", "acme/main@FFFF/0"]);
    site.fail(2, &["branch", "restore", "acme/main"]);
    let expected = [
        row(&kept_as, "-"),
        row("again", &kept_as),
        row("main", "again"),
        row("devel", &kept_as),
    ];
    assert_eq!(listed(site), expected);

    // All of it is there to be read, also what has lost its name, and names are free again.
    let server = site.serve();
    let mains_now = site.json(&["branch", "list", "--json"])[2]["id"].clone();
    for id in [&mains_now, &main, &reset["id"], &before] {
        assert_pages(&small, &server, id);
    }
    for name in ["acme/main", "acme/devel"] {
        site.succeed(&["branch", "delete", name]);
        site.succeed(&["branch", "create", name, "--from", "acme/again"]);
    }
    let ids = site.json(&["branch", "list", "--json"]);
    let ids: Vec<&Value> = ids
        .as_array()
        .expect("a list")
        .iter()
        .map(|b| &b["id"])
        .collect();
    assert!(!ids.contains(&&mains_now) && !ids.contains(&&reset["id"]));
}

#[test]
fn a_running_server_makes_and_changes_branches() {
    let small = Small::new(&[]);
    let site = &small.site;
    let server = site.serve();
    let post = |path: &str, body: &str| {
        let (status, answer) =
            server.http("POST", &format!("/v1/tenants/acme/branches{path}"), body);
        let answer: Value = serde_json::from_str(&answer).unwrap_or(Value::String(answer));
        (status, answer)
    };
    let made = |name: &str, parent: &str| {
        let body = json!({ "name": name, "parent": parent }).to_string();
        let (status, answer) = post("", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    // By the name that was looked up, by the name that is remembered, and by id.
    let dev = made("dev", "main");
    let again = made("again", "main");
    let inner = made("inner", &text(&dev["id"]));
    assert_eq!(inner["parent_id"], dev["id"]);
    assert_eq!(dev["parent_id"], small.branch.id.as_str());
    for view in [&dev, &again, &inner] {
        assert_pages(&small, &server, &view["id"]);
    }
    let (status, detail) = server.http("GET", "/v1/tenants/acme/branches/inner", "");
    assert_eq!(status, 200, "{detail}");
    assert!(detail.contains(&text(&inner["id"])), "{detail}");

    let at = |at: &str| json!({ "name": "new", "parent": "main", "at": at }).to_string();
    for (status, path, body) in [
        (400, "", "nonsense".to_owned()),
        (
            400,
            "",
            json!({ "name": "x", "parent": "main", "more": 1 }).to_string(),
        ),
        (400, "", at("7")),
        (409, "", at("FFFF/0")),
        (
            409,
            "",
            json!({ "name": "dev", "parent": "main" }).to_string(),
        ),
        (
            409,
            "",
            json!({ "name": "a/b", "parent": "main" }).to_string(),
        ),
        (
            404,
            "",
            json!({ "name": "new", "parent": "none" }).to_string(),
        ),
        (404, "/none/reset", String::new()),
        (409, "/main/reset", String::new()),
        (400, "/main/restore", "{}".to_owned()),
        (409, "/main/restore", json!({ "to": "FFFF/0" }).to_string()),
        (409, "/again/rename", json!({ "name": "dev" }).to_string()),
    ] {
        let (got, answer) = post(path, &body);
        assert_eq!(got, status, "{path} {body}: {answer}");
        assert!(answer["msg"].is_string(), "{answer}");
    }

    // The name that the server remembers is moved behind its back.
    let last = text(&dev["left_at"]);
    let restored = site.json(&["branch", "restore", &format!("acme/main@{last}"), "--json"]);
    let late = made("late", "main");
    assert_eq!(late["parent_id"], restored["id"]);
    site.succeed(&["branch", "rename", "acme/dev", "devel"]);
    assert_eq!(
        post("", &json!({ "name": "new", "parent": "dev" }).to_string()).0,
        404
    );

    let (status, answer) = post("/again/protect", "");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        server
            .http("DELETE", "/v1/tenants/acme/branches/again", "")
            .0,
        409
    );
    assert_eq!(post("/again/unprotect", "").0, 200);
    assert_eq!(
        post("/again/rename", &json!({ "name": "third" }).to_string()).0,
        200
    );
    let (status, reset) = post("/third/reset", "");
    assert_eq!((status, &reset["was"]), (200, &again["id"]), "{reset}");
    let (status, kept) = post(
        "/third/restore",
        &json!({ "to": last, "keep_as": "kept" }).to_string(),
    );
    assert_eq!((status, &kept["kept_as"]), (200, &json!("kept")), "{kept}");
    assert_pages(&small, &server, &kept["id"]);
    assert_eq!(
        server
            .http("DELETE", "/v1/tenants/acme/branches/third", "")
            .0,
        200
    );
    let (status, all) = server.http("GET", "/v1/tenants/acme/branches", "");
    assert_eq!(status, 200, "{all}");
    let all: Value = serde_json::from_str(&all).expect("JSON");
    let mut names: Vec<&str> = all
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|branch| branch["name"].as_str())
        .collect();
    names.sort_unstable();
    let kept_main = format!("main-before-{}", last.replace('/', "-"));
    assert_eq!(
        names,
        ["devel", "inner", "kept", "late", "main", &kept_main]
    );
}

#[test]
fn branches_are_made_in_a_bucket_and_read_by_a_server_that_knows_nothing() {
    let s3 = StoreServer::s3();
    let small = Small::at(s3_site(s3.endpoint(), &[]));
    let site = &small.site;
    let made = site.json(&[
        "branch",
        "create",
        "acme/dev",
        "--from",
        "acme/main",
        "--json",
    ]);
    site.fail(8, &["branch", "create", "acme/dev", "--from", "acme/main"]);
    site.succeed(&["branch", "delete", "acme/dev"]);
    let again = site.json(&[
        "branch",
        "create",
        "acme/dev",
        "--from",
        "acme/main",
        "--json",
    ]);
    assert_ne!(made["id"], again["id"]);
    let server = site.serve();
    assert_pages(&small, &server, &again["id"]);
}
