//! Starting, stopping, the admin API, encryption.

use std::sync::Arc;
use std::time::Duration;

use harness::page_client::{Ask, Connection, LATEST, dial, request_tls};
use harness::server::{HttpConnection, Server, Site, parse_lsn};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::{Small, cluster_files};

#[test]
fn a_data_directory_has_one_server_which_stops_in_time_and_starts_warm() {
    // Each of the cluster's many small relations has an extent, and each extent a slot of the cache.
    let small = Small::new(&[("cache", "size = \"512MiB\"")]);
    let server = small.site.serve();
    let refused = small.site.fail(6, &["serve"]);
    assert!(refused.contains(&server.pid().to_string()), "{refused}");
    // Neither do two servers share ports, on directories of their own.
    let pages = format!("listen = \"{}\"", server.pages);
    let other = Site::new(&[("pages", &pages)]);
    let refused = other.fail(6, &["serve"]);
    assert!(refused.contains("pages.listen"), "{refused}");

    let blocks = small.files.blocks();
    let mut client = server.client(&small.branch);
    small
        .files
        .assert_blocks_served(&mut client, &blocks, LATEST);
    small
        .files
        .assert_blocks_served(&mut client, &blocks, LATEST);
    let cold = fetched(&server);
    assert!(cold > 0, "nothing was cold");

    // A stop with a client that sends, one that is idle, and one that has not even begun.
    let _idle = server.client(&small.branch);
    let _silent = dial(server.pages).expect("it listens");
    let _admin = dial(server.admin).expect("it listens");
    let (rel, _) = small.first_page();
    client.send(Ask::GetPage(rel, 0), LATEST).expect("sent");
    let (status, took) = server.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");

    let server = small.site.serve();
    let mut client = server.client(&small.branch);
    small
        .files
        .assert_blocks_served(&mut client, &blocks, LATEST);
    let again = fetched(&server);
    assert!(
        again * 20 <= cold,
        "{again} extents fetched again of {cold}"
    );
}

#[test]
fn with_a_port_for_each_core_every_port_serves_every_page() {
    // Below the ports that the system gives out, so that nobody has the second one by chance.
    let port = 20_000 + 2 * u16::try_from(std::process::id() % 5_000).expect("small");
    let pages = format!("listen = \"127.0.0.1:{port}\"\nport_per_core = true");
    let small = Small::new(&[("pages", &pages)]);
    let server = small.site.serve();
    let accepted = |core: usize| {
        server.metric(&format!(
            "pageserver_pages_connections_accepted_total{{core=\"{core}\"}}"
        ))
    };
    for (core, offset) in [(0, 0), (1, 1)] {
        let before = [accepted(0), accepted(1)];
        let mut address = server.pages;
        address.set_port(port + offset);
        let connection = Connection::open(dial(address).expect("it listens"), None);
        let client = connection.expect("a session");
        let client = client.pages(3, &small.branch.tenant, &small.branch.id);
        small
            .files
            .assert_served(&mut client.expect("a pagestream"));
        let after = [accepted(0), accepted(1)];
        assert_eq!(after[core], before[core] + 1, "core {core}: {after:?}");
        assert_eq!(after[1 - core], before[1 - core], "core {core}: {after:?}");
    }
}

#[test]
fn memory_under_load_stays_below_the_formula_of_the_manual() {
    const MIB: u64 = 1 << 20;
    let small = Small::new(&[("cache", "size = \"64MiB\"\nram = \"16MiB\"")]);
    let server = small.site.serve();
    let connections = 12;
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let blocks = small.files.blocks();
                let mut client = server.client(&small.branch);
                // The cache is too small for all of it, so every round has hits and misses.
                for _ in 0..3 {
                    let files = &small.files;
                    files.assert_blocks_served(&mut client, &blocks, LATEST);
                }
            });
        }
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("a process that is there");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let peak = peak.expect("the most memory it had") << 10;

    // docs/DESIGN.md, Memory, with the defaults of what the configuration does not name.
    let (cores, threads, slots, chunk_bytes) = (2, 1, 64 * 4, 64 << 10);
    let per_core = 2 * MIB + 1_024 * 8_192 + 64 * MIB + 8 * MIB;
    let layers: u64 = {
        let files = small.site.layer_files().into_iter();
        files
            .map(|path| path.metadata().expect("a file").len())
            .sum()
    };
    let reads_in_flight = 64;
    let formula = 64 * MIB
        + cores * per_core
        + 150 * slots
        + 32 * (layers / (256 << 10) + 1_024)
        + threads * (64 * MIB + reads_in_flight * 16 * chunk_bytes)
        + reads_in_flight * (256 << 10)
        + connections * (10_000 + (16 << 10) + 2 * (260 << 10));
    assert!(
        peak <= formula,
        "{peak} bytes, and the formula says {formula}"
    );
    assert!(
        peak * 20 > formula,
        "a formula that says nothing: {formula}, and it took {peak}"
    );
}

