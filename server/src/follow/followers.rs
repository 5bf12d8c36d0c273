//! All branches of a server that follow a primary: started from what is written down, stopped with the server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use engine::Engine;
use engine::types::{BranchId, TenantId};
use serde_json::Value;

use super::attachment::{Attachment, AttachmentError};
use super::follower::{Follower, FollowerParts};
use super::status::FollowSnapshot;
use crate::config::FollowConfig;
use crate::data_dir::DataDir;
use crate::primary_connection::connection_settings;

/// The followers of a server.
pub struct Followers {
    engine: Arc<Engine>,
    config: FollowConfig,
    attached_dir: PathBuf,
    wal_dir: PathBuf,
    /// The environment, for connections.
    variables: BTreeMap<String, String>,
    running: Mutex<BTreeMap<(TenantId, BranchId), Follower>>,
}

impl Followers {
    /// None yet.
    pub fn new(
        engine: Arc<Engine>,
        config: FollowConfig,
        data_dir: &DataDir,
        variables: BTreeMap<String, String>,
    ) -> Followers {
        Followers {
            engine,
            config,
            attached_dir: data_dir.attached(),
            wal_dir: data_dir.wal(),
            variables,
            running: Mutex::default(),
        }
    }

    /// Starts followers that are written down and do not run, those that stopped among them, and stops those that are not written
    /// down any more (or otherwise); answers how many run then. Waits for those that stop.
    /// # Errors
    /// What is written down can't be read: everything stays as it is.
    pub fn reload(&self) -> Result<usize, AttachmentError> {
        let attachments = Attachment::all(&self.attached_dir)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |follower: &Follower| {
            attachments.contains(follower.attachment()) && !follower.has_ended()
        };
        let gone: Vec<_> = running
            .iter()
            .filter(|(_, follower)| !stays(follower))
            .map(|(place, _)| *place)
            .collect();
        for place in gone {
            if let Some(follower) = running.remove(&place) {
                tracing::info!(branch = follower.attachment().name, "no longer follows");
                follower.join();
            }
        }
        for attachment in attachments {
            let Some(place) = attachment.ids() else {
                continue;
            };
            if running.contains_key(&place) {
                continue;
            }
            match self.start(attachment, place) {
                Ok(follower) => {
                    tracing::info!(branch = follower.attachment().name, "follows its primary");
                    running.insert(place, follower);
                }
                Err(reason) => tracing::error!(reason, "a branch does not follow its primary"),
            }
        }
        Ok(running.len())
    }

    fn start(
        &self,
        attachment: Attachment,
        place: (TenantId, BranchId),
    ) -> Result<Follower, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", attachment.name);
        let settings = connection_settings(&self.variables, &attachment.connection)
            .map_err(|error| told(&error))?;
        let slot = attachment.slot.parse().map_err(|error| told(&error))?;
        let parts = FollowerParts {
            engine: Arc::clone(&self.engine),
            name: attachment.name.clone(),
            place,
            settings,
            slot,
            wal_dir: self.wal_dir.join(format!("{}-{}", place.0, place.1)),
            ack: attachment.ack,
            config: self.config,
        };
        let name = attachment.name.clone();
        Follower::start(attachment, parts).map_err(|error| format!("{name}: {error}"))
    }

    /// Stops all of them and waits for that.
    pub fn stop(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().for_each(Follower::stop);
        while let Some((_, follower)) = running.pop_first() {
            follower.join();
        }
    }

    /// How they are, with what is written down of them.
    pub fn snapshots(&self) -> Vec<(Attachment, FollowSnapshot)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let all = running.values();
        all.map(|follower| (follower.attachment().clone(), follower.snapshot()))
            .collect()
    }

    /// How they are, for `status`.
    pub fn to_json(&self) -> Value {
        let all = self.snapshots();
        all.iter()
            .map(|(attachment, snapshot)| snapshot.to_json(&attachment.name, attachment.ack))
            .collect()
    }
}
