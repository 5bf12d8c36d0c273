//! What the project wants to reach, and where in a report each figure stands. Groups and names of subjects are spelt
//! here once; whoever lets subjects compete takes them from here.

use crate::report::{Bound, Goal, Report, Row};

/// Direct reads of a file, by the plain ring and by fio.
pub(crate) const DEVICE_GROUP: &str = "device, 8 KiB reads";
/// The engine embedded, one shard, incompressible pages, warm cache.
pub(crate) const ENGINE_DISK_GROUP: &str = "engine, one shard, warm, from disk, incompressible";
/// The same with pages that lz4 halves: apart, since fewer bytes are read.
pub(crate) const ENGINE_COMPRESSIBLE_GROUP: &str =
    "engine, one shard, warm, from disk, compressible";
/// The engine embedded, pages in the RAM tier.
pub(crate) const ENGINE_RAM_GROUP: &str = "engine, one shard, from RAM";
/// Misses of a distant store.
pub(crate) const MISS_GROUP: &str = "miss, store of 30 ms first byte";
/// A server over loopback, pages from disk.
pub(crate) const PAGES_DISK_GROUP: &str = "pagestream, two shards, warm, from disk";
/// The same, every page owned by the core that took the request.
pub(crate) const PAGES_SAME_GROUP: &str = "pagestream, from disk, same core";
/// The same, every page owned by another core.
pub(crate) const PAGES_CROSS_GROUP: &str = "pagestream, from disk, other core";
/// A server over loopback, pages in the RAM tier.
pub(crate) const PAGES_RAM_GROUP: &str = "pagestream, two shards, from RAM";

/// From the start of the server's process to its first page, warm cache.
pub(crate) const RESTART_GROUP: &str = "restart, warm cache, first page";
/// The shape of a cache that has all pages of the data set.
pub(crate) const WARM_RESTART: &str = "1";
/// The shape of a sparse cache with an extent in every slot.
pub(crate) const SPARSE_RESTART: &str = "1 TiB, sparse";

/// A running cluster that pgbench filled; the shape is its scale.
pub(crate) const IMPORT_GROUP: &str = "import of a running cluster, in pages";

/// WAL that a primary wrote while nobody followed; the shape is the work that wrote it.
pub(crate) const CATCH_UP_GROUP: &str = "catching up with a primary, in KiB of WAL";
/// pgbench on a primary whose commits wait for a standby.
pub(crate) const SYNCHRONOUS_GROUP: &str = "transactions of pgbench with a synchronous standby";

/// Branches made in a local directory; the shape is the parent's size.
pub(crate) const BRANCH_GROUP: &str = "making a branch, local store";
/// The same in a store that takes its time.
pub(crate) const BRANCH_DISTANT_GROUP: &str = "making a branch, distant store";
/// Shapes of both, as far as goals go.
const BRANCH_SHAPES: [&str; 3] = ["1 GiB", "100 TiB", "100 TiB, 1000"];

pub(crate) const DEVICE: &str = "device";
pub(crate) const FIO: &str = "fio";
pub(crate) const WIRE: &str = "wire";
pub(crate) const ENGINE: &str = "engine";
pub(crate) const PAGESTREAM: &str = "pagestream";
/// The store's own GET of an extent.
pub(crate) const STORE_GET: &str = "store GET";

/// Stores WAL, and nothing else.
pub(crate) const PG_RECEIVEWAL: &str = "pg_receivewal";
pub(crate) const STOCK_STANDBY: &str = "stock standby";
pub(crate) const PAGESERVER: &str = "pageserver";
/// Shapes of catching up.
pub(crate) const COPY: &str = "copy";
pub(crate) const PGBENCH: &str = "pgbench";

pub(crate) const IMPORT: &str = "import";
/// A bare put of an object of the size of a branch's record.
pub(crate) const PUT: &str = "put";
/// The catalog in this process.
pub(crate) const CATALOG: &str = "catalog";
/// A request to a server's admin API.
pub(crate) const SERVER: &str = "server";
/// The same cluster to the same disk.
pub(crate) const PG_BASEBACKUP: &str = "pg_basebackup";

/// Depths of the embedded runs.
pub(crate) const DEPTHS: [u32; 3] = [1, 32, 128];

/// Share of the device's reads per second and server CPU per page, per connections x depth.
const OVER_LOOPBACK: [(&str, f64, f64); 4] = [
    ("1 x 1", 0.45, 85.0),
    ("8 x 1", 0.75, 28.0),
    ("1 x 16", 0.70, 20.0),
    ("8 x 16", 0.80, 20.0),
];

