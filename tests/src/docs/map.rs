//! The map of the house in CONTRIBUTING.md: every module with the first sentence of its comment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::repository;

const FILE: &str = "CONTRIBUTING.md";
const BEGIN: &str = "<!-- map: made by scripts/gen-docs -->\n";
const END: &str = "<!-- end of map -->\n";

/// CONTRIBUTING.md with the map as it should be.
pub(super) fn contributing() -> Result<(PathBuf, String)> {
    let text = std::fs::read_to_string(repository().join(FILE)).with_context(|| format!("cannot read '{FILE}'"))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no map in '{FILE}'"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no end of the map in '{FILE}'"))?;
    let mut files = Vec::new();
    for dir in ["bins", "lib/src", "scripts", "tests/src", "tests/tests"] {
        collect(Path::new(dir), &mut files)?;
    }
    files.sort();
    let mut map = String::new();
    for file in files {
        let source = std::fs::read_to_string(repository().join(&file))?;
        let what = sentence(&source).with_context(|| format!("'{}' does not say what it is", file.display()))?;
        map.push_str(&format!("- `{}`: {what}\n", file.display()));
    }
    Ok((FILE.into(), format!("{before}{BEGIN}\n{map}\n{END}{after}")))
}

/// The files below `dir` that are code.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(repository().join(dir)).with_context(|| format!("cannot read '{}'", dir.display()))?;
    for entry in entries {
        let path = dir.join(entry?.file_name());
        let is_code = path.extension().is_some_and(|kind| kind == "rs") || dir == Path::new("scripts");
        if repository().join(&path).is_dir() {
            collect(&path, files)?;
        } else if is_code {
            files.push(path);
        }
    }
    Ok(())
}

/// The first sentence of the comment that a module or a script begins with.
fn sentence(source: &str) -> Option<String> {
    let is_module = source.starts_with("//!");
    let comment = |line: &str| match is_module {
        true => line.strip_prefix("//!").map(str::to_owned),
        false => line.strip_prefix('#').map(str::to_owned),
    };
    // what a script has in front of it: the interpreter, a lint, the usage
    let is_formal = |line: &&str| ["#!", "# shellcheck", "# Usage:"].iter().any(|start| line.starts_with(start));
    let lines = source.lines().skip_while(is_formal).map_while(comment).take_while(|line| !line.trim().is_empty());
    let text = lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ");
    let end = text.find(". ").map_or(text.len(), |end| end + 1);
    Some(text[..end].to_owned()).filter(|text| !text.is_empty())
}
