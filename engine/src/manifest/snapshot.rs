//! Snapshots of a manifest, version 1: a tree of two levels, always. Little-endian.
//!
//! The *root* is in the log entry that announces the snapshot, so it costs no round trip of its own. A *node* holds
//! all layer sections of one partition or of a few neighbouring ones, so a lookup needs the root and one node, at
//! 1 GiB and at 100 TiB: with the data grow the nodes (64 KiB until a partition alone has more than 520 sections),
//! not the levels, and the root has at most 1,024 node references. Nodes whose partitions did not change since the
//! last snapshot stay where they are; the root refers to them in their older object.
//!
//! Root, in the body of a snapshot entry:
//!
//! | field       | meaning                                                                           |
//! |-------------|-----------------------------------------------------------------------------------|
//! | creation    | as in the create entry                                                            |
//! | epoch       | u32, of the last claim                                                            |
//! | last_lsn    | u64                                                                               |
//! | readable    | u64: readable-from LSN; 0: not yet                                                |
//! | base backup | as in an edit                                                                     |
//! | layers      | u64 number, u64 bytes: of all layers                                              |
//! | objects     | count; for each: epoch (u32), sequence (u64), DEK id (u32, u32), first 8 bytes of the DEK's key-check value |
//! | nodes       | count, by partition; for each: first and last partition (u16 each), object (u16, its place in the list above), zero (u16), number (u32), bytes of the frame (u32), its position (u64) |
//!
//! Snapshot object, written once (`snapshots/<epoch>-<sequence>`):
//!
//! |  at | bytes | field     | meaning                                                                      |
//! |----:|------:|-----------|------------------------------------------------------------------------------|
//! |   0 |     8 | magic     | [`MAGIC`]                                                                    |
//! |   8 |     2 | version   | 1                                                                            |
//! |  10 |     2 | cipher    | [`CIPHER_ID`]                                                                |
//! |  12 |    16 | tenant    |                                                                              |
//! |  28 |    16 | branch    |                                                                              |
//! |  44 |    12 | object    | epoch (u32), sequence (u64)                                                  |
//! |  56 |     8 | dek       | table, slot                                                                  |
//! |  64 |    16 | key_check | of the DEK                                                                   |
//! |  80 |     4 | nodes     | number of frames that follow                                                 |
//! |  84 |     4 | checksum  | CRC-32C of everything before                                                 |
//! |  88 |   ... | frames    | bytes of ciphertext and tag (u32), ciphertext, tag, CRC-32C of all these     |
//!
//! A node's plaintext is a count and its sections (`section.rs`) by partition. Its nonce is its number in the
//! object, under the object's own DEK; the associated data names tenant, branch, epoch, sequence and number. A
//! reader takes nodes by range and checks checksum, key and seal; the header is for scrubbers and for people. A
//! snapshot object is durable before the entry that refers to it; one that no entry refers to is garbage.

use bytes::Bytes;

use super::codec::{Decoder, Encoder};
use super::entry::{
    BaseBackup, BranchStart, Creation, KEPT_BYTES_MAX, KeptHistory, TIMELINE_BYTES, TIMELINES_MAX,
    WAL_POSITION_BYTES, WalPosition,
};
use super::section::{LayerSection, SECTION_BYTES, decode_partition};
use crate::crypto::page_seal::{
    BlockContext, BlockKind, CIPHER_ID, Dek, DekId, FormatTag, Opener, Sealer, TAG_BYTES,
};
use crate::crypto::sealed_record::RecordProblem;
use crate::types::{BranchId, Lsn, ObjectId, PARTITIONS, Partition, TenantId};

/// All that a manifest says, but for the sections, which are in the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotRoot {
    pub(crate) facts: BranchFacts,
    /// The objects that hold nodes.
    pub(crate) objects: Vec<NodeObject>,
    /// By partition, without overlaps; partitions without sections are in none.
    pub(crate) nodes: Vec<NodeRef>,
}

/// What a manifest says about a branch as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchFacts {
    /// What never changes.
    pub creation: Creation,
    /// Of the last claim; 0 before the first.
    pub epoch: u32,
    /// Up to where the branch goes.
    pub last_lsn: Lsn,
    /// From where on it can be read; `None` while it can't.
    pub readable_from: Option<Lsn>,
    /// The base backup it began with.
    pub base_backup: Option<BaseBackup>,
    /// Where its WAL goes on behind the last LSN, once an ingest has said so.
    pub wal: Option<WalPosition>,
    /// Which of its history is there.
    pub kept: KeptHistory,
    /// Number of its own layers.
    pub layers: u64,
    /// Bytes of its own layers in the store.
    pub layer_bytes: u64,
}