/// Every goal, with what `report` measured of it.
pub(crate) fn goals(report: &Report) -> Vec<Goal> {
    let mut goals = Goals {
        report,
        list: Vec::new(),
    };
    for depth in DEPTHS {
        let at = (DEVICE_GROUP, FIO, depth.to_string());
        goals.at_most(
            format!("device baseline and fio differ, depth {depth}"),
            0.05,
            &at,
            |row| Some((row.rate_ratio?.median - 1.0).abs()),
        );
    }
    for depth in DEPTHS {
        let at = (ENGINE_DISK_GROUP, ENGINE, depth.to_string());
        goals.at_least(
            format!("engine from disk, depth {depth}: share of device"),
            0.9,
            &at,
            ratio,
        );
        goals.at_most(
            format!("engine from disk, depth {depth}: p99 over device's"),
            1.3,
            &at,
            |row| Some(row.p99_ratio?.median),
        );
        // A hundredth for what others read from the disk meanwhile.
        goals.at_most(
            format!("engine from disk, depth {depth}: device reads per page"),
            1.01,
            &at,
            |row| Some(row.device_reads_per_op?.median),
        );
    }
    for (shape, share, cpu_us) in OVER_LOOPBACK {
        let at = (PAGES_DISK_GROUP, PAGESTREAM, shape.to_owned());
        goals.at_least(
            format!("loopback from disk, {shape}: share of device"),
            share,
            &at,
            ratio,
        );
        goals.at_most(
            format!("loopback from disk, {shape}: server CPU us per page"),
            cpu_us,
            &at,
            |row| Some(row.cpu_us_per_op?.median),
        );
    }
    let mean = |name| {
        report
            .row(PAGES_DISK_GROUP, name, "1 x 1")
            .map(|row| row.latency.mean_us)
    };
    let below = mean(DEVICE)
        .zip(mean(WIRE))
        .map(|(device, wire)| device + wire);
    let at = (PAGES_DISK_GROUP, PAGESTREAM, "1 x 1".to_owned());
    goals.at_most(
        "loopback from disk, 1 x 1: mean over device + wire".to_owned(),
        1.25,
        &at,
        |row| Some(row.latency.mean_us / below?),
    );
    let at = (ENGINE_RAM_GROUP, ENGINE, "128".to_owned());
    goals.at_least(
        "engine from RAM: pages/s per core".to_owned(),
        500_000.0,
        &at,
        |row| Some(row.rate.median),
    );
    let at = (PAGES_RAM_GROUP, PAGESTREAM, "8 x 16".to_owned());
    goals.at_least(
        "loopback from RAM, 8 x 16: share of empty server".to_owned(),
        0.6,
        &at,
        ratio,
    );
    let get_p50 = report
        .row(MISS_GROUP, STORE_GET, "1")
        .map(|row| row.latency.p50_us);
    let at = (MISS_GROUP, ENGINE, "1".to_owned());
    goals.at_most(
        "miss: p50 over the store's own GET".to_owned(),
        1.15,
        &at,
        |row| Some(row.latency.p50_us / get_p50?),
    );
    for (shape, what) in [(WARM_RESTART, "warm"), (SPARSE_RESTART, "sparse 1 TiB")] {
        goals.at_most(
            format!("restart with a {what} cache: ms to the first page"),
            200.0,
            &(RESTART_GROUP, PAGESTREAM, shape.to_owned()),
            |row| Some(row.latency.p50_us / 1e3),
        );
    }
    let scale = report
        .rows
        .iter()
        .find(|row| row.group == IMPORT_GROUP)
        .map_or_else(String::new, |row| row.shape.clone());
    goals.at_least(
        "import: share of pg_basebackup's rate".to_owned(),
        0.7,
        &(IMPORT_GROUP, IMPORT, scale),
        ratio,
    );
    for (work, megabytes) in [(COPY, 150.0), (PGBENCH, 80.0)] {
        goals.at_least(
            format!("catching up, {work}: MB/s of WAL per core used"),
            megabytes,
            &(CATCH_UP_GROUP, PAGESERVER, work.to_owned()),
            |row| Some(1024.0 / row.cpu_us_per_op?.median),
        );
    }
    goals.at_least(
        "commits that wait: share of the rate with a stock standby".to_owned(),
        0.9,
        &(SYNCHRONOUS_GROUP, PAGESERVER, "8 clients".to_owned()),
        ratio,
    );
    for (group, name) in [
        (BRANCH_GROUP, CATALOG),
        (BRANCH_GROUP, SERVER),
        (BRANCH_DISTANT_GROUP, CATALOG),
    ] {
        for shape in BRANCH_SHAPES {
            let at = (group, name, shape.to_owned());
            let what = format!("{group}, {name}, {shape}");
            goals.at_most(format!("{what}: time over a bare put's"), 1.2, &at, |row| {
                Some(1.0 / row.rate_ratio?.median)
            });
            let put = report.row(group, PUT, shape).map(|row| row.latency.p50_us);
            goals.at_most(
                format!("{what}: us besides the put, p50"),
                1000.0,
                &at,
                |row| Some((row.latency.p50_us - put?).max(0.0)),
            );
        }
    }
    goals.list
}

