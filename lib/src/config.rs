//! The config file: `${XDG_CONFIG_HOME:-~/.config}/llima-box/config.yaml`.

use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

use crate::failure::Result;
use crate::place::Place;
use crate::record::{Net, Project};

/// What the config file may hold. Options and variables come before it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The place, as for `--on`.
    pub on: Option<Place>,
    /// The login shell of new environments, as for `--shell`.
    pub shell: Option<PathBuf>,
    /// Whether `llima-box shell` forwards the caller's ssh agent.
    pub ssh_agent: Option<Switch>,
    /// Variables that `llima-box shell` passes, by name.
    pub env: Vec<String>,
    /// The network of new environments, as for `--net`.
    pub net: Option<Net>,
    /// What new environments may do with their project, as for `--project`.
    pub project: Option<Project>,
    /// Read-only paths of new environments, as for `--ro`; `~/` is the caller's home.
    pub ro: Vec<PathBuf>,
    /// Read-write paths of new environments, as for `--rw`; `~/` is the caller's home.
    pub rw: Vec<PathBuf>,
    /// Private directories of new environments, as for `--private`.
    pub private: Vec<PathBuf>,
    /// VMs that `lbx-vm` creates.
    pub vm: Vm,
}

/// What new VMs are like, as for the options of `lbx-vm start`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vm {
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory, as in `8GiB`.
    pub memory: Option<String>,
    /// Disk, as in `100GiB`.
    pub disk: Option<String>,
    /// Directories of this machine that the VM sees; `~` is the caller's home.
    pub mounts: Vec<PathBuf>,
    /// YAML file of Lima that is laid over the built-in template; `~/` is the caller's home.
    pub template: Option<PathBuf>,
    /// Whether environments reach what listens on this machine's own loopback.
    pub host_loopback: bool,
}

/// `on` or `off`, or a YAML truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Spelling")]
pub struct Switch(pub bool);

#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Bool(bool),
    Word(OnOff),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnOff {
    On,
    Off,
}

impl From<Spelling> for Switch {
    fn from(spelling: Spelling) -> Switch {
        Switch(matches!(spelling, Spelling::Bool(true) | Spelling::Word(OnOff::On)))
    }
}

/// Reads the config file of the user who runs the tool; without one, everything is unset.
///
/// # Errors
/// A file that cannot be read, or holds what these tools do not know.
pub fn load() -> Result<Config> {
    let Some(file) = file() else { return Ok(Config::default()) };
    match std::fs::read_to_string(&file) {
        Ok(text) => parse(&text).with_context(|| format!("cannot understand config file '{}'", file.display())),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(Config::default())
        }
        Err(e) => Err(e).with_context(|| format!("cannot read config file '{}'", file.display())),
    }
}

fn file() -> Option<PathBuf> {
    let set = |variable| std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(base.join("llima-box/config.yaml"))
}

fn parse(text: &str) -> Result<Config> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Config::default());
    }
    let mut config: Config = serde_yaml::from_str(text)?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let own = config.ro.iter_mut().chain(&mut config.rw);
    for path in own.chain(&mut config.vm.mounts).chain(&mut config.vm.template) {
        if let (Ok(rest), Some(home)) = (path.strip_prefix("~"), &home) {
            *path = home.join(rest);
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_file_says_what_it_means() {
        let config = parse("on: lima:work\nssh_agent: off\nenv: [A, B]\nnet: none\nproject: cow\n").unwrap();
        assert_eq!(config.on, Some(Place::Lima("work".into())));
        assert_eq!(config.ssh_agent, Some(Switch(false)));
        assert_eq!(config.env, ["A", "B"]);
        assert_eq!(config.net, Some(Net::None));
        assert_eq!(config.project, Some(Project::Cow));
        assert_eq!(parse("ssh_agent: true").unwrap().ssh_agent, Some(Switch(true)));
        assert_eq!(parse("# nothing yet\n\n").unwrap(), Config::default());
    }

    #[test]
    fn a_vm_is_described_in_a_section_of_its_own() {
        let config = parse("vm:\n  cpus: 2\n  memory: 6GiB\n  mounts: [/srv, ~]\n  host_loopback: true\n").unwrap();
        assert_eq!((config.vm.cpus, config.vm.memory.as_deref()), (Some(2), Some("6GiB")));
        assert!(config.vm.host_loopback && config.vm.template.is_none());
        let home = std::env::var_os("HOME").map(PathBuf::from);
        assert_eq!(config.vm.mounts, [PathBuf::from("/srv"), home.unwrap_or_else(|| "~".into())]);
        assert!(format!("{:#}", parse("vm: {cpu: 2}\n").unwrap_err()).contains("cpus"));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = format!("{:#}", parse("shel: /bin/zsh\n").unwrap_err());
        assert!(error.contains("shel") && error.contains("shell"), "{error}");
        assert!(format!("{:#}", parse("on: moon\n").unwrap_err()).contains("moon"));
    }
}
