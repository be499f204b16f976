//! The lines of a log that tell why something failed.

/// As many lines as a person will read.
const LINES: usize = 4;

/// The messages of `text`, what a program of Lima has written, that tell of failures; where there
/// are none, its last lines.
pub(crate) fn telling(text: &str) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for line in text.lines() {
        let Some(message) = failure(line) else { continue };
        // a host agent's words come a second time, by way of limactl
        if told.last() != Some(&message) {
            told.push(message);
        }
    }
    if told.is_empty() {
        let own = |line: &&str| {
            !line.trim().is_empty() && !line.starts_with("+ ") && !line.starts_with("hint: ") && level(line).is_none()
        };
        told = text.lines().filter(own).map(|line| line.trim().to_owned()).collect();
    }
    told.split_off(told.len().saturating_sub(LINES))
}

/// What the console of a VM shows when it did not come up.
pub(crate) fn console(text: &str) -> Vec<String> {
    const SIGNS: [&str; 5] = ["Kernel panic", "emergency mode", "Unable to mount", "I/O error", "Out of memory"];
    let mut told: Vec<String> = text
        .lines()
        .filter(|line| SIGNS.iter().any(|sign| line.contains(sign)))
        .map(|line| line.trim().to_owned())
        .collect();
    told.split_off(told.len().saturating_sub(LINES))
}

/// The message of a line that tells of a failure, in the form `level=error msg="…"` or as JSON.
fn failure(line: &str) -> Option<String> {
    let level = level(line)?;
    if !matches!(level, "error" | "fatal" | "panic") {
        return None;
    }
    let message = match line.starts_with('{') {
        true => serde_json::from_str::<serde_json::Value>(line).ok()?.get("msg")?.as_str()?.to_owned(),
        false => unquoted(line.split_once("msg=")?.1),
    };
    Some(message.trim_start_matches("[hostagent] ").replace('\n', " ").trim().to_owned())
}

fn level(line: &str) -> Option<&str> {
    let rest = line.split_once("level=").or_else(|| line.split_once("\"level\":\""))?.1;
    Some(&rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())])
}

/// The text that begins `quoted`: a word, or a string of Go.
fn unquoted(quoted: &str) -> String {
    let Some(rest) = quoted.strip_prefix('"') else {
        return quoted.split_whitespace().next().unwrap_or_default().to_owned();
    };
    let mut text = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push(' '),
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_picked_out_and_told_once() {
        let text = r#"+ limactl start agents
time="2026-01-01T00:00:00Z" level=info msg="Starting the instance"
time="2026-01-01T00:00:01Z" level=warning msg="[hostagent] supported only for debugging!"
time="2026-01-01T00:00:02Z" level=error msg="[hostagent] cannot read \"/x y\": no such file"
time="2026-01-01T00:00:02Z" level=error msg="cannot read \"/x y\": no such file"
{"level":"fatal","msg":"exit status 1","time":"2026-01-01T00:00:03Z"}
time="2026-01-01T00:00:03Z" level=fatal msg=short
"#;
        assert_eq!(telling(text), ["cannot read \"/x y\": no such file", "exit status 1", "short"]);
    }

    #[test]
    fn without_failures_the_last_words_count() {
        let text = "+ limactl start\ntime=x level=info msg=y\none\n\ntwo\nthree\nfour\nfive\n";
        assert_eq!(telling(text), ["two", "three", "four", "five"]);
        assert!(telling("").is_empty());
        assert!(telling("level=error\n{\"level\":\"fatal\"\n").is_empty());
    }

    #[test]
    fn a_console_tells_of_a_kernel_that_gave_up() {
        let text = "[ 0.1] fine\n[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n[ 1.1] ---\n";
        assert_eq!(console(text), ["[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs"]);
    }
}
