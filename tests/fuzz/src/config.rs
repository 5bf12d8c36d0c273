//! The configuration file: what is accepted can be written and is read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageserver::config::Config;

fuzz_target!(|text: &str| {
    let Ok(config) = Config::parse(text) else {
        return;
    };
    // Values out of range are told all at once, never by a panic.
    let _judged = config.validate();
    let written = toml::to_string(&config).expect("what was read can be written");
    assert_eq!(
        Config::parse(&written).expect("what was written can be read"),
        config
    );
});