/// Extents that came from the store, asked for or ahead of that.
fn fetched(server: &Server) -> u64 {
    server.metric("pageserver_engine_extents_demanded_total ")
        + server.metric("pageserver_engine_extents_ahead_total ")
}

#[test]
fn the_admin_api_tells_health_metrics_and_what_load_generators_ask() {
    let small = Small::new(&[]);
    let server = small.site.serve();
    let mut client = server.client(&small.branch);
    small.assert_right(&mut client);
    // One connection for all calls, each with a body that a GET need not have: it must not go out of step.
    let mut connection = HttpConnection::new(dial(server.admin).expect("it listens"));
    let mut get = |path: &str| connection.request("GET", path, "", "null");
    let json = |(status, body): (u16, String)| -> Value {
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    assert_eq!(get("/livez").0, 200);
    assert_eq!(get("/readyz").0, 200);
    assert!(json(get("/openapi.json"))["paths"].is_object());
    let (tenant, branch) = (&small.branch.tenant, &small.branch.id);

    let tenants = json(get("/v1/tenant"));
    let expected: Value = serde_json::json!([{
        "id": tenant,
        "state": { "slug": "Active" },
        "current_physical_size": null,
        "attachment_status": { "slug": "attached" },
        "generation": 1,
    }]);
    assert_eq!(tenants, expected);
    let one = json(get(&format!("/v1/tenant/{tenant}")));
    assert_eq!(one["timelines"], serde_json::json!([branch]));
    let timeline = json(get(&format!("/v1/tenant/{tenant}/timeline/{branch}")));
    assert_eq!(timeline["state"], "Active");
    let last = timeline["last_record_lsn"].as_str().expect("an LSN");
    assert_eq!(parse_lsn(last), small.branch.last_lsn);
    assert_eq!(timeline["current_logical_size"], small.files.bytes());
    let major = small.cluster.major_version().expect("a version");
    assert_eq!(timeline["pg_version"], major);

    let keyspace = json(get(&format!(
        "/v1/tenant/{tenant}/timeline/{branch}/keyspace"
    )));
    let ranges = keyspace["keys"].as_array().expect("ranges").iter();
    let ranges: Vec<(String, String)> = ranges
        .map(|range| {
            let key = |end: usize| range[end].as_str().expect("a key").to_owned();
            (key(0), key(1))
        })
        .collect();
    let filled = small
        .files
        .forks
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty());
    let expected: Vec<(String, String)> = filled
        .map(|(rel, bytes)| {
            let key = |block: u32| {
                let (space, database, number) = (rel.tablespace, rel.database, rel.relation);
                format!(
                    "00{space:08X}{database:08X}{number:08X}{:02X}{block:08X}",
                    rel.fork
                )
            };
            (key(0), key(cluster_files::block_count(bytes)))
        })
        .collect();
    assert_eq!(ranges, expected);

    for unknown in [
        "/nothing",
        "/v1/tenant/nobody",
        &format!("/v1/tenant/{tenant}/timeline/none"),
    ] {
        assert_eq!(get(unknown).0, 404, "{unknown}");
    }
    let page = get("/metrics").1;
    for (path, body) in [
        ("/v1/io_engine", "\"std-fs\""),
        ("/v1/io_mode", "\"direct\""),
    ] {
        let answered = connection.request("PUT", path, "", body);
        assert_eq!(answered, (200, "null".to_owned()), "{path}");
    }
    assert_documented_metrics(&page);
    small.assert_right(&mut client);

    let url = format!("http://{}", server.admin);
    let status = small.site.json(&["status", "--json", "--url", &url]);
    assert_eq!(status["state"], "serving");
    assert_eq!(status["pages_address"], server.pages.to_string());
    let shown = small.site.succeed(&["status", "--url", &url]);
    assert!(shown.contains("serving"), "{shown}");
    drop(server);
    small.site.fail(5, &["status", "--url", &url]);
}

