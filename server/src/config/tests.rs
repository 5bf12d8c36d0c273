use super::*;

/// `default.toml` with every setting switched on.
fn uncommented() -> String {
    let setting = |line: &str| {
        line.strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
            .map(str::to_owned)
    };
    DEFAULT_TEXT
        .lines()
        .map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n")
        .collect()
}

#[test]
fn the_printed_default_is_the_default_and_leaves_no_key_out() {
    assert_eq!(
        Config::parse(DEFAULT_TEXT).expect("parses"),
        Config::default()
    );
    let mut shown = Config::parse(&uncommented()).expect("parses");
    for access in [&mut shown.pages.access, &mut shown.admin.access] {
        assert!(access.token_file.is_some() && access.tls_key.is_some());
        *access = AccessConfig::default();
    }
    assert!(shown.follow.retain_time.take().is_some());
    assert!(shown.follow.retain_wal.take().is_some());
    assert_eq!(shown, Config::default());

    let written = toml::Table::try_from(Config::default()).expect("a table");
    let shown: toml::Table = uncommented().parse().expect("parses");
    assert_no_key_missing("", &written, &shown);
}

fn assert_no_key_missing(place: &str, want: &toml::Table, have: &toml::Table) {
    for (key, value) in want {
        let shown = have.get(key);
        assert!(shown.is_some(), "{place}{key} is not in default.toml");
        if let (Some(want), Some(have)) = (value.as_table(), shown.and_then(|v| v.as_table())) {
            assert_no_key_missing(&format!("{place}{key}."), want, have);
        }
    }
}

#[test]
fn the_defaults_are_valid() {
    Config::default().validate().expect("valid");
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for (text, name) in [
        ("[cache]\nsise = \"8GiB\"", "sise"),
        ("[cash]\n", "cash"),
        ("[pages.access]\ntoken = \"x\"", "token"),
    ] {
        let refused = Config::parse(text).expect_err("unknown").to_string();
        assert!(refused.contains(name), "{refused}");
    }
    let refused = Config::parse("[cache]\nsize = 8")
        .expect_err("no unit")
        .to_string();
    assert!(refused.contains("size"), "{refused}");
}

#[test]
fn all_problems_are_told_at_once_with_value_and_range() {
    let text = r#"
        [pages]
        listen = "0.0.0.0:64000"
        connections_max = 0
        frame_max = "2MiB"
        [admin.access]
        tls_key = "/k"
        [cache]
        size = "1MiB"
        [runtime]
        spin = "2ms"
        stop_timeout = "1h"
        [store]
        url = "no url"
        [log]
        filter = "engine=loud"
    "#;
    let config = Config::parse(text).expect("well formed");
    let told = config.validate().expect_err("invalid").to_string();
    for part in [
        "pages.connections_max = 0: must be 1..=100000",
        "pages.frame_max = 2MiB: must be 1KiB..=1MiB",
        "pages.access = incomplete",
        "admin.access.tls_key",
        "cache.size = 1MiB: must be 16MiB..=64TiB",
        "runtime.spin = 2ms: must be 0us..=1ms",
        "runtime.stop_timeout = 1h: must be 1s..=10m",
        "store.url = no url",
        "log.filter = engine=loud",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

#[test]
fn listening_off_loopback_wants_token_and_tls_or_a_clear_word() {
    let mut config = Config::default();
    config.pages.listen = "10.0.0.1:64000".parse().expect("an address");
    assert!(config.validate().is_err());
    config.pages.access.allow_insecure = true;
    config.validate().expect("allowed");
    config.pages.access = AccessConfig {
        token_file: Some("/t".into()),
        tls_certificate: Some("/c".into()),
        tls_key: Some("/k".into()),
        allow_insecure: false,
    };
    config.validate().expect("secured");
    assert!(config.pages.access.tls_required(config.pages.listen.ip()));
}
