//! Commands that make branches and change their names.

use engine::catalog::Child;
use engine::types::{BranchId, Lsn};
use serde_json::{Value, json};

use super::Session;
use crate::address::BranchAddress;
use crate::exit::{Exit, Failure};

pub(super) fn create(
    session: &Session,
    address: &BranchAddress,
    (from, at): (&BranchAddress, Option<Lsn>),
    as_json: bool,
) -> Result<(), Failure> {
    let (runtime, catalog) = (&session.runtime, session.catalog());
    let tenant = session.tenant_to_change(address)?;
    let parents_tenant = runtime.block_on(catalog.find_tenant(&from.tenant))?;
    if parents_tenant.id() != tenant.id() {
        let error = format!("{address} and {from} are of different tenants");
        return Err(Failure::new(Exit::Usage, error));
    }
    let parent = runtime.block_on(catalog.find_parent(&tenant, &from.branch))?;
    let create = catalog.create_child(&tenant, &address.branch, &parent, at);
    let child = runtime.block_on(create)?;
    if as_json {
        println!("{}", view(&address.branch, &child));
    } else {
        let (id, left_at) = (child.id, child.left_at);
        println!("{id}  {address}  continues {from} from {left_at} on");
    }
    Ok(())
}

pub(super) fn delete(
    session: &Session,
    address: &BranchAddress,
    as_json: bool,
) -> Result<(), Failure> {
    let tenant = session.tenant_to_change(address)?;
    let delete = session.catalog().delete(&tenant, &address.branch);
    let id = session.runtime.block_on(delete)?;
    if as_json {
        println!("{}", json!({ "id": id.to_string() }));
    } else {
        println!(
            "{id}  {address} has no name any more; what it has written stays in the object store until garbage is collected"
        );
    }
    Ok(())
}

pub(super) fn rename(
    session: &Session,
    address: &BranchAddress,
    name: &str,
    as_json: bool,
) -> Result<(), Failure> {
    let tenant = session.tenant_to_change(address)?;
    let rename = session.catalog().rename(&tenant, &address.branch, name);
    let id = session.runtime.block_on(rename)?;
    if as_json {
        println!("{}", json!({ "id": id.to_string(), "name": name }));
    } else {
        println!("{id}  {}/{name}", address.tenant);
    }
    Ok(())
}

pub(super) fn protect(
    session: &Session,
    address: &BranchAddress,
    is_protected: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let tenant = session.tenant_to_change(address)?;
    let protect = session
        .catalog()
        .protect(&tenant, &address.branch, is_protected);
    let id = session.runtime.block_on(protect)?;
    if as_json {
        println!(
            "{}",
            json!({ "id": id.to_string(), "protected": is_protected })
        );
    } else {
        let state = if is_protected {
            "protected"
        } else {
            "not protected"
        };
        println!("{id}  {address} is {state}");
    }
    Ok(())
}

pub(super) fn reset(
    session: &Session,
    address: &BranchAddress,
    to: Option<Lsn>,
    as_json: bool,
) -> Result<(), Failure> {
    let tenant = session.tenant_to_change(address)?;
    let reset = session.catalog().reset(&tenant, &address.branch, to);
    let reset = session.runtime.block_on(reset)?;
    let child = reset.child;
    if as_json {
        println!("{}", moved(&reset.name, &child, reset.was, None));
    } else {
        println!(
            "{}  {address} begins anew at {} of its parent {}\n\
             {}  is what it was, without a name now, until garbage is collected",
            child.id, child.left_at, child.parent, reset.was,
        );
    }
    Ok(())
}

pub(super) fn restore(
    session: &Session,
    (address, to): (&BranchAddress, Option<Lsn>),
    keep_as: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let Some(to) = to else {
        let error = format!("{address}: as it was when? Write {address}@ and an LSN or a time");
        return Err(Failure::new(Exit::Usage, error));
    };
    let tenant = session.tenant_to_change(address)?;
    let restore = session
        .catalog()
        .restore(&tenant, &address.branch, to, keep_as);
    let restored = session.runtime.block_on(restore)?;
    let child = restored.child;
    if as_json {
        let kept_as = Some(restored.kept_as.as_str());
        println!("{}", moved(&restored.name, &child, child.parent, kept_as));
    } else {
        let (tenant, kept_as) = (&address.tenant, &restored.kept_as);
        println!(
            "{}  {address} as it was at {to}\n{}  {tenant}/{kept_as} is what it was until now",
            child.id, child.parent,
        );
    }
    Ok(())
}

fn view(name: &str, child: &Child) -> Value {
    json!({
        "id": child.id.to_string(),
        "name": name,
        "parent_id": child.parent.to_string(),
        "left_at": child.left_at.to_string(),
        "readable_from": child.readable_from.to_string(),
    })
}

fn moved(name: &str, child: &Child, was: BranchId, kept_as: Option<&str>) -> Value {
    let mut view = view(name, child);
    view["was"] = was.to_string().into();
    view["kept_as"] = kept_as.into();
    view
}
