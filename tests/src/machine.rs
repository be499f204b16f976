//! What a test looks up on the machine itself.

use std::path::Path;

use serde_json::Value;

use crate::{text, tool};

/// An entry of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// The comment field.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// All entries of `/etc/passwd`.
pub fn accounts() -> Vec<Account> {
    let text = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            assert_eq!(fields.len(), 7, "a line of /etc/passwd is damaged: {line:?}");
            Account {
                name: fields[0].to_owned(),
                uid: fields[2].parse().expect("a uid is a number"),
                gid: fields[3].parse().expect("a gid is a number"),
                gecos: fields[4].to_owned(),
                home: fields[5].to_owned(),
                shell: fields[6].to_owned(),
            }
        })
        .collect()
}

/// The account `name`, if there is one.
pub fn account(name: &str) -> Option<Account> {
    accounts().into_iter().find(|account| account.name == name)
}

/// The JSON lines that `lbx-ls` prints with `args`.
pub fn list(args: &[&str]) -> Vec<Value> {
    let text = text(tool("lbx-ls").args(args).assert().success());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON: {e}: {line}"))).collect()
}

/// The object that `lbx-ls` prints for environment `name`, if it lists it.
pub fn listed(name: &str) -> Option<Value> {
    list(&[]).into_iter().find(|object| object["name"] == name)
}

/// Where an environment called `name` has left something: accounts, files, mounts, cgroups,
/// processes. Nothing is the only good answer after delete.
pub fn traces(name: &str) -> Vec<String> {
    let mut traces = Vec::new();
    for file in ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/proc/self/mountinfo"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        traces.extend(text.lines().filter(|l| l.contains(name)).map(|l| format!("{file}: {l}")));
    }
    let places = ["/home", "/var/lib/llima-box/envs", "/run/llima-box"].map(|dir| Path::new(dir).join(name));
    let cgroups = ["/sys/fs/cgroup/llima-box", "/sys/fs/cgroup/unified/llima-box"].map(|dir| Path::new(dir).join(name));
    for path in places.into_iter().chain(cgroups) {
        if path.symlink_metadata().is_ok() {
            traces.push(path.display().to_string());
        }
    }
    traces
}

/// Every name in directory `dir`, sorted; none where there is no such directory.
pub fn entries(dir: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}
