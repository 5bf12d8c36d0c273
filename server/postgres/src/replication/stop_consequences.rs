//! What becomes of a primary when nobody follows it any more, in sentences for its operator, with the statements that free
//! it.

use std::time::Duration;

use super::primary_facts::PrimaryFacts;
use super::slot_name::SlotName;
use super::synchronous_standbys::SynchronousStandbys;

/// What the server does if we stop, are stuck, or are cut off: what it keeps for `slot`, and who waits for
/// `application_name`.
pub fn stop_consequences(
    facts: &PrimaryFacts,
    slot: Option<&SlotName>,
    application_name: &str,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(slot) = slot {
        lines.push(kept_wal(facts, slot));
        lines.extend(facts.slot_idle_max.map(|max| idle(slot, max)));
        lines.push(format!(
            "To free what is kept for good: SELECT pg_drop_replication_slot('{slot}'); the branch can then only go on \
             with WAL that the server still has."
        ));
    } else {
        lines.push(
            "No slot keeps WAL for us: the server removes what it does not need itself (wal_keep_size), and if we were \
             away for longer, the branch has to be imported again."
                .to_owned(),
        );
    }
    lines.extend(waiting_commits(facts, application_name));
    lines
}

fn kept_wal(facts: &PrimaryFacts, slot: &SlotName) -> String {
    match facts.slot_wal_bytes_max {
        None => format!(
            "If we stop, the slot {slot} keeps all WAL from then on, without a limit: until the server's disk is full, \
             and it stops too. To set a limit: ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf();"
        ),
        Some(bytes) => format!(
            "If we stop, the slot {slot} keeps WAL of up to {} (max_slot_wal_keep_size); beyond that it is invalidated, \
             and the branch has to be imported again.",
            megabytes(bytes)
        ),
    }
}

fn idle(slot: &SlotName, max: Duration) -> String {
    format!(
        "If we stop for longer than {} s (idle_replication_slot_timeout), the slot {slot} is invalidated, and the branch \
         has to be imported again.",
        max.as_secs()
    )
}

/// Whether commits wait for us, and how to let them go.
fn waiting_commits(facts: &PrimaryFacts, application_name: &str) -> Option<String> {
    let standbys = SynchronousStandbys::parse(&facts.synchronous_standby_names)?;
    if !standbys.names(application_name) {
        return None;
    }
    let left = standbys.without(application_name);
    let left_text = left.as_ref().map(ToString::to_string).unwrap_or_default();
    let is_everybody = left.is_some_and(|left| left.names(application_name));
    let value = match is_everybody {
        // Only a list can do without one.
        true => String::new(),
        false => left_text.replace('\'', "''"),
    };
    let who = if standbys.cannot_do_without(application_name) {
        "If we stop, every commit on the server hangs".to_owned()
    } else {
        "If we stop while the other standbys are too few, every commit on the server hangs"
            .to_owned()
    };
    let readable = match facts.synchronous_commit.as_str() {
        "remote_apply" => {
            " With synchronous_commit = remote_apply it waits until its changes are readable here."
        }
        "off" | "local" => {
            " Only of sessions that set synchronous_commit: by default it is off or local here."
        }
        _ => "",
    };
    Some(format!(
        "{who}: {application_name} is in synchronous_standby_names.{readable} To let them go: ALTER SYSTEM SET \
         synchronous_standby_names = '{value}'; SELECT pg_reload_conf();"
    ))
}

fn megabytes(bytes: u64) -> String {
    let mebibytes = bytes >> 20;
    if mebibytes.is_multiple_of(1024) && mebibytes > 0 {
        format!("{}GB", mebibytes >> 10)
    } else {
        format!("{mebibytes}MB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::types::Lsn;

    fn facts(synchronous_standby_names: &str) -> PrimaryFacts {
        PrimaryFacts {
            release: "18.1".to_owned(),
            is_in_recovery: false,
            flushed: Lsn(1),
            role: "r".to_owned(),
            can_replicate: true,
            wal_level: "replica".to_owned(),
            block_bytes: 8192,
            wal_block_bytes: 8192,
            segment_blocks: 131_072,
            senders_max: 10,
            senders: 0,
            slots_max: 10,
            slots: 0,
            slot: None,
            slot_wal_bytes_max: None,
            slot_idle_max: None,
            sender_timeout: None,
            synchronous_standby_names: synchronous_standby_names.to_owned(),
            synchronous_commit: "on".to_owned(),
        }
    }

    #[test]
    fn what_is_kept_has_its_limit_or_none() {
        let slot: SlotName = "s".parse().expect("a name");
        let text = |facts: &PrimaryFacts| stop_consequences(facts, Some(&slot), "p").join("\n");
        let mut server = facts("");
        assert!(text(&server).contains("until the server's disk is full"));
        server.slot_wal_bytes_max = Some(1500 << 20);
        server.slot_idle_max = Some(Duration::from_secs(86_400));
        let bounded = text(&server);
        assert!(
            bounded.contains("up to 1500MB (max_slot_wal_keep_size)"),
            "{bounded}"
        );
        assert!(bounded.contains("longer than 86400 s"), "{bounded}");
        assert!(
            bounded.contains("pg_drop_replication_slot('s')"),
            "{bounded}"
        );
        assert!(!bounded.contains("commit"), "{bounded}");
    }

    #[test]
    fn waiting_commits_come_with_the_setting_that_frees_them() {
        let text = |names: &str| stop_consequences(&facts(names), None, "p").join("\n");
        let alone = text("p");
        assert!(alone.contains("If we stop, every commit"), "{alone}");
        assert!(alone.contains("synchronous_standby_names = '';"), "{alone}");
        let one_of_two = text("ANY 1 (p, \"it's\")");
        assert!(one_of_two.contains("are too few"), "{one_of_two}");
        assert!(
            one_of_two.contains("synchronous_standby_names = 'ANY 1 (\"it''s\")';"),
            "{one_of_two}"
        );
        assert!(text("*").contains("synchronous_standby_names = '';"));
        assert!(!text("other").contains("commit"));
    }
}
