//! Which layers are merged next.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::config::CompactionConfig;
use crate::catalog::STRETCH_BYTES;
use crate::manifest::LayerSection;
use crate::types::{Lsn, ObjectId, Partition};

/// What is merged by one commit.
#[derive(Debug)]
pub(super) struct Plan {
    /// The layers, and of each all partitions it has sections in.
    pub(super) layers: Vec<PlannedLayer>,
    /// Partitions in which a layer that is not merged lies between those that are, in time: of a value there it can't be told
    /// from the merged layers alone what it was.
    pub(super) interleaved: HashSet<Partition>,
}

/// A layer that is merged.
#[derive(Debug)]
pub(super) struct PlannedLayer {
    /// One of its sections.
    pub(super) section: LayerSection,
    pub(super) partitions: Vec<Partition>,
}

/// Chooses, from the sections of all partitions; `None` if nothing is worth merging.
///
/// The partition with the most runs to merge comes first, and those behind it as long as the job stays within its bounds.
/// `made_by` tells which job made a layer: what one job made is not merged by itself again.
pub(super) fn plan(
    sections: &[(Partition, Vec<LayerSection>)],
    made_by: &HashMap<ObjectId, u64>,
    config: &CompactionConfig,
) -> Option<Plan> {
    let mut sections_of: HashMap<ObjectId, u64> = HashMap::new();
    for section in sections.iter().flat_map(|(_, sections)| sections) {
        *sections_of.entry(section.object).or_default() += 1;
    }
    let share = |section: &LayerSection| section.object_bytes / sections_of[&section.object];
    let picks: Vec<Vec<ObjectId>> = sections
        .iter()
        .map(|(_, sections)| {
            let picked = pick(&runs(sections, share), config);
            let mut jobs = picked.iter().map(|object| made_by.get(object));
            let first = jobs.next().flatten();
            let is_one_jobs = first.is_some() && jobs.all(|job| job == first);
            if is_one_jobs { Vec::new() } else { picked }
        })
        .collect();
    let (first, longest) = picks
        .iter()
        .enumerate()
        .max_by_key(|(place, pick)| (pick.len(), std::cmp::Reverse(*place)))?;
    if longest.is_empty() {
        return None;
    }
    let object_bytes: HashMap<ObjectId, u64> = sections
        .iter()
        .flat_map(|(_, sections)| sections)
        .map(|section| (section.object, section.object_bytes))
        .collect();
    let mut chosen: BTreeSet<ObjectId> = BTreeSet::new();
    let mut bytes = 0;
    let in_turn = (first..picks.len()).chain(0..first);
    for (nth, place) in in_turn.enumerate() {
        let fresh: Vec<ObjectId> = picks[place]
            .iter()
            .filter(|object| !chosen.contains(object))
            .copied()
            .collect();
        let more: u64 = fresh.iter().map(|object| object_bytes[object]).sum();
        let is_too_much = bytes + more > config.job_bytes_max
            || chosen.len() + fresh.len() > config.job_layers_max;
        if nth > 0 && is_too_much {
            break;
        }
        bytes += more;
        chosen.extend(fresh);
    }
    Some(of_layers(sections, &chosen))
}

fn of_layers(sections: &[(Partition, Vec<LayerSection>)], chosen: &BTreeSet<ObjectId>) -> Plan {
    let mut layers: HashMap<ObjectId, PlannedLayer> = HashMap::new();
    let mut interleaved = HashSet::new();
    for (partition, sections) in sections {
        let (merged, others): (Vec<&LayerSection>, Vec<&LayerSection>) = sections
            .iter()
            .partition(|section| chosen.contains(&section.object));
        for section in &merged {
            let fresh = || PlannedLayer {
                section: **section,
                partitions: Vec::new(),
            };
            let layer = layers.entry(section.object).or_insert_with(fresh);
            layer.partitions.push(*partition);
        }
        let first = merged.iter().map(|section| section.first_lsn).min();
        let last = merged.iter().map(|section| section.last_lsn).max();
        let lies_between = |section: &&LayerSection| {
            first.is_some_and(|first| first <= section.last_lsn)
                && last.is_some_and(|last| section.first_lsn <= last)
        };
        if others.iter().any(lies_between) {
            interleaved.insert(*partition);
        }
    }
    let mut layers: Vec<PlannedLayer> = layers.into_values().collect();
    layers.sort_by_key(|layer| layer.section.object);
    Plan {
        layers,
        interleaved,
    }
}

/// Layers of one partition that overlap in time.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    last_lsn: Lsn,
    /// Which [`STRETCH_BYTES`] of LSNs it ends in: one layer can't have much more.
    stretch: u64,
    bytes: u64,
    layers: Vec<ObjectId>,
}

