//! Probing at the place `local`: baits are laid outside, the attacks are made inside by a copy of this
//! program, and what they tell is judged outside.

use std::ffi::OsString;

use lbx::caller::Caller;
use lbx::failure::{Result, status};
use lbx::{record, step};
use lbx_probe::Cli;

use crate::TOOL;

mod attacks;
mod bait;
mod host;
mod inside;
mod line;
mod outside;
mod raw;
mod report;

use report::Report;

pub(crate) use inside::{attack, is_inside};

/// Prints the attacks.
pub(crate) fn list(cli: &Cli) -> Result<u8> {
    report::list(cli.json)?;
    Ok(status::DONE)
}

/// Attacks `envs` in turn, and goes on past those that cannot be entered.
pub(crate) fn probe(cli: &Cli, envs: &[OsString]) -> Result<u8> {
    let mut report = Report::begin(cli.json, envs.len() > 1)?;
    let mut status = status::DONE;
    for env in envs {
        let probed = record::open(env).and_then(|record| {
            record.require_caller(Caller::current())?;
            step::require_program_out_of_reach(&record)?;
            cli.common.note(TOOL, || format!("attacking '{}'", record.name));
            outside::probe(&record, &mut report)
        });
        match probed {
            Ok(true) => {}
            Ok(false) => status = status::FAILED,
            Err(e) if is_closed(&e) => return Err(e),
            Err(e) => status = status.max(TOOL.report(&e)),
        }
    }
    report.end()?;
    Ok(status)
}

/// Whether the reader of the report has gone.
fn is_closed(e: &anyhow::Error) -> bool {
    e.chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}
