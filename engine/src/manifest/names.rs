//! Where objects lie below the store's root. The only place that builds their paths, and the list of them:
//!
//! ```text
//! catalog/<tenant>/<KEK epoch, 8 hex>                     the tenant's record; makes the tenant visible
//! tenants/<tenant>/kek/<KEK epoch, 8 hex>                 the KEK, wrapped by the CMK
//! tenants/<tenant>/begun/<branch>                         a branch that a writer began, and its name
//! tenants/<tenant>/names/<keyed hash of the name, 24 hex>/<n, 8 hex>  what a name means; makes the branch visible
//! tenants/<tenant>/names/<keyed hash of the name, 32 hex>/00000000    the same, written by version 1
//! tenants/<tenant>/branches/<branch>/keys/<KEK epoch, 8 hex>/<table, 8 hex>
//! tenants/<tenant>/branches/<branch>/manifest/<!number, 16 hex>
//! tenants/<tenant>/branches/<branch>/snapshots/<epoch, 8 hex>-<sequence, 16 hex>
//! tenants/<tenant>/branches/<branch>/layers/<epoch, 8 hex>-<sequence, 16 hex>
//! tenants/<tenant>/branches/<branch>/wal/<number, 16 hex>
//! ```
//!
//! Manifest entries are named by the complement of their number: stores list in ascending order only, and so the
//! newest entries come first and one page of a listing finds them, however long the history is. `catalog/` and
//! `begun/` exist because listing `tenants/` would list every layer.
//!
//! The id of a branch that begins with its name's record is the place of that record: the hash and `n`.

use crate::types::{BranchId, Id, NameHash, ObjectId, TenantId};

/// Below it is one directory per tenant.
pub(crate) const CATALOG: &str = "catalog/";

/// A tenant's record.
pub(crate) fn tenant_record(tenant: TenantId, kek_epoch: u32) -> String {
    format!("{CATALOG}{tenant}/{kek_epoch:08x}")
}

/// A tenant's wrapped KEK.
pub(crate) fn kek(tenant: TenantId, kek_epoch: u32) -> String {
    format!("tenants/{tenant}/kek/{kek_epoch:08x}")
}

/// The directory of a tenant's wrapped KEKs.
pub(crate) fn keks(tenant: TenantId) -> String {
    format!("tenants/{tenant}/kek/")
}

/// The mark of a branch that was begun.
pub(crate) fn begun(tenant: TenantId, branch: BranchId) -> String {
    format!("tenants/{tenant}/begun/{branch}")
}

/// The directory of those marks.
pub(crate) fn all_begun(tenant: TenantId) -> String {
    format!("tenants/{tenant}/begun/")
}

/// What a name means since its `n`-th change.
pub(crate) fn name(tenant: TenantId, hash: NameHash, n: u32) -> String {
    format!("{}{n:08x}", name_history(tenant, hash))
}

/// The directory of all that one name meant.
pub(crate) fn name_history(tenant: TenantId, hash: NameHash) -> String {
    format!("{}{hash}/", names(tenant))
}

/// What a name means since it was first given, as version 1 wrote it, by the whole of its hash.
pub(crate) fn name_of_version_1(tenant: TenantId, hash: &[u8; 16]) -> String {
    format!("{}{}/{:08x}", names(tenant), Id(*hash), 0)
}

/// The directory of a tenant's names.
pub(crate) fn names(tenant: TenantId) -> String {
    format!("tenants/{tenant}/names/")
}

/// A key table.
pub(crate) fn key_table(tenant: TenantId, branch: BranchId, kek_epoch: u32, table: u32) -> String {
    format!("{}{table:08x}", key_tables(tenant, branch, kek_epoch))
}

/// The directory of a branch's key tables.
pub(crate) fn key_tables(tenant: TenantId, branch: BranchId, kek_epoch: u32) -> String {
    format!("tenants/{tenant}/branches/{branch}/keys/{kek_epoch:08x}/")
}

/// A manifest entry.
pub(crate) fn manifest_entry(tenant: TenantId, branch: BranchId, number: u64) -> String {
    format!("{}{:016x}", manifest(tenant, branch), !number)
}

/// The directory of a branch's manifest.
pub(crate) fn manifest(tenant: TenantId, branch: BranchId) -> String {
    format!("tenants/{tenant}/branches/{branch}/manifest/")
}

/// A snapshot of a manifest.
pub(crate) fn snapshot(tenant: TenantId, object: ObjectId) -> String {
    object_in(tenant, object, "snapshots")
}

/// A layer.
pub fn layer(tenant: TenantId, object: ObjectId) -> String {
    object_in(tenant, object, "layers")
}

/// The directory of the layers that a branch wrote.
pub(crate) fn layers(tenant: TenantId, branch: BranchId) -> String {
    format!("tenants/{tenant}/branches/{branch}/layers/")
}

/// The layer of `branch` that has this path.
pub(crate) fn layer_at(branch: BranchId, path: &str) -> Option<ObjectId> {
    let (directory, sequence) = path.rsplit_once('-')?;
    let (_, epoch) = directory.rsplit_once('/')?;
    Some(ObjectId {
        branch,
        epoch: u32::try_from(number_of_digits(epoch, 8)?).ok()?,
        sequence: number_of_digits(sequence, 16)?,
    })
}

/// A piece of WAL.
pub(crate) fn wal(tenant: TenantId, branch: BranchId, number: u64) -> String {
    format!("{}{number:016x}", all_wal(tenant, branch))
}

/// The directory of a branch's WAL.
pub(crate) fn all_wal(tenant: TenantId, branch: BranchId) -> String {
    format!("tenants/{tenant}/branches/{branch}/wal/")
}

/// The last part of a path as a hexadecimal number of exactly `digits` digits.
pub(crate) fn number_at_end(path: &str, digits: usize) -> Option<u64> {
    let (_, last) = path.rsplit_once('/')?;
    number_of_digits(last, digits)
}

fn number_of_digits(hexadecimal: &str, digits: usize) -> Option<u64> {
    let plain = hexadecimal.len() == digits && hexadecimal.bytes().all(|b| b.is_ascii_hexdigit());
    plain
        .then(|| u64::from_str_radix(hexadecimal, 16).ok())
        .flatten()
}

fn object_in(tenant: TenantId, object: ObjectId, directory: &str) -> String {
    let ObjectId {
        branch,
        epoch,
        sequence,
    } = object;
    format!("tenants/{tenant}/branches/{branch}/{directory}/{epoch:08x}-{sequence:016x}")
}