/// The runs of a partition, newest first.
fn runs(sections: &[LayerSection], share: impl Fn(&LayerSection) -> u64) -> Vec<Run> {
    let mut by_time: Vec<&LayerSection> = sections.iter().collect();
    by_time.sort_by_key(|section| (section.first_lsn, section.last_lsn, section.object));
    let mut runs: Vec<Run> = Vec::new();
    for section in by_time {
        match runs.last_mut() {
            Some(run) if section.first_lsn <= run.last_lsn => {
                run.last_lsn = run.last_lsn.max(section.last_lsn);
                run.stretch = run.last_lsn.0 / STRETCH_BYTES;
                run.bytes += share(section);
                run.layers.push(section.object);
            }
            _ => runs.push(Run {
                last_lsn: section.last_lsn,
                stretch: section.last_lsn.0 / STRETCH_BYTES,
                bytes: share(section),
                layers: vec![section.object],
            }),
        }
    }
    runs.reverse();
    runs
}

/// The layers of the runs that are merged, within one stretch of LSNs: those of others would be in layers of their own again.
fn pick(runs: &[Run], config: &CompactionConfig) -> Vec<ObjectId> {
    let fits = |run: &Run| run.layers.len() <= config.job_layers_max;
    let mergeable = |a: &Run, b: &Run| a.stretch == b.stretch && fits(a) && fits(b);
    runs.chunk_by(mergeable)
        .map(|stretch| pick_of_stretch(stretch, config))
        .find(|picked| !picked.is_empty())
        .unwrap_or_default()
}

