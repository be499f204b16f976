//! Where an existing VM differs from what is asked for.

use lbx::failure::{Failure, Result, fail};
use lbx::path::shell_quoted;
use lbx_vm::Options;
use serde_json::json;

use crate::limactl::Instance;
use crate::template;

/// Where the options of a VM differ from those that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    words: Vec<String>,
    edits: Vec<String>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(super) fn words(&self) -> String {
        self.words.join(" ")
    }

    /// An expression for `limactl edit`.
    pub(super) fn edit(&self) -> Option<String> {
        (!self.edits.is_empty()).then(|| self.edits.join(" | "))
    }
}

/// What of `options` an instance has not.
///
/// # Errors
/// A disk would shrink.
pub(super) fn changes(instance: &Instance, options: &Options) -> Result<Changes> {
    let mut changes = Changes::default();
    let mut change = |word: String, edit: String| {
        changes.words.push(word);
        changes.edits.push(edit);
    };
    if let Some(cpus) = options.cpus.filter(|&cpus| instance.cpus != Some(cpus)) {
        change(format!("--cpus {cpus}"), format!(".cpus = {cpus}"));
    }
    if let Some(memory) = options.memory.as_ref().filter(|memory| lbx_vm::bytes(memory) != instance.memory) {
        change(format!("--memory {memory}"), format!(".memory = {}", json!(memory)));
    }
    if let Some(disk) = options.disk.as_ref().filter(|disk| lbx_vm::bytes(disk) != instance.disk) {
        if lbx_vm::bytes(disk) < instance.disk {
            return fail(Failure::new(format!("the disk of VM '{}' cannot shrink to {disk}", instance.name)));
        }
        change(format!("--disk {disk}"), format!(".disk = {}", json!(disk)));
    }
    let mounts = instance.config.as_ref().map_or(&[][..], |config| &config.mounts);
    for dir in &options.mount {
        if mounts.iter().any(|mount| mount.writable && dir.starts_with(mount.point())) {
            continue;
        }
        let location = template::text(dir)?;
        change(
            format!("--mount {}", shell_quoted(dir.as_os_str())),
            format!(".mounts += [{}]", json!({ "location": location, "writable": true })),
        );
    }
    Ok(changes)
}

/// `options` with directories as they are named everywhere.
pub(super) fn canonical(options: &Options) -> Result<Options> {
    let mount = options.mount.iter().map(|dir| lbx::path::directory(dir)).collect::<Result<_>>()?;
    Ok(Options { mount, ..options.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limactl::{Config, Mount};

    fn instance() -> Instance {
        let mount = |location: &str, writable| Mount { location: location.into(), mount_point: None, writable };
        Instance {
            name: "x".into(),
            cpus: Some(2),
            memory: Some(2 << 30),
            disk: Some(4 << 30),
            config: Some(Config { mounts: vec![mount("/home/me", true), mount("/ro", false)] }),
            ..Instance::default()
        }
    }

    #[test]
    fn what_a_vm_has_already_is_no_change() {
        let same = Options {
            cpus: Some(2),
            memory: Some("2048MiB".into()),
            disk: Some("4G".into()),
            mount: vec!["/home/me".into(), "/home/me/src".into()],
        };
        assert_eq!(changes(&instance(), &same).unwrap(), Changes::default());
        assert_eq!(changes(&instance(), &Options::default()).unwrap().edit(), None);
    }

    #[test]
    fn what_differs_is_named_and_can_be_edited() {
        let other = Options {
            cpus: Some(3),
            memory: Some("3GiB".into()),
            disk: Some("5GiB".into()),
            mount: vec!["/ro/a \"b".into()],
        };
        let changes = changes(&instance(), &other).unwrap();
        assert_eq!(changes.words(), "--cpus 3 --memory 3GiB --disk 5GiB --mount '/ro/a \"b'");
        let edit = changes.edit().unwrap();
        assert!(edit.starts_with(".cpus = 3 | .memory = \"3GiB\" | "), "{edit}");
        assert!(edit.ends_with(r#".mounts += [{"location":"/ro/a \"b","writable":true}]"#), "{edit}");
        let small = Options { disk: Some("1GiB".into()), ..Options::default() };
        assert!(super::changes(&instance(), &small).is_err());
    }
}
