//! What a server says of itself in SQL, as far as following it depends on that. Any role that may connect can ask.

use std::collections::HashMap;
use std::time::Duration;

use engine::types::Lsn;

use super::connection::Connection;
use super::replication_error::{ReplicationError, unexpected};
use super::slot_name::SlotName;
use super::slots::{SlotFacts, slot_facts};

/// A server, its settings, and what of them is in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryFacts {
    /// As the server calls its version.
    pub release: String,
    /// It is a standby.
    pub is_in_recovery: bool,
    /// End of the WAL on its disk; of a standby, of what it has replayed.
    pub flushed: Lsn,
    /// The role that asks.
    pub role: String,
    /// Whether it is a superuser or has REPLICATION.
    pub can_replicate: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `block_size`.
    pub block_bytes: u64,
    /// `wal_block_size`.
    pub wal_block_bytes: u64,
    /// Blocks in a file of a relation: `segment_size`.
    pub segment_blocks: u64,
    /// `max_wal_senders`.
    pub senders_max: u64,
    /// Connections for replication.
    pub senders: u64,
    /// `max_replication_slots`.
    pub slots_max: u64,
    /// Slots, in use or not.
    pub slots: u64,
    /// The slot that was asked for, if it is there.
    pub slot: Option<SlotFacts>,
    /// `max_slot_wal_keep_size` in bytes; `None` without a limit.
    pub slot_wal_bytes_max: Option<u64>,
    /// `idle_replication_slot_timeout`, which 18 has; `None` without one.
    pub slot_idle_max: Option<Duration>,
    /// `wal_sender_timeout`; `None` without one.
    pub sender_timeout: Option<Duration>,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// `synchronous_commit`, of sessions that do not set it.
    pub synchronous_commit: String,
}

impl PrimaryFacts {
    /// Asks a server over a connection to a database.
    /// # Errors
    /// The server's.
    pub fn read(
        connection: &mut Connection,
        slot: Option<&SlotName>,
    ) -> Result<PrimaryFacts, ReplicationError> {
        let settings = Settings::read(connection)?;
        let rows = connection.query(STATE)?;
        let malformed = || unexpected("as the state of the server");
        let [
            Some(recovery),
            Some(flushed),
            Some(role),
            Some(can_replicate),
            Some(senders),
            Some(slots),
        ] = rows.first().map(Vec::as_slice).ok_or_else(malformed)?
        else {
            return Err(malformed());
        };
        let facts = PrimaryFacts {
            release: connection
                .parameter("server_version")
                .unwrap_or("unknown")
                .to_owned(),
            is_in_recovery: recovery == "t",
            flushed: flushed.parse().map_err(|_| malformed())?,
            role: role.clone(),
            can_replicate: can_replicate == "t",
            wal_level: settings.text("wal_level")?,
            block_bytes: settings.number("block_size")?,
            wal_block_bytes: settings.number("wal_block_size")?,
            segment_blocks: settings.number("segment_size")?,
            senders_max: settings.number("max_wal_senders")?,
            senders: senders.parse().map_err(|_| malformed())?,
            slots_max: settings.number("max_replication_slots")?,
            slots: slots.parse().map_err(|_| malformed())?,
            slot: match slot {
                Some(name) => slot_facts(connection, name)?,
                None => None,
            },
            slot_wal_bytes_max: settings.bytes("max_slot_wal_keep_size")?,
            slot_idle_max: settings.duration("idle_replication_slot_timeout")?,
            sender_timeout: settings.duration("wal_sender_timeout")?,
            synchronous_standby_names: settings.text("synchronous_standby_names")?,
            synchronous_commit: settings.text("synchronous_commit")?,
        };
        Ok(facts)
    }
}

/// Value and unit of each setting.
struct Settings(HashMap<String, (String, String)>);

impl Settings {
    fn read(connection: &mut Connection) -> Result<Settings, ReplicationError> {
        let names: Vec<String> = SETTINGS.iter().map(|name| format!("'{name}'")).collect();
        let rows = connection.query(&format!(
            "select name, setting, coalesce(unit, '') from pg_catalog.pg_settings where name in ({})",
            names.join(", ")
        ))?;
        let settings = rows.into_iter().filter_map(|row| match row.as_slice() {
            [Some(name), Some(value), Some(unit)] => {
                Some((name.clone(), (value.clone(), unit.clone())))
            }
            _ => None,
        });
        Ok(Settings(settings.collect()))
    }

    fn text(&self, name: &str) -> Result<String, ReplicationError> {
        let found = self.0.get(name).map(|(value, _)| value.clone());
        found.ok_or_else(|| ReplicationError::Protocol(format!("the server has no setting {name}")))
    }

    fn number(&self, name: &str) -> Result<u64, ReplicationError> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| ReplicationError::Protocol(format!("the setting {name} is {text:?}")))
    }

    /// -1 is no limit.
    fn bytes(&self, name: &str) -> Result<Option<u64>, ReplicationError> {
        if self.text(name)? == "-1" {
            return Ok(None);
        }
        let unit = match self.unit(name) {
            "B" => 1,
            "kB" => 1 << 10,
            "8kB" => 8 << 10,
            "MB" => 1 << 20,
            _ => return Err(self.foreign_unit(name)),
        };
        Ok(Some(self.number(name)?.saturating_mul(unit)))
    }

    /// 0 is none, and so is a setting that this version does not have.
    fn duration(&self, name: &str) -> Result<Option<Duration>, ReplicationError> {
        if !self.0.contains_key(name) {
            return Ok(None);
        }
        let number = self.number(name)?;
        let duration = match self.unit(name) {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "min" => Duration::from_secs(number.saturating_mul(60)),
            _ => return Err(self.foreign_unit(name)),
        };
        Ok((!duration.is_zero()).then_some(duration))
    }

    fn unit(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |(_, unit)| unit)
    }

    fn foreign_unit(&self, name: &str) -> ReplicationError {
        let unit = self.unit(name);
        ReplicationError::Protocol(format!("the setting {name} is in units of {unit:?}"))
    }
}

const SETTINGS: [&str; 11] = [
    "wal_level",
    "block_size",
    "wal_block_size",
    "segment_size",
    "max_wal_senders",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "idle_replication_slot_timeout",
    "wal_sender_timeout",
    "synchronous_standby_names",
    "synchronous_commit",
];

/// All but the numbers of rows are for everybody to see, and those are too.
const STATE: &str = "\
select pg_is_in_recovery(), \
       case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0') \
            else pg_current_wal_flush_lsn() end, \
       current_user, \
       (select rolsuper or rolreplication from pg_catalog.pg_roles where rolname = current_user), \
       (select count(*) from pg_catalog.pg_stat_replication), \
       (select count(*) from pg_catalog.pg_replication_slots)";