fn ratio(row: &Row) -> Option<f64> {
    Some(row.rate_ratio?.median)
}

struct Goals<'a> {
    report: &'a Report,
    list: Vec<Goal>,
}

/// Group, subject, shape.
type Place<'a> = (&'a str, &'a str, String);

impl Goals<'_> {
    fn at_least(
        &mut self,
        what: String,
        bound: f64,
        at: &Place<'_>,
        figure: impl FnOnce(&Row) -> Option<f64>,
    ) {
        self.add(what, Bound::AtLeast(bound), at, figure);
    }

    fn at_most(
        &mut self,
        what: String,
        bound: f64,
        at: &Place<'_>,
        figure: impl FnOnce(&Row) -> Option<f64>,
    ) {
        self.add(what, Bound::AtMost(bound), at, figure);
    }

    fn add(
        &mut self,
        what: String,
        bound: Bound,
        at: &Place<'_>,
        figure: impl FnOnce(&Row) -> Option<f64>,
    ) {
        let (group, subject, shape) = at;
        let measured = self.report.row(group, subject, shape).and_then(figure);
        self.list.push(Goal {
            what,
            bound,
            measured,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Percentiles;
    use crate::report::{Verdict, header::Header};
    use crate::rounds::Spread;

    fn row(group: &str, subject: &str, shape: &str, mean_us: f64, ratio: Option<f64>) -> Row {
        let spread = |median: f64| Spread {
            median,
            low: median,
            high: median,
        };
        Row {
            group: group.to_owned(),
            subject: subject.to_owned(),
            shape: shape.to_owned(),
            rate: spread(1e6 / mean_us),
            latency: Percentiles {
                mean_us,
                p50_us: mean_us,
                ..Percentiles::default()
            },
            rate_ratio: ratio.map(spread),
            cpu_us_per_op: Some(spread(30.0)),
            ..Row::default()
        }
    }

    #[test]
    fn each_goal_takes_its_figure_from_its_row() {
        let mut report = Report::new(Header::default(), &[]);
        report.rows = vec![
            row(DEVICE_GROUP, FIO, "32", 100.0, Some(1.04)),
            row(PAGES_DISK_GROUP, DEVICE, "1 x 1", 60.0, None),
            row(PAGES_DISK_GROUP, WIRE, "1 x 1", 40.0, None),
            row(PAGES_DISK_GROUP, PAGESTREAM, "1 x 1", 130.0, Some(0.46)),
            row(MISS_GROUP, STORE_GET, "1", 30_000.0, None),
            row(MISS_GROUP, ENGINE, "1", 33_000.0, None),
            row(ENGINE_RAM_GROUP, ENGINE, "128", 4.0, None),
        ];
        let measured: Vec<(String, String, Verdict)> = goals(&report)
            .into_iter()
            .filter_map(|goal| {
                Some((
                    goal.what.clone(),
                    format!("{:.2}", goal.measured?),
                    goal.verdict(),
                ))
            })
            .collect();
        let expected = [
            (
                "device baseline and fio differ, depth 32",
                "0.04",
                Verdict::Pass,
            ),
            (
                "loopback from disk, 1 x 1: share of device",
                "0.46",
                Verdict::Pass,
            ),
            (
                "loopback from disk, 1 x 1: server CPU us per page",
                "30.00",
                Verdict::Pass,
            ),
            (
                "loopback from disk, 1 x 1: mean over device + wire",
                "1.30",
                Verdict::Short,
            ),
            (
                "engine from RAM: pages/s per core",
                "250000.00",
                Verdict::Short,
            ),
            ("miss: p50 over the store's own GET", "1.10", Verdict::Pass),
        ]
        .map(|(what, figure, verdict)| (what.to_owned(), figure.to_owned(), verdict));
        assert_eq!(measured, expected);
        assert!(
            goals(&report).len() > 20,
            "what was not measured is listed too"
        );
    }
}
