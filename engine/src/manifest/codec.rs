//! Little-endian fields of sealed bodies: written one behind the other, read back with every length checked.

use crate::crypto::page_seal::DekId;
use crate::crypto::sealed_record::RecordProblem;
use crate::types::{BranchId, Id, Key, Lsn, ObjectId};

/// Collects the fields of a body.
#[derive(Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A number of items that follow.
    pub(crate) fn count(&mut self, value: usize) -> &mut Self {
        self.u32(u32::try_from(value).expect("bodies are far smaller than 4 Gi items"))
    }

    pub(crate) fn lsn(&mut self, value: Lsn) -> &mut Self {
        self.u64(value.0)
    }

    pub(crate) fn key(&mut self, value: &Key) -> &mut Self {
        self.bytes(&value.0)
    }

    pub(crate) fn branch(&mut self, value: BranchId) -> &mut Self {
        self.bytes(&value.0.0)
    }

    pub(crate) fn object(&mut self, value: ObjectId) -> &mut Self {
        self.branch(value.branch)
            .u32(value.epoch)
            .u64(value.sequence)
    }

    pub(crate) fn dek_id(&mut self, value: DekId) -> &mut Self {
        self.u32(value.table).u32(value.slot)
    }

    /// Whether a value follows, as a `u32` of 0 or 1.
    pub(crate) fn present<T>(&mut self, value: Option<&T>) -> &mut Self {
        self.u32(u32::from(value.is_some()))
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.count(value.len()).bytes(value.as_bytes())
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the fields out again, in the same order.
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordProblem> {
        let (head, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, RecordProblem> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RecordProblem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RecordProblem> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of items of `item_bytes_min` each that follow: never more than the bytes that are left can hold, so
    /// it is safe to allocate for.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, RecordProblem> {
        let count = usize::try_from(self.u32()?).map_err(|_| COUNT)?;
        let fits = count
            .checked_mul(item_bytes_min)
            .is_some_and(|bytes| bytes <= self.0.len());
        if fits { Ok(count) } else { Err(COUNT) }
    }

    pub(crate) fn lsn(&mut self) -> Result<Lsn, RecordProblem> {
        self.u64().map(Lsn)
    }

    pub(crate) fn key(&mut self) -> Result<Key, RecordProblem> {
        self.array().map(Key)
    }

    pub(crate) fn branch(&mut self) -> Result<BranchId, RecordProblem> {
        self.array().map(|id| BranchId(Id(id)))
    }

    pub(crate) fn object(&mut self) -> Result<ObjectId, RecordProblem> {
        Ok(ObjectId {
            branch: self.branch()?,
            epoch: self.u32()?,
            sequence: self.u64()?,
        })
    }

    pub(crate) fn dek_id(&mut self) -> Result<DekId, RecordProblem> {
        Ok(DekId {
            table: self.u32()?,
            slot: self.u32()?,
        })
    }

    /// What [`Encoder::present`] wrote.
    pub(crate) fn present(&mut self) -> Result<bool, RecordProblem> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordProblem::Damaged("presence")),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, RecordProblem> {
        let bytes = self.count(1)?;
        let (text, rest) = self.0.split_at(bytes);
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| RecordProblem::Damaged("text"))
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Refuses bytes behind the last field.
    pub(crate) fn finish(self) -> Result<(), RecordProblem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RecordProblem::Damaged("bytes behind the last field"))
        }
    }
}

const SHORT: RecordProblem = RecordProblem::Damaged("body cut short");
const COUNT: RecordProblem = RecordProblem::Damaged("count");