/// Every family that docs/OPERATIONS.md lists is there; `*` stands for anything.
fn assert_documented_metrics(page: &str) {
    let families: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let manual = harness::tools::repository().join("docs/OPERATIONS.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    let rows = manual
        .lines()
        .filter(|line| line.starts_with("| `pageserver_"));
    let mut checked = 0;
    for name in rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`')) {
        if !name.contains('_') {
            continue;
        }
        let (start, end) = name.split_once('*').unwrap_or((name, ""));
        let is_meant = |family: &&str| match name.strip_prefix('_') {
            Some(_) => family.ends_with(name),
            None if name.contains('*') => family.starts_with(start) && family.ends_with(end),
            None => *family == name,
        };
        assert!(families.iter().any(is_meant), "{name} is not there");
        checked += 1;
    }
    assert!(checked >= 10, "the manual lists {checked} families");
}

#[test]
fn pages_and_admin_are_served_by_tls_behind_a_token() {
    let small = Small::new(&[]);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let write = |name: &str, text: &str| {
        let path = small.site.path(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let access = format!(
        "token_file = {:?}\ntls_certificate = {:?}\ntls_key = {:?}",
        write("token", "open sesame"),
        write("chain.pem", &made.cert.pem()),
        write("key.pem", &made.signing_key.serialize_pem()),
    );
    small
        .site
        .configure(&[("pages.access", &access), ("admin.access", &access)]);
    let server = small.site.serve();

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let encrypted = |stream| {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
        StreamOwned::new(client, stream)
    };

    let by_tls = |password| {
        let mut stream = dial(server.pages).expect("it listens");
        assert_eq!(request_tls(&mut stream).expect("an answer"), b'S');
        Connection::open(encrypted(stream), Some(password))
    };
    let refused = by_tls("open barley").expect_err("a wrong password");
    assert_eq!(refused.code(), Some("28P01"), "{refused}");
    let session = by_tls("open sesame").expect("a session");
    let pages = session.pages(3, &small.branch.tenant, &small.branch.id);
    let some: Vec<_> = small.files.blocks().into_iter().step_by(3).collect();
    small
        .files
        .assert_blocks_served(&mut pages.expect("pages"), &some, LATEST);

    let mut admin = HttpConnection::new(encrypted(dial(server.admin).expect("it listens")));
    assert_eq!(admin.request("GET", "/readyz", "", "").0, 200);
    assert_eq!(admin.request("GET", "/metrics", "", "").0, 401);
    let wrong = "authorization: Bearer open\r\n";
    assert_eq!(admin.request("GET", "/v1/tenant", wrong, "").0, 401);
    let right = "authorization: Bearer open sesame\r\n";
    assert_eq!(admin.request("GET", "/v1/tenant", right, "null").0, 200);

    // By the configuration of the server itself, and from elsewhere.
    let site = &small.site;
    let url = format!("https://localhost:{}", server.admin.port());
    assert_eq!(
        site.json(&["status", "--json", "--url", &url])["state"],
        "serving"
    );
    site.configure(&[]);
    let (chain, token) = (site.path("chain.pem"), site.path("token"));
    let [chain, token] = [&chain, &token].map(|path| path.to_str().expect("UTF-8"));
    let ask = ["status", "--json", "--url", &url, "--ca", chain];
    let refused = site.fail(8, &ask);
    assert!(refused.contains("--token-file"), "{refused}");
    let ask = [&ask[..], &["--token-file", token]].concat();
    assert_eq!(site.json(&ask)["state"], "serving");
    // Without the authorities, or as another host, the server is nobody we know.
    let unknown = site.fail(5, &["status", "--url", &url, "--token-file", token]);
    assert!(unknown.contains("--ca"), "{unknown}");
    let elsewhere = format!("https://127.0.0.1:{}", server.admin.port());
    let other = [
        "status",
        "--url",
        &elsewhere,
        "--ca",
        chain,
        "--token-file",
        token,
    ];
    site.fail(5, &other);
}
