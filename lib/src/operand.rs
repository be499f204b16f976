//! Operands: `-` reads them from standard input.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use anyhow::Context;

use crate::failure::{Failure, Result, fail, status};

/// The operands of a command line; a lone `-` is replaced by what stdin holds, one a line, or
/// each ended by NUL when `null` is set. Empty lines are no operands.
///
/// # Errors
/// Standard input cannot be read; `-` beside other operands.
pub fn expand(operands: Vec<OsString>, null: bool) -> Result<Vec<OsString>> {
    if !operands.iter().any(|operand| operand == "-") {
        return Ok(operands);
    }
    if operands.len() > 1 {
        return fail(
            Failure::new("'-' reads all operands from standard input: no other may stand beside it")
                .status(status::USAGE),
        );
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).context("cannot read operands from standard input")?;
    Ok(split(&text, null))
}

fn split(text: &[u8], null: bool) -> Vec<OsString> {
    let end = if null { b'\0' } else { b'\n' };
    text.split(|byte| *byte == end)
        .filter(|operand| !operand.is_empty())
        .map(|operand| OsString::from_vec(operand.to_vec()))
        .collect()
}

/// `NAME[=VALUE]` as name and value.
pub fn assignment(word: &OsStr) -> (OsString, Option<OsString>) {
    use std::os::unix::ffi::OsStrExt;
    let bytes = word.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        None => (word.to_owned(), None),
        Some(at) => (OsStr::from_bytes(&bytes[..at]).to_owned(), Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_or_nul_ended_words_become_operands() {
        assert_eq!(split(b"a b\n\n-c\n", false), ["a b", "-c"]);
        assert_eq!(split(b"a\nb\0c", true), ["a\nb", "c"]);
        assert!(split(b"", false).is_empty());
    }

    #[test]
    fn a_dash_stands_alone() {
        assert!(expand(vec!["-".into(), "x".into()], false).is_err());
        assert_eq!(expand(vec!["./-".into()], false).unwrap(), ["./-"]);
    }

    #[test]
    fn a_value_may_hold_an_equals_sign() {
        assert_eq!(assignment(OsStr::new("A=b=c")), ("A".into(), Some("b=c".into())));
        assert_eq!(assignment(OsStr::new("A=")), ("A".into(), Some("".into())));
        assert_eq!(assignment(OsStr::new("A")), ("A".into(), None));
    }
}
