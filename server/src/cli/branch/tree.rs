//! `pageserver branch list`: every branch below the one that it continues.

use std::collections::BTreeMap;

use engine::catalog::{BranchSummary, Tenant};
use engine::types::BranchId;
use serde_json::{Value, json};

use super::Session;
use crate::cli::import::human;
use crate::exit::Failure;

pub(super) fn list(session: &Session, tenant: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let (runtime, catalog) = (&session.runtime, session.catalog());
    let tenants = match tenant {
        Some(tenant) => vec![runtime.block_on(catalog.find_tenant(tenant))?],
        None => runtime.block_on(catalog.tenants())?,
    };
    let mut views = Vec::new();
    let mut rows = vec![HEAD.map(str::to_owned)];
    for tenant in &tenants {
        let branches = runtime.block_on(catalog.branches(tenant))?;
        for (depth, branch) in in_tree_order(&branches) {
            if as_json {
                views.push(view(tenant, branch));
            } else {
                rows.push(row(tenant, depth, branch));
            }
        }
    }
    if as_json {
        println!("{}", Value::Array(views));
    } else if rows.len() > 1 {
        print!("{}", table(&rows));
    }
    Ok(())
}

/// Branches with their depths: each before its children, and siblings in the order in which they come.
fn in_tree_order(branches: &[BranchSummary]) -> Vec<(usize, &BranchSummary)> {
    let is_listed = |id: &BranchId| branches.iter().any(|branch| branch.id == *id);
    let mut children: BTreeMap<Option<BranchId>, Vec<&BranchSummary>> = BTreeMap::new();
    for branch in branches {
        let parent = branch.parent.map(|(parent, _)| parent).filter(is_listed);
        children.entry(parent).or_default().push(branch);
    }
    let mut ordered = Vec::with_capacity(branches.len());
    let of =
        |children: &mut BTreeMap<_, Vec<_>>, parent| children.remove(&parent).unwrap_or_default();
    // The next one is the last.
    let mut waiting: Vec<(usize, &BranchSummary)> = Vec::new();
    waiting.extend(of(&mut children, None).into_iter().rev().map(|b| (0, b)));
    while let Some((depth, branch)) = waiting.pop() {
        ordered.push((depth, branch));
        let below = of(&mut children, Some(branch.id)).into_iter().rev();
        waiting.extend(below.map(|child| (depth + 1, child)));
    }
    ordered
}

fn row(tenant: &Tenant, depth: usize, branch: &BranchSummary) -> [String; HEAD.len()] {
    let name = branch.name.as_deref().unwrap_or("(no name)");
    let dash = || "-".to_owned();
    let readable_from = branch
        .readable_from
        .map_or_else(dash, |lsn| lsn.to_string());
    let size = |bytes| if bytes == 0 { dash() } else { human(bytes) };
    [
        format!("{}{}/{name}", "  ".repeat(depth), tenant.name()),
        branch
            .parent
            .map_or_else(dash, |(_, left_at)| left_at.to_string()),
        format!("{readable_from}..{}", branch.last_lsn),
        size(branch.layer_bytes),
        size(branch.shared_bytes),
        branch.id.to_string(),
        if branch.is_protected { "protected" } else { "" }.to_owned(),
    ]
}

/// Columns as wide as what is in them.
fn table(rows: &[[String; HEAD.len()]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn view(tenant: &Tenant, branch: &BranchSummary) -> Value {
    json!({
        "tenant_id": tenant.id().to_string(),
        "tenant": tenant.name(),
        "id": branch.id.to_string(),
        "name": branch.name,
        "parent_id": branch.parent.map(|(parent, _)| parent.to_string()),
        "left_at": branch.parent.map(|(_, left_at)| left_at.to_string()),
        "protected": branch.is_protected,
        "readable_from": branch.readable_from.map(|lsn| lsn.to_string()),
        "last_lsn": branch.last_lsn.to_string(),
        "layers": branch.layers,
        "layer_bytes": branch.layer_bytes,
        "shared_bytes": branch.shared_bytes,
    })
}

const HEAD: [&str; 7] = ["BRANCH", "LEFT AT", "READABLE", "OWN", "SHARED", "ID", ""];

#[cfg(test)]
mod tests {
    use engine::types::{Id, Lsn};

    use super::*;

    fn id(number: u8) -> BranchId {
        BranchId(Id([number; 16]))
    }

    fn branch(name: Option<&str>, number: u8, parent: Option<u8>) -> BranchSummary {
        BranchSummary {
            name: name.map(str::to_owned),
            id: id(number),
            parent: parent.map(|parent| (id(parent), Lsn(7))),
            is_protected: false,
            readable_from: Some(Lsn(7)),
            last_lsn: Lsn(7),
            layers: 0,
            layer_bytes: 0,
            shared_bytes: 0,
        }
    }

    #[test]
    fn each_branch_comes_before_its_children_and_none_is_left_out() {
        let branches = [
            branch(Some("a-child"), 2, Some(1)),
            branch(Some("inner"), 3, Some(9)),
            branch(Some("lost"), 5, Some(77)),
            branch(Some("main"), 1, None),
            branch(Some("z-child"), 4, Some(1)),
            branch(None, 9, Some(1)),
        ];
        let ordered = in_tree_order(&branches);
        let shown: Vec<_> = ordered
            .iter()
            .map(|(depth, branch)| (*depth, branch.name.as_deref()))
            .collect();
        let expected = [
            (0, Some("lost")),
            (0, Some("main")),
            (1, Some("a-child")),
            (1, Some("z-child")),
            (1, None),
            (2, Some("inner")),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |cells: [&str; 7]| cells.map(str::to_owned);
        let rows = [row(HEAD), row(["größer/als", "-", "", "1 B", "", "x", ""])];
        let expected = "BRANCH      LEFT AT  READABLE  OWN  SHARED  ID\n\
                        größer/als  -                  1 B          x\n";
        assert_eq!(table(&rows), expected);
    }
}
