//! `pageserver get`: one page, straight from store and keys. No server has to run, and none is asked.

use std::io::Write;

use clap::Args;
use engine::types::{Lsn, PAGE_BYTES};
use engine::{BranchHandle, Core, ErrorKind, ReadError};
use postgres::key::{Fork, PostgresKey, Relation};
use postgres::page::{self, PageHeader};

use super::{Context, scratch_engine};
use crate::address::PointAddress;
use crate::exit::{Exit, Failure, OrExit};

const EXAMPLES: &str = "\
Examples:
  pageserver get acme/main --rel 1663/5/1259 --block 0 --header
  pageserver get acme/main@0/16B3748 --rel 1664/0/1262 --block 0 --hex
  pageserver get acme/main --rel 1663/5/1259 --fork vm --block 0 > page.bin

A relation is tablespace/database/relfilenode, as in Postgres's own WAL and error messages: 1663 is the default
tablespace, 1664 the shared one (with database 0). pg_relation_filepath() shows the last two.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GetArguments {
    /// Where: tenant/branch, tenant/branch@LSN, tenant/branch@TIME, or tenant/branch@-10m for ten minutes ago.
    address: PointAddress,
    /// Which relation.
    #[arg(long, value_name = "SPC/DB/REL", value_parser = parse_relation)]
    rel: Relation,
    /// Which fork: main, fsm, vm or init.
    #[arg(long, default_value = "main", value_parser = parse_fork)]
    fork: Fork,
    /// Which block.
    #[arg(long)]
    block: u32,
    /// As hex digits.
    #[arg(long, conflicts_with = "header")]
    hex: bool,
    /// The page header, decoded.
    #[arg(long)]
    header: bool,
    /// The header as JSON.
    #[arg(long, requires = "header")]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &GetArguments) -> Result<(), Failure> {
    let PointAddress { branch, at } = &arguments.address;
    let at = at
        .map(|point| scratch_engine::lsn_of(context, branch, point))
        .transpose()?;
    let GetArguments {
        rel: relation,
        fork,
        block,
        ..
    } = *arguments;
    let read = async move |core: &Core, branch: &BranchHandle| {
        let at = at.unwrap_or(branch.last_lsn());
        let key = PostgresKey::Block {
            relation,
            fork,
            block,
        }
        .encode();
        core.read(branch, key, at).await.map(|page| (page, at))
    };
    let (page, at) = scratch_engine::ask(context, branch, read).map_err(|failure| {
        let file = format!("{relation}{}", fork.suffix());
        Failure::new(failure.exit, format!("block {block} of {file}: {failure}"))
    })?;
    if page.is_empty() {
        let what = "was cut off or dropped, or nobody logged what is on it";
        let gone = format!("block {block} of {relation}{} {what}", fork.suffix());
        return Err(Failure::new(Exit::NotFound, gone));
    }
    show(arguments, &page, at)
}

pub(super) fn read_failure(error: ReadError) -> Failure {
    let exit = match error.kind() {
        ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::NotYet => Exit::NotFound,
        ErrorKind::Unavailable => Exit::Unavailable,
        ErrorKind::Corrupt => Exit::Corrupt,
        ErrorKind::Refused => Exit::Refused,
    };
    Failure::new(exit, error)
}

fn show(arguments: &GetArguments, page: &[u8], at: Lsn) -> Result<(), Failure> {
    if arguments.hex {
        for (row, bytes) in page.chunks(32).enumerate() {
            let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            println!("{:04x}  {digits}", row * 32);
        }
        return Ok(());
    }
    if !arguments.header {
        return std::io::stdout().write_all(page).or_exit(Exit::Other);
    }
    if page::is_zero(page) {
        println!("a page of zeros, at {at}");
        return Ok(());
    }
    let header = PageHeader::decode(page).or_exit(Exit::Corrupt)?;
    let fields = serde_json::json!({
        "read_at": at.to_string(),
        "lsn": header.lsn.to_string(),
        "checksum": header.checksum,
        "flags": header.flags,
        "lower": header.lower,
        "upper": header.upper,
        "special": header.special,
        "page_bytes": header.page_bytes,
        "layout_version": header.layout_version,
        "prune_xid": header.prune_xid,
        "free_bytes": header.upper.saturating_sub(header.lower),
    });
    if arguments.json {
        println!("{fields}");
    } else {
        for (name, value) in fields.as_object().expect("made above") {
            println!(
                "{name:<15} {}",
                value.as_str().map_or(value.to_string(), str::to_owned)
            );
        }
    }
    Ok(())
}

fn parse_relation(text: &str) -> Result<Relation, String> {
    let numbers: Vec<u32> = text
        .split('/')
        .map(|part| part.parse().map_err(|_| format!("{part:?} is no number")))
        .collect::<Result<_, _>>()?;
    match *numbers.as_slice() {
        [_, _, 0] => Err("relation 0 is no relation".to_owned()),
        [tablespace, database, number] => Ok(Relation {
            tablespace,
            database,
            number,
        }),
        _ => Err("write tablespace/database/relfilenode, like 1663/5/1259".to_owned()),
    }
}

fn parse_fork(text: &str) -> Result<Fork, String> {
    match text {
        "main" => Ok(Fork::Main),
        "fsm" => Ok(Fork::FreeSpaceMap),
        "vm" => Ok(Fork::VisibilityMap),
        "init" => Ok(Fork::Init),
        _ => Err("main, fsm, vm or init".to_owned()),
    }
}

const _: () = assert!(PAGE_BYTES == 8192);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_and_forks_are_written_as_in_postgres() {
        assert_eq!(
            parse_relation("1663/5/1259"),
            Ok(Relation {
                tablespace: 1663,
                database: 5,
                number: 1259
            })
        );
        for bad in [
            "",
            "1259",
            "5/1259",
            "a/b/c",
            "1/2/3/4",
            "1663/5/0",
            "1663/5/-1",
        ] {
            assert!(parse_relation(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_fork("vm"), Ok(Fork::VisibilityMap));
        assert!(parse_fork("").is_err());
    }
}
