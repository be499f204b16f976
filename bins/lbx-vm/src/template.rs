//! The template of a new VM: the built-in one, what the machine and the config file say, the
//! person's own file laid over it, and the options.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::config;
use lbx::failure::{Failure, Result, fail};
use lbx_vm::Options;
use serde_yaml::{Mapping, Value};
use sha2::{Digest, Sha256};

use crate::machine::Machine;

const BUILT_IN: &str = include_str!("../../../lima/lima.yaml");
/// The param that says that a VM is ours.
pub(crate) const OURS: &str = "llimaBox";
/// The param that says which file was laid over the built-in template.
pub(crate) const FILE: &str = "llimaBoxTemplate";
/// What lists hold even where a person's own file has one of that name.
const KEPT: [&str; 2] = ["portForwards", "provision"];

/// A person's own file.
pub(crate) struct Overlay {
    value: Value,
    digest: String,
}

impl Overlay {
    /// # Errors
    /// It cannot be read, or is no YAML mapping.
    pub(crate) fn read(path: &Path) -> Result<Overlay> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read template '{}'", path.display()))?;
        Overlay::parse(&text).with_context(|| format!("cannot understand template '{}'", path.display()))
    }

    fn parse(text: &str) -> Result<Overlay> {
        let value = match serde_yaml::from_str(text)? {
            Value::Null => Value::Mapping(Mapping::new()),
            value @ Value::Mapping(_) => value,
            _ => return fail(Failure::new("it is no mapping of keys to values")),
        };
        let digest = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Overlay { value, digest })
    }

    /// What tells one text from another.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}

/// The template of a VM on `machine`, as YAML.
///
/// # Errors
/// Something in `overlay` has not the shape that Lima wants.
pub(crate) fn build(
    machine: &Machine,
    config: &config::Vm,
    overlay: Option<&Overlay>,
    options: &Options,
) -> Result<String> {
    let mut built: Value = serde_yaml::from_str(BUILT_IN).context("cannot understand the built-in template")?;
    let (vm_type, mount_type) = machine.kind;
    merge(&mut built, &mapping([("vmType", vm_type.into()), ("mountType", mount_type.into())]));
    merge(
        &mut built,
        &sized(Some(config.cpus.unwrap_or(machine.cpus)), config.memory.as_deref(), config.disk.as_deref()),
    );
    if config.memory.is_none() {
        merge(&mut built, &mapping([("memory", machine.memory.clone().into())]));
    }
    merge(&mut built, &mapping([("mounts", mounts(std::slice::from_ref(&machine.home))?)]));
    if !config.mounts.is_empty() {
        merge(&mut built, &mapping([("mounts", mounts(&config.mounts)?)]));
    }
    if config.host_loopback {
        merge(&mut built, &mapping([("param", mapping([("hostLoopback", "open".into())]))]));
    }
    let own = built.clone();
    if let Some(overlay) = overlay {
        merge(&mut built, &overlay.value);
        for key in KEPT {
            set(&mut built, key, Value::Sequence(kept(key, &own, &overlay.value)?));
        }
    }
    merge(&mut built, &sized(options.cpus, options.memory.as_deref(), options.disk.as_deref()));
    if !options.mount.is_empty() {
        merge(&mut built, &mapping([("mounts", mounts(&options.mount)?)]));
    }
    let digest = overlay.map_or("none", Overlay::digest);
    let ours = own.get("param").and_then(|param| param.get(OURS)).cloned().unwrap_or_default();
    merge(&mut built, &mapping([("param", mapping([(OURS, ours), (FILE, digest.into())]))]));
    Ok(serde_yaml::to_string(&built)?)
}

/// Lays `over` over `value`: mappings are merged, anything else is replaced.
fn merge(value: &mut Value, over: &Value) {
    match (value, over) {
        (Value::Mapping(value), Value::Mapping(over)) => {
            for (key, over) in over {
                match value.get_mut(key) {
                    Some(value) => merge(value, over),
                    None => drop(value.insert(key.clone(), over.clone())),
                }
            }
        }
        (value, over) => *value = over.clone(),
    }
}

/// A list of the built-in template with a person's own entries: of forwarded ports the first that
/// fits counts, so that the way in stays first, and the rule that forwards nothing else last.
fn kept(key: &str, own: &Value, overlay: &Value) -> Result<Vec<Value>> {
    let list = |value: &Value| match value.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Sequence(list)) => Ok(list.clone()),
        Some(_) => fail(Failure::new(format!("template has '{key}', which is no list"))),
    };
    let (mut own, theirs) = (list(own)?, list(overlay)?);
    let ignoring = |rule: &Value| rule.get("ignore").and_then(Value::as_bool) == Some(true);
    let last = own.iter().position(ignoring).map_or_else(Vec::new, |at| own.split_off(at));
    Ok([own, theirs, last].concat())
}

fn sized(cpus: Option<u32>, memory: Option<&str>, disk: Option<&str>) -> Value {
    let pairs = [("cpus", cpus.map(Value::from)), ("memory", memory.map(Value::from)), ("disk", disk.map(Value::from))];
    let given = pairs.into_iter().filter_map(|(key, value)| Some((Value::from(key), value?)));
    Value::Mapping(given.collect())
}

