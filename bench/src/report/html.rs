//! The report as one HTML page: no script, no network, plots as inline SVG.
//!
//! Per group: the percentile curves of its subjects (how slow is one request in n, both axes logarithmic), and a
//! bar for each rate with the range of its rounds.

use std::fmt::Write;

use super::{Report, Row, Verdict, table};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 42.0;
const COLOURS: [&str; 8] = [
    "#1f6f8b", "#c8553d", "#588157", "#7b4b94", "#d68c45", "#3d5a80", "#8c2f39", "#2a9d8f",
];

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let h = &report.header;
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>pageserver bench</title><style>\
         body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}\
         table{border-collapse:collapse;font-size:13px;margin:.6rem 0;font-variant-numeric:tabular-nums}\
         td,th{padding:.2rem .55rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
         td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}\
         .goals td{text-align:left;white-space:normal}.PASS{color:#2b7a3d}.SHORT{color:#b3261e}\
         svg{max-width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#333}\
         code{background:#f3f3f3;padding:.1rem .3rem}</style></head><body>",
    );
    let _ = write!(
        out,
        "<h1>pageserver bench</h1><p><code>{}</code><br>commit {} · {} UTC<br>{} × {} · {} GiB · {}</p>",
        escape(&h.command),
        escape(&h.commit),
        escape(&h.date),
        h.cpus,
        escape(&h.cpu),
        h.memory_gib,
        escape(&h.kernel)
    );
    goals(report, &mut out);
    for group in table::groups(report) {
        let rows: Vec<&Row> = report
            .rows
            .iter()
            .filter(|row| row.group == group)
            .collect();
        let _ = write!(out, "<h2>{}</h2>", escape(group));
        rows_table(&rows, &mut out);
        curves(&rows, &mut out);
        bars(&rows, &mut out);
    }
    for note in &report.notes {
        let _ = write!(out, "<p>Note: {}</p>", escape(note));
    }
    out.push_str("</body></html>\n");
    out
}

fn goals(report: &Report, out: &mut String) {
    if report.goals.is_empty() {
        return;
    }
    out.push_str("<h2>Goals</h2><table class=\"goals\">");
    for goal in &report.goals {
        let class = match goal.verdict() {
            Verdict::Pass => "PASS",
            Verdict::Short => "SHORT",
            Verdict::NotMeasured => "",
        };
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"{class}\">{}</td></tr>",
            escape(&goal.what),
            escape(&table::outcome(goal))
        );
    }
    out.push_str("</table>");
}

fn rows_table(rows: &[&Row], out: &mut String) {
    out.push_str("<table><tr>");
    for column in table::columns() {
        let _ = write!(out, "<th>{}</th>", escape(column));
    }
    out.push_str("</tr>");
    for row in rows {
        out.push_str("<tr>");
        for cell in table::row_cells(row) {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>");
}

/// Percentile curves: x is "one in n", y microseconds, both logarithmic.
fn curves(rows: &[&Row], out: &mut String) {
    let points = || {
        rows.iter()
            .flat_map(|row| row.curve.iter())
            .filter(|(_, us)| *us > 0.0)
    };
    let n_max = points().map(|(n, _)| *n).fold(10.0, f64::max);
    let (us_min, us_max) = points()
        .map(|(_, us)| *us)
        .fold((f64::MAX, 0.0_f64), |(low, high), us| {
            (low.min(us), high.max(us))
        });
    if us_max <= 0.0 {
        return;
    }
    let decades = |us_low: f64, us_high: f64| (us_low.log10().floor(), us_high.log10().ceil());
    let (low, mut high) = decades(us_min, us_max);
    if high <= low {
        high = low + 1.0;
    }
    let x = |n: f64| LEFT + n.log10() / n_max.log10() * (WIDTH - LEFT - RIGHT);
    let y = |us: f64| HEIGHT - BOTTOM - (us.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\">"
    );
    let mut us = 10f64.powf(low);
    while us <= 10f64.powf(high) * 1.001 {
        let at = y(us);
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            duration(us)
        );
        us *= 10.0;
    }
    let mut n = 1.0;
    for name in ["p0", "p90", "p99", "p99.9", "p99.99", "p99.999", "p99.9999"] {
        if n > n_max {
            break;
        }
        let at = x(n);
        let _ = write!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
        n *= 10.0;
    }
    for (i, row) in rows.iter().enumerate() {
        let mut path = String::new();
        for (n, us) in row.curve.iter().filter(|(_, us)| *us > 0.0) {
            let _ = write!(path, "{:.1},{:.1} ", x(*n), y(*us));
        }
        let _ = write!(
            out,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"{} points=\"{}\"/>",
            colour(i),
            dash(i),
            path.trim_end()
        );
    }
    out.push_str("</svg><p>");
    for (i, row) in rows.iter().enumerate() {
        let _ = write!(
            out,
            "<svg width=\"34\" height=\"10\"><line x1=\"2\" y1=\"5\" x2=\"30\" y2=\"5\" stroke=\"{}\" \
             stroke-width=\"3\"{}/></svg>{} {} &nbsp; ",
            colour(i),
            dash(i),
            escape(&row.subject),
            escape(&row.shape)
        );
    }
    out.push_str("</p>");
}

/// A bar per rate, with a line from the lowest to the highest round.
fn bars(rows: &[&Row], out: &mut String) {
    let most = rows.iter().map(|row| row.rate.high).fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    let (name_width, line) = (230.0, 22.0);
    let height = rows.len() as f64 * line + 6.0;
    let scale = (WIDTH - name_width - 90.0) / most;
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" role=\"img\">"
    );
    for (i, row) in rows.iter().enumerate() {
        let top = i as f64 * line + 4.0;
        let (from, to) = (
            name_width + row.rate.low * scale,
            name_width + row.rate.high * scale,
        );
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>\
             <rect x=\"{name_width}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"15\" fill=\"{}\" opacity=\".75\"/>\
             <line x1=\"{from:.1}\" y1=\"{mid:.1}\" x2=\"{to:.1}\" y2=\"{mid:.1}\" stroke=\"#111\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.0}/s</text>",
            name_width - 8.0,
            top + 12.0,
            escape(&row.subject),
            escape(&row.shape),
            row.rate.median * scale,
            colour(i),
            to + 6.0,
            top + 12.0,
            row.rate.median,
            mid = top + 7.5,
        );
    }
    out.push_str("</svg>");
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Subjects beyond the number of colours are dashed.
fn dash(index: usize) -> &'static str {
    if index < COLOURS.len() {
        ""
    } else {
        " stroke-dasharray=\"6 4\""
    }
}

fn duration(us: f64) -> String {
    if us >= 1e6 {
        format!("{:.0} s", us / 1e6)
    } else if us >= 1e3 {
        format!("{:.0} ms", us / 1e3)
    } else if us >= 1.0 {
        format!("{us:.0} us")
    } else {
        format!("{us:.1} us")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