/// The layers of the runs that are merged: from one on as many as are not larger than all before them together, if those
/// are enough; the newest, if there are too many in all. Of many layers the first so many, but two runs at least.
fn pick_of_stretch(runs: &[Run], config: &CompactionConfig) -> Vec<ObjectId> {
    let layers = |runs: &[Run]| {
        let mut layers: Vec<ObjectId> = Vec::new();
        for (nth, run) in runs.iter().enumerate() {
            if nth >= 2 && layers.len() + run.layers.len() > config.job_layers_max {
                break;
            }
            layers.extend(&run.layers);
        }
        layers
    };
    for start in 0..runs.len() {
        let mut bytes = 0;
        let alike = runs[start..]
            .iter()
            .take_while(|run| {
                let fits = bytes == 0 || run.bytes <= bytes;
                bytes += run.bytes.max(1);
                fits
            })
            .count();
        if alike >= config.runs_min {
            return layers(&runs[start..start + alike]);
        }
    }
    if runs.len() > config.runs_max {
        let too_many = runs.len() - config.runs_max;
        return layers(&runs[..=too_many]);
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::page_seal::DekId;
    use crate::types::{BranchId, Id, Key};

    fn object(sequence: u64) -> ObjectId {
        ObjectId {
            branch: BranchId(Id([1; 16])),
            epoch: 1,
            sequence,
        }
    }

    fn section(partition: u16, sequence: u64, lsns: (u64, u64), bytes: u64) -> LayerSection {
        LayerSection {
            partition: Partition::new(partition).expect("a partition"),
            first_key: Key::MIN,
            last_key: Key::MAX,
            first_lsn: Lsn(lsns.0),
            last_lsn: Lsn(lsns.1),
            object: object(sequence),
            dek: DekId { table: 0, slot: 0 },
            index_at: 0,
            index_bytes: 1,
            object_bytes: bytes,
        }
    }

    fn merged(sections: &[LayerSection], config: &CompactionConfig) -> Option<Vec<u64>> {
        let mut by_partition: Vec<(Partition, Vec<LayerSection>)> = Vec::new();
        for section in sections {
            match by_partition
                .iter_mut()
                .find(|(partition, _)| *partition == section.partition)
            {
                Some((_, list)) => list.push(*section),
                None => by_partition.push((section.partition, vec![*section])),
            }
        }
        let plan = plan(&by_partition, &HashMap::new(), config)?;
        let sequences = plan
            .layers
            .iter()
            .map(|layer| layer.section.object.sequence);
        Some(sequences.collect())
    }

    fn config() -> CompactionConfig {
        CompactionConfig {
            runs_min: 3,
            runs_max: 5,
            job_bytes_max: 1000,
            job_layers_max: 100,
            ..CompactionConfig::default()
        }
    }

    #[test]
    fn runs_of_about_the_same_size_are_merged() {
        let config = config();
        let base = section(0, 0, (1, 10), 5000);
        let two = [
            base,
            section(0, 1, (11, 20), 10),
            section(0, 2, (21, 30), 10),
        ];
        assert_eq!(merged(&two, &config), None);
        let mut three = two.to_vec();
        three.push(section(0, 3, (31, 40), 10));
        assert_eq!(merged(&three, &config), Some(vec![1, 2, 3]));
        // One that is larger than all behind it together stays.
        let mut after = vec![base, section(0, 4, (11, 40), 31)];
        after.extend((5..8).map(|n| section(0, n, (n * 10, n * 10 + 9), 10)));
        assert_eq!(merged(&after, &config), Some(vec![5, 6, 7]));
        // As large as they are, it goes along.
        after[1].object_bytes = 30;
        assert_eq!(merged(&after, &config), Some(vec![4, 5, 6, 7]));
    }

    #[test]
    fn too_many_runs_are_fewer_afterwards() {
        let sizes = [1000, 400, 150, 60, 20, 5];
        let runs: Vec<LayerSection> = (0..)
            .zip(sizes)
            .map(|(n, bytes)| section(0, n, (n * 10 + 1, n * 10 + 10), bytes))
            .collect();
        assert_eq!(merged(&runs[..5], &config()), None);
        assert_eq!(merged(&runs, &config()), Some(vec![4, 5]));
    }

    #[test]
    fn layers_that_overlap_in_time_are_one_run() {
        let config = config();
        let mut layers: Vec<LayerSection> = (0..6)
            .map(|n| section(0, n, (n + 1, 100 - n), 10))
            .collect();
        assert_eq!(merged(&layers, &config), None);
        layers.push(section(0, 6, (101, 110), 30));
        layers.push(section(0, 7, (111, 120), 10));
        layers.push(section(0, 8, (121, 130), 5));
        assert_eq!(merged(&layers, &config), None);
        layers.push(section(0, 9, (131, 140), 25));
        assert_eq!(merged(&layers, &config), Some((0..10).collect()));
    }

    #[test]
    fn a_job_has_a_size_and_takes_the_longest_first() {
        let config = config();
        let mut layers = Vec::new();
        for partition in 0..4u16 {
            let runs = if partition == 2 { 4 } else { 3 };
            for nth in 0..runs {
                let sequence = u64::from(partition) * 10 + nth;
                layers.push(section(
                    partition,
                    sequence,
                    (nth * 10 + 1, nth * 10 + 9),
                    100,
                ));
            }
        }
        // 400 bytes of partition 2, 300 of the next, and 300 more would fit exactly.
        let wanted = vec![0, 1, 2, 20, 21, 22, 23, 30, 31, 32];
        assert_eq!(merged(&layers, &config), Some(wanted));
        // One partition is merged whatever it takes.
        for layer in &mut layers {
            layer.object_bytes = 10_000;
        }
        assert_eq!(merged(&layers, &config), Some(vec![20, 21, 22, 23]));
    }

    #[test]
    fn a_job_has_so_many_layers_at_most() {
        let config = CompactionConfig {
            job_layers_max: 4,
            job_bytes_max: u64::MAX,
            ..config()
        };
        let layers: Vec<LayerSection> = (0..9)
            .map(|n| section(0, n, (n * 10 + 1, n * 10 + 9), 100))
            .collect();
        assert_eq!(merged(&layers, &config), Some(vec![5, 6, 7, 8]));
    }

    #[test]
    fn what_can_not_become_fewer_is_left_alone() {
        let config = config();
        // A layer per stretch of LSNs, whatever was merged.
        let stretch = |n: u64| (n * STRETCH_BYTES + 1, n * STRETCH_BYTES + 9);
        let apart: Vec<LayerSection> = (0..20).map(|n| section(0, n, stretch(n), 100)).collect();
        assert_eq!(merged(&apart, &config), None);
        // What one merge gave, in parts that follow each other in time.
        let parts: Vec<LayerSection> = (0..6)
            .map(|n| section(0, n, (n * 10 + 1, n * 10 + 9), 100))
            .collect();
        let made_by: HashMap<ObjectId, u64> = (0..6).map(|n| (object(n), 1)).collect();
        let by_partition = vec![(parts[0].partition, parts)];
        assert!(plan(&by_partition, &made_by, &config).is_none());
        let others = HashMap::from([(object(3), 2)]);
        assert!(plan(&by_partition, &others, &config).is_some());
    }

    #[test]
    fn partitions_with_another_layer_in_between_are_known() {
        let mut by_partition = Vec::new();
        for partition in 0..2u16 {
            let mut sections: Vec<LayerSection> = (0..3)
                .map(|n| section(partition, n, (n * 10 + 1, n * 10 + 9), 100))
                .collect();
            if partition == 1 {
                // The second partition alone would not have merged those.
                sections.push(section(partition, 9, (10, 12), 90_000));
            }
            by_partition.push((sections[0].partition, sections));
        }
        let plan = plan(&by_partition, &HashMap::new(), &config());
        let plan = plan.expect("the first partition wants it");
        assert_eq!(plan.layers.len(), 3);
        assert_eq!(plan.layers[0].partitions.len(), 2);
        let second = Partition::new(1).expect("a partition");
        assert_eq!(plan.interleaved, HashSet::from([second]));
    }
}