/// Directories of this machine as Lima's mounts, those inside others left out.
///
/// # Errors
/// One that is no directory, or has a name that YAML cannot hold.
fn mounts(dirs: &[PathBuf]) -> Result<Value> {
    let mut dirs = dirs.iter().map(|dir| lbx::path::directory(dir)).collect::<Result<Vec<PathBuf>>>()?;
    dirs.sort();
    let mut outer: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        if !outer.iter().any(|outer| dir.starts_with(outer)) {
            outer.push(dir);
        }
    }
    let mount = |dir: PathBuf| {
        let location = text(&dir)?.to_owned();
        Ok(mapping([("location", location.into()), ("writable", true.into())]))
    };
    Ok(Value::Sequence(outer.into_iter().map(mount).collect::<Result<_>>()?))
}

/// `dir` as Lima can be told it.
///
/// # Errors
/// It is no text, or Lima would read it as something else.
pub(crate) fn text(dir: &Path) -> Result<&str> {
    match dir.to_str() {
        Some(text) if !text.contains(|c: char| c.is_control() || c == '\\') && !text.contains("{{") => Ok(text),
        _ => fail(Failure::new(format!("Lima cannot mount a directory of this name: {}", dir.display()))),
    }
}

fn mapping<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Mapping(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

fn set(value: &mut Value, key: &str, to: Value) {
    if let Value::Mapping(mapping) = value {
        mapping.insert(key.into(), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(home: &Path) -> Machine {
        Machine { cpus: 3, memory: "4096MiB".to_owned(), kind: ("qemu", "9p"), home: home.to_owned() }
    }

    fn built(config: &config::Vm, overlay: Option<&str>, options: &Options, home: &Path) -> Value {
        let overlay = overlay.map(|text| Overlay::parse(text).unwrap());
        serde_yaml::from_str(&build(&machine(home), config, overlay.as_ref(), options).unwrap()).unwrap()
    }

    #[test]
    fn a_machine_decides_where_nothing_else_does() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let yaml = built(&config::Vm::default(), None, &Options::default(), &home);
        assert_eq!((yaml["cpus"].as_u64(), yaml["memory"].as_str()), (Some(3), Some("4096MiB")));
        assert_eq!((yaml["vmType"].as_str(), yaml["mountType"].as_str()), (Some("qemu"), Some("9p")));
        assert_eq!(yaml["disk"].as_str(), Some("100GiB"));
        assert_eq!(yaml["mounts"][0]["location"].as_str(), home.to_str());
        assert_eq!(yaml["mounts"][0]["writable"].as_bool(), Some(true));
        assert_eq!(yaml["param"]["hostLoopback"].as_str(), Some("closed"));
        assert_eq!(yaml["portForwards"].as_sequence().unwrap().len(), 2);
        assert_eq!(yaml["minimumLimaVersion"].as_str(), Some("2.1.3"));
        assert_eq!(yaml["ssh"]["forwardAgent"].as_bool(), Some(false));
    }

    #[test]
    fn an_option_comes_before_a_file_and_a_file_before_the_config() {
        let home = tempfile::tempdir().unwrap();
        let config = config::Vm {
            cpus: Some(5),
            memory: Some("5GiB".into()),
            disk: Some("5GiB".into()),
            host_loopback: true,
            ..config::Vm::default()
        };
        let options = Options { cpus: Some(7), ..Options::default() };
        let yaml = built(&config, Some("cpus: 6\nmemory: 6GiB\n"), &options, home.path());
        assert_eq!(yaml["cpus"].as_u64(), Some(7));
        assert_eq!(yaml["memory"].as_str(), Some("6GiB"));
        assert_eq!(yaml["disk"].as_str(), Some("5GiB"));
        assert_eq!(yaml["param"]["hostLoopback"].as_str(), Some("open"));
    }

    #[test]
    fn a_file_is_laid_over_but_the_way_in_stays() {
        let home = tempfile::tempdir().unwrap();
        let file = "images: [{location: /x, arch: x86_64}]\nparam: {packages: '', llimaBox: '0', mine: a}\n\
                    ssh: {localPort: 2222}\nportForwards: [{guestPort: 3000, hostPort: 3000}]\n\
                    provision: [{mode: user, script: echo}]\n";
        let yaml = built(&config::Vm::default(), Some(file), &Options::default(), home.path());
        assert_eq!(yaml["images"].as_sequence().unwrap().len(), 1);
        assert_eq!((yaml["param"]["packages"].as_str(), yaml["param"]["mine"].as_str()), (Some(""), Some("a")));
        assert_eq!(yaml["param"]["llimaBox"].as_str(), Some("1"), "an instance of ours says so");
        assert_eq!(yaml["ssh"]["forwardAgent"].as_bool(), Some(false));
        let forwards = yaml["portForwards"].as_sequence().unwrap();
        assert_eq!(forwards[0]["hostSocket"].as_str(), Some("llima-box.sock"));
        assert_eq!(forwards[1]["guestPort"].as_u64(), Some(3000));
        assert_eq!(forwards[2]["ignore"].as_bool(), Some(true));
        let provision = yaml["provision"].as_sequence().unwrap();
        assert_eq!((provision.len(), provision[2]["mode"].as_str()), (3, Some("user")));
        assert!(Overlay::parse("- a\n").is_err() && Overlay::parse("a: [\n").is_err());
        assert!(Overlay::parse("# nothing\n").is_ok());
    }

    #[test]
    fn a_directory_inside_another_is_mounted_with_it() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("a/b")).unwrap();
        std::fs::write(home.path().join("file"), "").unwrap();
        let dirs = [home.path().join("a/b"), home.path().join("a"), home.path().join("a/b/..")];
        let Value::Sequence(mounts) = super::mounts(&dirs).unwrap() else { panic!("no list") };
        assert_eq!(mounts.len(), 1);
        assert!(super::mounts(&[home.path().join("none")]).is_err());
        assert!(super::mounts(&[home.path().join("file")]).is_err());
    }
}
