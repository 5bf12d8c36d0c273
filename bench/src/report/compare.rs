//! Two reports side by side: what changed between two commits. A difference counts only where the rounds of the two
//! runs do not overlap; everything else is called noise.

use super::Report;
use crate::rounds::Spread;

/// A table of every row that both reports have, the goals whose verdict changed, and what only one of them has.
pub(crate) fn text(old: &Report, new: &Report) -> String {
    let mut lines = vec![
        format!(
            "old: commit {} | {} UTC | {}",
            old.header.commit, old.header.date, old.header.command
        ),
        format!(
            "new: commit {} | {} UTC | {}",
            new.header.commit, new.header.date, new.header.command
        ),
    ];
    let machine = |r: &Report| (r.header.cpu.clone(), r.header.cpus, r.header.kernel.clone());
    if machine(old) != machine(new) {
        lines.push("the machines differ: compare ratios to the baseline only".to_owned());
    }
    lines.push(format!(
        "{:<44} {:>10} {:>10} {:>8}  {:<6} {:>9} {:>9} {:>9} {:>9}",
        "group / subject / shape",
        "old/s",
        "new/s",
        "change",
        "",
        "old p99",
        "new p99",
        "old x",
        "new x"
    ));
    for after in &new.rows {
        let name = format!("{} / {} / {}", after.group, after.subject, after.shape);
        let Some(before) = old.row(&after.group, &after.subject, &after.shape) else {
            lines.push(format!("{name:<44} only in new"));
            continue;
        };
        let ratio =
            |s: Option<Spread>| s.map_or_else(|| "-".to_owned(), |s| format!("{:.3}", s.median));
        lines.push(format!(
            "{name:<44} {:>10.0} {:>10.0} {:>+7.1}%  {:<6} {:>9.1} {:>9.1} {:>9} {:>9}",
            before.rate.median,
            after.rate.median,
            (after.rate.median / before.rate.median - 1.0) * 100.0,
            judgement(before.rate, after.rate),
            before.latency.p99_us,
            after.latency.p99_us,
            ratio(before.rate_ratio),
            ratio(after.rate_ratio),
        ));
    }
    for before in &old.rows {
        if new
            .row(&before.group, &before.subject, &before.shape)
            .is_none()
        {
            lines.push(format!(
                "{} / {} / {} only in old",
                before.group, before.subject, before.shape
            ));
        }
    }
    for goal in &new.goals {
        let before = old.goals.iter().find(|other| other.what == goal.what);
        if let Some(before) = before.filter(|before| before.verdict() != goal.verdict()) {
            lines.push(format!(
                "{}: {} -> {}",
                goal.what,
                super::table::verdict(before),
                super::table::verdict(goal)
            ));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn judgement(old: Spread, new: Spread) -> &'static str {
    if new.low > old.high {
        "faster"
    } else if new.high < old.low {
        "slower"
    } else {
        "noise"
    }
}
