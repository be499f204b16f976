//! Names in text: as git quotes them, so that no name drives a terminal or looks like two.

use std::fmt::Write;

/// `name` as it is; in double quotes, with escapes as in C, where it has control characters, quotes,
/// backslashes or what is not UTF-8.
pub(crate) fn quoted(name: &[u8]) -> String {
    let plain = |text: &str| !text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\'));
    match std::str::from_utf8(name) {
        Ok(text) if plain(text) => text.to_owned(),
        _ => format!("\"{}\"", escaped(name)),
    }
}

/// What stands between the quotes.
pub(crate) fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len() + 8);
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\x07' => text.push_str("\\a"),
                '\x08' => text.push_str("\\b"),
                '\x0b' => text.push_str("\\v"),
                '\x0c' => text.push_str("\\f"),
                c if c.is_control() => octal(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        octal(&mut text, chunk.invalid());
    }
    text
}

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // a String takes all that is written
        let _ = write!(text, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_mislead_is_quoted() {
        for name in ["a b", "ä/ö", "$(x)", "it's", " ", "a\u{a0}b"] {
            assert_eq!(quoted(name.as_bytes()), name);
        }
        assert_eq!(quoted(b"a\nb\tc\x1b[2J\x7f"), r#""a\nb\tc\033[2J\177""#);
        assert_eq!(quoted("say \"ä\"\\".as_bytes()), r#""say \"ä\"\\""#);
        assert_eq!(quoted(b"\xff\xc3x"), r#""\377\303x""#);
        // C1: some terminals obey it
        assert_eq!(quoted("\u{9b}2J".as_bytes()), r#""\302\2332J""#);
    }
}