/// An object with nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeObject {
    pub(crate) epoch: u32,
    pub(crate) sequence: u64,
    pub(crate) dek: DekId,
    /// The start of the DEK's key-check value.
    pub(crate) key_check: [u8; NODE_KEY_CHECK_BYTES],
}

impl NodeObject {
    pub(crate) fn id(&self, branch: BranchId) -> ObjectId {
        ObjectId {
            branch,
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }
}

/// Where a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeRef {
    pub(crate) first: Partition,
    pub(crate) last: Partition,
    /// Place in [`SnapshotRoot::objects`].
    pub(crate) object: u16,
    /// Number of the node in its object.
    pub(crate) number: u32,
    /// Bytes of its frame.
    pub(crate) frame_bytes: u32,
    /// Where the frame begins.
    pub(crate) at: u64,
}

impl SnapshotRoot {
    /// The root of a branch without layers.
    pub(crate) fn empty(creation: Creation) -> SnapshotRoot {
        SnapshotRoot {
            facts: BranchFacts {
                creation,
                epoch: 0,
                last_lsn: Lsn::INVALID,
                readable_from: None,
                base_backup: None,
                wal: None,
                kept: KeptHistory::default(),
                layers: 0,
                layer_bytes: 0,
            },
            objects: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// The root of a branch that is all its parent's.
    pub(crate) fn started(start: BranchStart) -> SnapshotRoot {
        let last_lsn = start.left_at();
        let mut root = SnapshotRoot::empty(start.creation);
        root.facts.last_lsn = last_lsn;
        root.facts.readable_from = Some(start.readable_from);
        root
    }

    /// The node that holds the sections of `partition`, and its place in the list.
    pub(crate) fn node_of(&self, partition: Partition) -> Option<(usize, &NodeRef)> {
        let place = self.nodes.partition_point(|node| node.last < partition);
        let node = self.nodes.get(place)?;
        (node.first <= partition).then_some((place, node))
    }

    /// The object that holds `node`.
    pub(crate) fn object_of(&self, node: &NodeRef) -> &NodeObject {
        self.objects
            .get(usize::from(node.object))
            .expect("checked when the root was read")
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        let before = out.len();
        let facts = &self.facts;
        facts.creation.encode(out);
        out.u32(facts.epoch)
            .lsn(facts.last_lsn)
            .lsn(facts.readable_from.unwrap_or(Lsn::INVALID));
        BaseBackup::encode(facts.base_backup.as_ref(), out);
        out.u64(facts.layers).u64(facts.layer_bytes);
        out.count(self.objects.len());
        for object in &self.objects {
            out.u32(object.epoch)
                .u64(object.sequence)
                .dek_id(object.dek)
                .bytes(&object.key_check);
        }
        out.count(self.nodes.len());
        for node in &self.nodes {
            out.u16(node.first.number())
                .u16(node.last.number())
                .u16(node.object)
                .u16(0)
                .u32(node.number)
                .u32(node.frame_bytes)
                .u64(node.at);
        }
        assert!(
            out.len() - before <= ROOT_BYTES_MAX,
            "at most one node per partition, and one object per node"
        );
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<SnapshotRoot, RecordProblem> {
        let facts = BranchFacts {
            creation: Creation::decode(from)?,
            epoch: from.u32()?,
            last_lsn: from.lsn()?,
            readable_from: Some(from.lsn()?).filter(|lsn| lsn.is_valid()),
            base_backup: BaseBackup::decode(from)?,
            wal: None,
            kept: KeptHistory::default(),
            layers: from.u64()?,
            layer_bytes: from.u64()?,
        };
        let objects = from.count(OBJECT_BYTES)?;
        let objects: Vec<NodeObject> = (0..objects)
            .map(|_| NodeObject::decode(from))
            .collect::<Result<_, _>>()?;
        let nodes = from.count(NODE_REF_BYTES)?;
        let nodes: Vec<NodeRef> = (0..nodes)
            .map(|_| NodeRef::decode(from, objects.len()))
            .collect::<Result<_, _>>()?;
        let apart = nodes.windows(2).all(|pair| pair[0].last < pair[1].first);
        if !apart || objects.len() > nodes.len() {
            return Err(BAD_ROOT);
        }
        Ok(SnapshotRoot {
            facts,
            objects,
            nodes,
        })
    }
}

impl NodeObject {
    fn decode(from: &mut Decoder<'_>) -> Result<NodeObject, RecordProblem> {
        Ok(NodeObject {
            epoch: from.u32()?,
            sequence: from.u64()?,
            dek: from.dek_id()?,
            key_check: from.array()?,
        })
    }
}

impl NodeRef {
    fn decode(from: &mut Decoder<'_>, objects: usize) -> Result<NodeRef, RecordProblem> {
        let first = decode_partition(u32::from(from.u16()?))?;
        let last = decode_partition(u32::from(from.u16()?))?;
        let object = from.u16()?;
        let zero = from.u16()?;
        let node = NodeRef {
            first,
            last,
            object,
            number: from.u32()?,
            frame_bytes: from.u32()?,
            at: from.u64()?,
        };
        let sound = zero == 0
            && first <= last
            && usize::from(object) < objects
            && (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&node.frame_bytes)
            && node.at.checked_add(u64::from(node.frame_bytes)).is_some();
        if sound { Ok(node) } else { Err(BAD_ROOT) }
    }
}

/// Collects the nodes of one snapshot object.
pub(crate) struct SnapshotObjectWriter {
    tenant: TenantId,
    object: ObjectId,
    dek_id: DekId,
    sealer: Sealer,
    key_check: [u8; TAG_BYTES],
    nodes: u32,
    /// Room for the header, then the frames.
    bytes: Vec<u8>,
}

impl SnapshotObjectWriter {
    /// Begins the object; `dek` seals nothing else.
    pub(crate) fn new(tenant: TenantId, object: ObjectId, dek_id: DekId, dek: &Dek) -> Self {
        SnapshotObjectWriter {
            tenant,
            object,
            dek_id,
            sealer: Sealer::new(dek),
            key_check: dek.key_check_value(),
            nodes: 0,
            bytes: vec![0; HEADER_BYTES],
        }
    }

    /// How large the object is so far.
    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What a root says of this object.
    pub(crate) fn object(&self) -> NodeObject {
        NodeObject {
            epoch: self.object.epoch,
            sequence: self.object.sequence,
            dek: self.dek_id,
            key_check: *self.key_check.first_chunk().expect("16 bytes have 8"),
        }
    }

    /// Appends a node with these sections, which are not empty and in order of partition; `object` is the place of
    /// this object in the root's list.
    pub(crate) fn push(&mut self, object: u16, sections: &[LayerSection]) -> NodeRef {
        let first = sections.first().expect("a node is not empty").partition;
        let last = sections.last().expect("a node is not empty").partition;
        let context = node_context(self.tenant, self.object, self.nodes);
        let plaintext = encode_node_sections(sections);
        let sealed = self.sealer.seal_vec(&context, &plaintext);

        let at = self.bytes.len();
        let sealed_bytes = u32::try_from(sealed.len()).expect("nodes are below 4 GiB");
        self.bytes.extend_from_slice(&sealed_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&sealed);
        let checksum = crc32c::crc32c(&self.bytes[at..]);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());

        let number = self.nodes;
        self.nodes += 1;
        let frame_bytes = u32::try_from(self.bytes.len() - at).expect("nodes are below 4 GiB");
        assert!(
            frame_bytes <= FRAME_BYTES_MAX,
            "no partition has two million sections"
        );
        NodeRef {
            first,
            last,
            object,
            number,
            frame_bytes,
            at: u64::try_from(at).expect("an address fits"),
        }
    }

    /// The object's bytes.
    pub(crate) fn finish(mut self) -> Bytes {
        let mut header = Encoder::default();
        header
            .bytes(MAGIC)
            .u16(VERSION)
            .u16(CIPHER_ID)
            .bytes(&self.tenant.0.0)
            .branch(self.object.branch)
            .u32(self.object.epoch)
            .u64(self.object.sequence)
            .dek_id(self.dek_id)
            .bytes(&self.key_check)
            .u32(self.nodes);
        let mut header = header.finish();
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        self.bytes[..HEADER_BYTES].copy_from_slice(&header);
        self.bytes.into()
    }
}

/// The sections in the frame of `node`, which was read by range from `object` of `branch`.
pub(crate) fn open_node(
    (tenant, branch): (TenantId, BranchId),
    object: &NodeObject,
    node: &NodeRef,
    dek: &Dek,
    frame: &[u8],
) -> Result<Vec<LayerSection>, RecordProblem> {
    let sealed_bytes = node.frame_bytes - FRAME_OVERHEAD_BYTES;
    let (head, checksum) = frame
        .split_last_chunk::<4>()
        .filter(|_| u32::try_from(frame.len()) == Ok(node.frame_bytes))
        .ok_or(RecordProblem::Damaged("length of a snapshot node"))?;
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(head) {
        return Err(RecordProblem::Damaged("checksum of a snapshot node"));
    }
    let sealed = head
        .strip_prefix(&sealed_bytes.to_le_bytes())
        .ok_or(RecordProblem::Damaged("length of a snapshot node"))?;
    if dek.key_check_value()[..NODE_KEY_CHECK_BYTES] != object.key_check {
        return Err(RecordProblem::WrongKey);
    }
    let context = node_context(tenant, object.id(branch), node.number);
    let plaintext = Opener::new(dek)
        .open_vec(&context, sealed)
        .map_err(|_| RecordProblem::BadSeal)?;
    let sections = decode_node_sections(&plaintext)?;
    let in_place = sections
        .iter()
        .all(|section| (node.first..=node.last).contains(&section.partition));
    if in_place {
        Ok(sections)
    } else {
        Err(BAD_NODE_ORDER)
    }
}

/// The plaintext of a node.
pub(crate) fn encode_node_sections(sections: &[LayerSection]) -> Vec<u8> {
    let mut plaintext = Encoder::default();
    plaintext.count(sections.len());
    sections
        .iter()
        .for_each(|section| section.encode(&mut plaintext));
    plaintext.finish()
}

/// The sections in a node's plaintext, in order of partition.
pub(crate) fn decode_node_sections(plaintext: &[u8]) -> Result<Vec<LayerSection>, RecordProblem> {
    let mut from = Decoder::new(plaintext);
    let count = from.count(SECTION_BYTES)?;
    let sections: Vec<LayerSection> = (0..count)
        .map(|_| LayerSection::decode(&mut from))
        .collect::<Result<_, _>>()?;
    from.finish()?;
    if sections.is_sorted_by_key(|section| section.partition) {
        Ok(sections)
    } else {
        Err(BAD_NODE_ORDER)
    }
}

fn node_context(tenant: TenantId, object: ObjectId, number: u32) -> BlockContext {
    BlockContext::unkeyed(
        FORMAT,
        tenant,
        object,
        BlockKind::SnapshotNode,
        u64::from(number),
    )
}

/// The first bytes of every snapshot object.
pub(super) const MAGIC: &[u8; 8] = b"PSSNAPSH";
pub(super) const VERSION: u16 = 1;
const FORMAT: FormatTag = FormatTag::new(b"SNAP", VERSION);

/// A node is closed at this size, if its partitions allow it.
pub(super) const NODE_BYTES_TARGET: usize = 64 << 10;

/// Largest root: what a cold start reads besides a node.
pub(super) const ROOT_BYTES_MAX: usize = 64 << 10;

const NODE_KEY_CHECK_BYTES: usize = 8;
pub(super) const HEADER_BYTES: usize = 8 + 2 + 2 + 16 + 16 + 12 + 8 + 16 + 4 + 4;
const FRAME_OVERHEAD_BYTES: u32 = 4 + 4;
const FRAME_BYTES_MIN: u32 = 4 + 4 + 16 + 4;
pub(super) const FRAME_BYTES_MAX: u32 = 256 << 20;
const OBJECT_BYTES: usize = 4 + 8 + 8 + NODE_KEY_CHECK_BYTES;
const NODE_REF_BYTES: usize = 2 + 2 + 2 + 2 + 4 + 4 + 8;
/// Everything of the root but objects, nodes and timelines.
const ROOT_FIXED_BYTES: usize = (16 + 8 + 4 + 24 + 4) + (4 + 8 + 8) + (4 + 28) + 16 + 4 + 4;
const BAD_ROOT: RecordProblem = RecordProblem::Damaged("snapshot root");
const BAD_NODE_ORDER: RecordProblem = RecordProblem::Damaged("order of a snapshot node");

const _: () = assert!(HEADER_BYTES == 88);
const _: () = assert!(
    ROOT_FIXED_BYTES
        + (4 + WAL_POSITION_BYTES + KEPT_BYTES_MAX)
        + TIMELINES_MAX * TIMELINE_BYTES
        + PARTITIONS as usize * (OBJECT_BYTES + NODE_REF_BYTES)
        <= ROOT_BYTES_MAX
);
