//! The program from outside: what an operator runs and a client of the page protocol gets, judged by the files of a stock
//! cluster.

mod bad_input;
mod branches;
mod cluster_files;
mod damage;
mod hot_path;
mod kills;
mod operation;
mod pages;
mod tools;
mod waiting;
mod wal;

use harness::page_client::{Answer, Ask, LATEST, PageClient, RelationFork};
use harness::postgres::TestCluster;
use harness::server::{Branch, Site};
use postgres::local_cluster::ClusterOptions;

use crate::cluster_files::ClusterFiles;

/// A cluster as `initdb` leaves it, imported as `acme/main`: enough for all that is not about pages.
struct Small {
    cluster: TestCluster,
    files: ClusterFiles,
    site: Site,
    branch: Branch,
}

impl Small {
    fn new(settings: &[(&str, &str)]) -> Small {
        Small::at(Site::new(settings))
    }

    fn at(site: Site) -> Small {
        let cluster = TestCluster::create(ClusterOptions::default());
        let files = ClusterFiles::of(&cluster.data_directory());
        let branch = site.import(&source(&cluster));
        Small {
            cluster,
            files,
            site,
            branch,
        }
    }

    /// One page, that the server must answer right.
    fn assert_right(&self, client: &mut PageClient) {
        let (rel, page) = self.first_page();
        let answer = client.ask(Ask::GetPage(rel, 0), LATEST).expect("an answer");
        assert!(
            answer == Answer::GetPage(page.to_owned()),
            "{rel:?} block 0"
        );
    }

    /// The first block of a relation that has one.
    fn first_page(&self) -> (RelationFork, &[u8]) {
        let filled = |(_, bytes): &(&RelationFork, &Vec<u8>)| !bytes.is_empty();
        let (rel, bytes) = self.files.forks.iter().find(filled).expect("a filled fork");
        (*rel, &bytes[..cluster_files::PAGE_BYTES])
    }
}

/// A stopped cluster as the argument of `import`.
fn source(cluster: &TestCluster) -> String {
    cluster.data_directory().display().to_string()
}

/// A site whose objects are in the bucket of an S3 server.
fn s3_site(endpoint: &str, settings: &[(&str, &str)]) -> Site {
    let store = [("store", "url = \"s3://pages/black/box\"")];
    Site::with_variables(
        &[&store, settings].concat(),
        &[
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ],
    )
}
