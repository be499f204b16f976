//! Calls into a Lima VM.

use std::ffi::OsString;
use std::path::PathBuf;

use lbx_tests::Project;
use lbx_tests::place::on;

use crate::Figure;
use crate::pairs::{pairs, run};
use crate::stream::both;

pub(crate) fn figures() -> Vec<Figure> {
    let place = on();
    let Some(("lima", instance)) = place.split_once(':') else { return Vec::new() };
    let project = Project::new();
    project.create(&[]);
    let ours = project.enter_words(&["true"]);
    let home = std::env::var_os("LIMA_HOME").map(PathBuf::from).expect("LIMA_HOME");
    let config = home.join(instance).join("ssh.config").display().to_string();
    let host = format!("lima-{instance}");
    let ssh = |words: &[&str]| -> Vec<OsString> {
        ["ssh", "-F", &config, &host, &shell_words::join(words)].map(OsString::from).into()
    };
    let figure = |name, to: &str, promise, count, peer: Vec<OsString>| {
        let about = format!("`lbx-enter ENV -- true` into a VM, warm | {to}");
        Figure::ratio(name, about, Some(promise), pairs(count, || run(&ours), || run(&peer)))
    };
    let limactl = ["limactl", "shell", instance, "true"].map(OsString::from);
    let mut figures = vec![
        figure("vm-enter", "ssh true, over Lima's kept connection", 1.0, 150, ssh(&["true"])),
        figure("vm-enter-sudo", "ssh sudo -n true, over the same", 0.25, 60, ssh(&["sudo", "-n", "true"])),
        figure("vm-enter-limactl", "limactl shell true", 0.25, 60, limactl.into()),
    ];
    let names = ["vm-stream-in", "vm-stream-out", "vm-stream-echo"];
    figures.extend(both(&project, &ssh, names, ", in a VM", "ssh over Lima's kept connection", Some(1.25)));
    figures
}
