//! What a test looks up on the machine where the environments live.

use std::path::Path;

use serde_json::Value;

use crate::place::{HERE, host_command};
use crate::{host, place, text, tool};

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
    read("/etc/passwd")
        .lines()
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

/// The number of the group called `name`: an environment's own, also where its account has its owner's.
pub fn group(name: &str) -> u32 {
    let groups = read("/etc/group");
    let mut lines = groups.lines().map(|line| line.split(':'));
    let mut group = lines.find(|fields| fields.clone().next() == Some(name)).expect("the group exists");
    group.nth(2).and_then(|number| number.parse().ok()).expect("a gid is a number")
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
    let script = format!(
        "cd /etc; grep -F -e {name} passwd group shadow gshadow /proc/self/mountinfo || :
        for dir in /home /var/lib/llima-box/envs /var/lib/llima-box/named /run/llima-box \
                /sys/fs/cgroup/llima-box /sys/fs/cgroup/unified/llima-box; do
            [ ! -e $dir/{name} ] && [ ! -L $dir/{name} ] || echo $dir/{name}
        done"
    );
    host(&script).lines().map(str::to_owned).collect()
}

/// The text of `file`; nothing where there is no such file.
pub fn read(file: impl AsRef<Path>) -> String {
    let file = file.as_ref();
    if HERE.contains(&place()) {
        return std::fs::read_to_string(file).unwrap_or_default();
    }
    host(&format!("cat {} 2>/dev/null || :", quoted(file)))
}

/// Makes `bytes` the content of `file`.
pub fn write(file: impl AsRef<Path>, bytes: &[u8]) {
    let file = file.as_ref().to_str().expect("a path of UTF-8");
    host_command(&["tee", file]).write_stdin(bytes).assert().success();
}

/// Whether there is something at `path`, be it a link that leads nowhere.
pub fn exists(path: impl AsRef<Path>) -> bool {
    let path = quoted(path.as_ref());
    host(&format!("if [ -e {path} ] || [ -L {path} ]; then echo yes; fi")) == "yes\n"
}

/// Whether `program` is installed.
pub fn has(program: &str) -> bool {
    !host(&format!("command -v {program} || :")).is_empty()
}

/// Every name in directory `dir`, sorted; none where there is no such directory.
pub fn entries(dir: impl AsRef<Path>) -> Vec<String> {
    let dir = dir.as_ref();
    let mut names: Vec<String> = match HERE.contains(&place()) {
        true => std::fs::read_dir(dir).map_or_else(
            |_| Vec::new(),
            |entries| entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect(),
        ),
        false => {
            let find = format!("find {} -mindepth 1 -maxdepth 1 -printf '%f\\0' 2>/dev/null || :", quoted(dir));
            let output = host_command(&["sh", "-euc", &find]).assert().success();
            let names = output.get_output().stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
    };
    names.sort_unstable();
    names
}

fn quoted(path: &Path) -> String {
    shell_words::quote(path.to_str().expect("a path of UTF-8")).into_owned()
}
