//! Where the programs are that tests start: those that `tests/tools/install` put below `target/test-tools`, else
//! those of the machine.

use std::path::{Path, PathBuf};

/// The top of the source tree.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in a folder of the repository")
}

/// moto's server, which speaks S3: `moto_server -H 127.0.0.1 -p PORT`.
pub fn moto_server() -> PathBuf {
    installed("venv/bin/moto_server", "moto_server")
}

/// Azurite, which speaks Azure's blob protocol: `azurite-blob --inMemoryPersistence --blobPort PORT`.
pub fn azurite_blob() -> PathBuf {
    installed("npm/node_modules/.bin/azurite-blob", "azurite-blob")
}

/// The folder of the programs of a PostgreSQL server newer than Debian's: 16, 17 or 18.
pub fn postgres_server(major: u32) -> PathBuf {
    let below_tools = format!("target/test-tools/npm/node_modules/postgres-{major}/native/bin");
    repository().join(below_tools)
}

/// PostgreSQL's own regression suite: `sql`, `data`, `parallel_schedule`.
pub fn postgres_regression_suite() -> PathBuf {
    repository().join("target/test-tools/postgres-regress")
}

/// The file below `target/test-tools`, or `name` as the machine's search path finds it.
fn installed(below_tools: &str, name: &str) -> PathBuf {
    let path = repository().join("target/test-tools").join(below_tools);
    if path.exists() {
        path
    } else {
        PathBuf::from(name)
    }
}
