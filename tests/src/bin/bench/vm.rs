//! Calls into a Lima VM.

use std::ffi::OsString;
use std::path::PathBuf;

use lbx_tests::Project;
use lbx_tests::place::on;

use crate::Figure;
use crate::pairs::{pairs, run};
use crate::peers::Words;
use crate::stream::{Amount, both};

/// Makes of a command the words that run it in the VM, outside every environment, over Lima's kept
/// connection.
pub(crate) fn ssh() -> Option<Box<Words<'static>>> {
    let place = on();
    let (_, instance) = place.split_once(':')?;
    let home = std::env::var_os("LIMA_HOME").map(PathBuf::from)?;
    let (config, host) = (home.join(instance).join("ssh.config"), format!("lima-{instance}"));
    Some(Box::new(move |words| {
        let line = shell_words::join(words);
        ["ssh".as_ref(), "-F".as_ref(), config.as_os_str(), host.as_ref(), line.as_ref()].map(OsString::from).into()
    }))
}

pub(crate) fn figures() -> Vec<Figure> {
    let (place, Some(ssh)) = (on(), ssh()) else { return Vec::new() };
    let instance = place.split_once(':').map_or("", |(_, instance)| instance);
    let project = Project::new();
    project.create(&[]);
    let ours = project.enter_words(&["true"]);
    let figure = |name, to: &str, promise, count, peer: Vec<OsString>| {
        let about = format!("`lbx-enter ENV -- true` into a VM, warm | {to}");
        Figure::ratio(name, about, Some(promise), pairs(count, || run(&ours), || run(&peer)))
    };
    let limactl = ["limactl", "shell", "--workdir", "/", instance, "true"].map(OsString::from);
    vec![
        figure("vm-enter", "ssh true, over Lima's kept connection", 1.0, 150, ssh(&["true"])),
        figure("vm-enter-sudo", "ssh sudo -n true, over the same", 0.25, 60, ssh(&["sudo", "-n", "true"])),
        figure("vm-enter-limactl", "limactl shell true", 0.25, 60, limactl.into()),
    ]
}

/// What flows takes minutes where a processor is emulated: less of it, and not as often.
pub(crate) fn streams() -> Vec<Figure> {
    let Some(ssh) = ssh() else { return Vec::new() };
    let project = Project::new();
    project.create(&[]);
    project.sh("true");
    let names = ["vm-stream-in", "vm-stream-out", "vm-stream-echo"];
    let amount = Amount { mib: 32, times: 11 };
    both(&project, &*ssh, amount, names, ", in a VM", "ssh over Lima's kept connection", Some(1.25))
}
