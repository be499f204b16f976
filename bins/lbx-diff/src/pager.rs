//! What a person reads on a terminal goes through a pager, which is the invoking user's and runs as them:
//! the tool itself may be root's, or at another place.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::step;
use nix::sys::signal::{SigSet, Signal};

use crate::TOOL;

/// What less(1) is told where the person has not told it anything: to leave what fits on the screen
/// there, and to let colours through and no other escapes.
const LESS: &str = "FRX";

/// The person's pager as words; none where they want none.
pub(crate) fn chosen() -> Vec<String> {
    let words = match std::env::var("PAGER") {
        Err(_) => return vec!["less".to_owned()],
        Ok(line) => shell_words::split(&line).unwrap_or_default(),
    };
    if words == ["cat"] { Vec::new() } else { words }
}

/// Runs this tool with `words`, its output through `pager`; its status.
pub(crate) fn run(pager: &[String], words: Vec<OsString>) -> Result<u8> {
    let mut tool = step::sibling(TOOL.name)?;
    tool.args(words).stdout(Stdio::piped());
    step::trace(&tool);
    let mut tool = tool.spawn().context("cannot run lbx-diff")?;
    if let Some(out) = tool.stdout.take() {
        page(pager, out)?;
    }
    let status = tool.wait().context("cannot wait for lbx-diff")?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        None => fail(Failure::new(format!("lbx-diff failed: {status}"))),
    }
}

/// Hands `out` on. The pager begins when there is something to see: until then the terminal may be
/// sudo's.
fn page(pager: &[String], mut out: ChildStdout) -> Result<()> {
    let mut block = vec![0; 1 << 16];
    let mut length = out.read(&mut block).context("cannot read from lbx-diff")?;
    if length == 0 {
        return Ok(());
    }
    let mut pager = start(pager);
    let mut sink: Box<dyn Write> = match pager.as_mut().and_then(|pager| pager.stdin.take()) {
        Some(stdin) => Box::new(stdin),
        None => Box::new(std::io::stdout().lock()),
    };
    // that of a person who stops a search is the pager's
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    interrupt.thread_block().context("cannot block a signal")?;
    while length > 0 {
        // who has read enough does not want the rest
        if sink.write_all(&block[..length]).is_err() {
            break;
        }
        length = out.read(&mut block).context("cannot read from lbx-diff")?;
    }
    let _ = sink.flush();
    drop((sink, out));
    if let Some(mut pager) = pager {
        pager.wait().context("cannot wait for the pager")?;
    }
    Ok(())
}

fn start(words: &[String]) -> Option<Child> {
    let (program, arguments) = words.split_first()?;
    let mut pager = Command::new(program);
    pager.args(arguments).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        pager.env("LESS", LESS);
    }
    step::trace(&pager);
    pager.spawn().ok()
}
