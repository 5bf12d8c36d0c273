//! What a name means, versions 1 and 2: sealed records (see `crypto/sealed_record.rs`) with the magic PSNAMERC under keys
//! derived from the tenant's name key, one for each change of the name, numbered from 0.
//!
//! Version 2 lies in `names/<first 12 bytes of the name's hash>/<n>`:
//!
//! | field  | meaning                                                                                        |
//! |--------|------------------------------------------------------------------------------------------------|
//! | name   | length (u32) and text                                                                          |
//! | flags  | u32; 1: the branch is protected, with kinds 1 and 2 only; a reader refuses others              |
//! | kind   | u32; 1: the name means a branch; 2: a branch begins here; 3: the name means nothing any more   |
//! | branch | 16 bytes: that branch; with kind 3 the one that it meant                                       |
//! | start  | with kind 2 only: name hash (16), key-space tag (8), parent, timelines, readable-from LSN, as in a manifest's entry of kind start |
//!
//! Version 1, in `names/<whole hash>/00000000`: name, branch.
//!
//! A record of kind 2 makes a branch by one put: until somebody writes to it, it is all its parent's and has no other
//! object. Its id is its place, hash and number, so it is found by its id too; and since the record names the parent,
//! it is also what keeps the parent: a listing of a tenant's names finds every branch there is, and by their records and
//! manifests whose children they are. The records of a name stay for ever, or an id would come back.
//!
//! A record in the directory of another name is refused, since its name's hash is not the directory's.

use bytes::Bytes;

use super::records::{NO_EPOCH, tenant_place};
use crate::crypto::entropy::Entropy;
use crate::crypto::kek::Kek;
use crate::crypto::page_seal::{BlockKind, FormatTag};
use crate::crypto::sealed_record::{
    RecordError, RecordFormat, RecordProblem, SealedRecord, seal_derived,
};
use crate::manifest::BranchStart;
use crate::manifest::codec::{Decoder, Encoder};
use crate::types::{BranchId, NameHash, TenantId};

/// What a name means since one of its changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameRecord {
    pub(crate) name: String,
    /// Whether the branch is protected.
    pub(crate) is_protected: bool,
    pub(crate) meaning: Meaning,
}

/// What a name can mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// A branch that is described elsewhere.
    Branch(BranchId),
    /// A branch that begins here.
    Start(BranchId, BranchStart),
    /// Nothing any more.
    Nothing {
        /// The branch that it meant.
        was: BranchId,
    },
}

impl NameRecord {
    /// The branch that the name means.
    pub(crate) fn branch(&self) -> Option<BranchId> {
        match &self.meaning {
            Meaning::Branch(branch) | Meaning::Start(branch, _) => Some(*branch),
            Meaning::Nothing { .. } => None,
        }
    }

    /// Seals it as the name's `n`-th change.
    pub(crate) fn seal(
        &self,
        tenant: TenantId,
        n: u32,
        name_key: &Kek,
        entropy: &Entropy,
    ) -> Bytes {
        let place = tenant_place(tenant, u64::from(n));
        seal_derived(&FORMAT, &place, NO_EPOCH, name_key, entropy, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::default();
        body.text(&self.name).u32(u32::from(self.is_protected));
        match &self.meaning {
            Meaning::Branch(branch) => {
                body.u32(KIND_BRANCH).branch(*branch);
            }
            Meaning::Start(branch, start) => {
                body.u32(KIND_START).branch(*branch);
                start.encode(&mut body);
            }
            Meaning::Nothing { was } => {
                body.u32(KIND_NOTHING).branch(*was);
            }
        }
        body.finish()
    }

    fn decode(body: &[u8], version: u16) -> Result<NameRecord, RecordProblem> {
        let mut from = Decoder::new(body);
        let name = from.text()?;
        let (mut is_protected, mut kind) = (false, KIND_BRANCH);
        if version >= 2 {
            let flags = from.u32()?;
            kind = from.u32()?;
            is_protected = flags == PROTECTED;
            if flags > PROTECTED || (is_protected && kind == KIND_NOTHING) {
                return Err(RecordProblem::Damaged("flags"));
            }
        }
        let branch = from.branch()?;
        let meaning = match kind {
            KIND_BRANCH => Meaning::Branch(branch),
            KIND_START => Meaning::Start(branch, BranchStart::decode(&mut from)?),
            KIND_NOTHING => Meaning::Nothing { was: branch },
            _ => return Err(RecordProblem::Damaged("kind of a name")),
        };
        from.finish()?;
        Ok(NameRecord {
            name,
            is_protected,
            meaning,
        })
    }

    /// Opens the record at `path`, the `n`-th of the name with this hash, or of the one that version 1 put there.
    pub(crate) fn open(
        path: &str,
        bytes: &Bytes,
        tenant: TenantId,
        (hash, n): (NameHash, u32),
        name_key: &Kek,
    ) -> Result<NameRecord, RecordError> {
        let place = tenant_place(tenant, u64::from(n));
        let sealed = SealedRecord::parse(&FORMAT, &place, path, bytes)?;
        let body = sealed.open_derived(name_key)?;
        let record = NameRecord::decode(&body, sealed.version());
        let record = record.map_err(|problem| problem.at(path))?;
        let in_place = NameHash::of(&name_key.keyed_hash(record.name.as_bytes())) == hash
            && match &record.meaning {
                Meaning::Start(branch, start) => {
                    *branch == hash.branch(n) && NameHash::of(&start.creation.name_hash) == hash
                }
                Meaning::Branch(_) | Meaning::Nothing { .. } => true,
            };
        if in_place {
            Ok(record)
        } else {
            Err(RecordProblem::Misplaced.at(path))
        }
    }

    /// A name of a branch as version 1 wrote it.
    #[cfg(test)]
    pub(crate) fn seal_in_version_1(
        (name, branch): (&str, BranchId),
        (tenant, n): (TenantId, u32),
        name_key: &Kek,
        entropy: &Entropy,
    ) -> Bytes {
        let format = RecordFormat {
            tag: FormatTag::new(b"NAME", 1),
            ..FORMAT
        };
        let mut body = Encoder::default();
        body.text(name).branch(branch);
        let place = tenant_place(tenant, u64::from(n));
        seal_derived(&format, &place, NO_EPOCH, name_key, entropy, &body.finish())
    }
}

/// For fuzzing: the opened body of a record; what is accepted is what is written.
pub(super) fn fuzz(body: &[u8]) {
    if let Ok(record) = NameRecord::decode(body, FORMAT.tag.version) {
        assert!(record.encode() == body, "another name's record");
    }
}

const FORMAT: RecordFormat = RecordFormat {
    magic: b"PSNAMERC",
    tag: FormatTag::new(b"NAME", 2),
    kind: BlockKind::NameRecord,
};

const PROTECTED: u32 = 1;

const KIND_BRANCH: u32 = 1;
const KIND_START: u32 = 2;
const KIND_NOTHING: u32 = 3;

#[cfg(test)]
mod tests;
