//! The way into a VM that runs: whether a call comes through, and what is done until it does.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::step;
use lbx_vm::STARTING_VARIABLE;

use super::{BOOT, Vm};
use crate::limactl::{Ended, Instance, Limactl, Log};
use crate::log::telling;

/// Sending the tools for the first time.
const ANSWER: Duration = Duration::from_secs(120);
/// A shell in a VM that is up.
const SHELL: Duration = Duration::from_secs(30);

/// Puts the program of the way in, which is on standard input, into the guest, once its own boot
/// scripts are through, and opens the socket that starts it.
const OPEN_THE_WAY: &str = "
    set -e
    dir=/usr/local/libexec/llima-box
    mkdir -p $dir
    cat >$dir/.lbx-on.$$
    chmod 755 $dir/.lbx-on.$$
    mv -f $dir/.lbx-on.$$ $dir/lbx-on
    until [ -e /run/lima-boot-done ]; do sleep 1; done
    # what runs there now did not answer; the calls that it serves are processes of their own
    systemctl stop llima-box.service 2>/dev/null || true
    systemctl reset-failed llima-box.socket llima-box.service 2>/dev/null || true
    [ ! -e /run/llima-box-no-packages ] || echo 'packages are missing'
    if ! systemctl start llima-box.socket; then
        grep -a llima-box /var/log/cloud-init-output.log | tail -3
        exit 1
    fi";

impl Vm<'_> {
    /// Ends when a call comes through, the guest tools in place.
    pub(super) fn open_the_way(&self, instance: &Instance, is_new: bool, log: &mut Log) -> Result<()> {
        let booting = self.booting();
        loop {
            log.phase.say("connecting");
            // a new guest has nothing yet that could answer
            if !is_new && self.call(log)? == Ended::Done {
                return Ok(());
            }
            let entry = entry(instance)?;
            let words = ["--tty=false", "shell", "--workdir", "/", &self.name, "sudo", "sh", "-c", OPEN_THE_WAY];
            let ended = log.run(Limactl::find()?.command(words), File::open(&entry)?.into(), SHELL)?;
            if ended == Ended::Done && booting.is_none() {
                self.forward_again(log)?;
            }
            let through = ended == Ended::Done && self.call(log)? == Ended::Done;
            if through {
                return Ok(());
            }
            if booting.is_none_or(|end| SystemTime::now() > end) {
                let told = telling(&log.text()).pop().map(|line| format!(": {line}")).unwrap_or_default();
                return fail(
                    Failure::new(format!("VM '{}' runs, but does not answer{told}", self.name))
                        .hint(self.command("restart")),
                );
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Lima forwards the socket of the way in when it starts a VM, and not again when the guest has
    /// rebooted by itself.
    fn forward_again(&self, log: &mut Log) -> Result<()> {
        let Some(socket) = lbx_vm::socket(&self.name) else { return Ok(()) };
        let is_dead = |e: &std::io::Error| matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
        if !UnixStream::connect(&socket).is_err_and(|e| is_dead(&e)) {
            return Ok(());
        }
        let _ = std::fs::remove_file(&socket);
        let mut forward = socket.into_os_string();
        forward.push(":/run/llima-box.sock");
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.dir.join("ssh.config")).args(["-O", "forward", "-L"]).arg(forward);
        ssh.arg(format!("lima-{}", self.name));
        // the call that follows shows whether it did
        log.run(ssh, Stdio::null(), SHELL).map(drop)
    }

    /// Until when a VM that was started and is not up yet may still be booting.
    pub(super) fn booting(&self) -> Option<SystemTime> {
        let events = std::fs::read_to_string(self.dir.join("ha.stdout.log")).unwrap_or_default();
        if events.contains("\"running\":true") {
            return None;
        }
        let end = self.dir.join("ha.pid").metadata().ok()?.modified().ok()? + BOOT;
        (SystemTime::now() < end).then_some(end)
    }

    /// One call through the way in, which brings the guest tools along where they are missing.
    pub(super) fn call(&self, log: &mut Log) -> Result<Ended> {
        log.run(self.probe()?, Stdio::null(), ANSWER)
    }

    pub(super) fn answers(&self) -> Result<bool> {
        let mut probe = self.probe()?;
        step::trace(&probe);
        let status = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(status.context("cannot run lbx-on")?.success())
    }

    fn probe(&self) -> Result<Command> {
        let mut probe = step::sibling("lbx-on")?;
        probe.args(self.probe_words()).env(STARTING_VARIABLE, "1");
        Ok(probe)
    }

    pub(super) fn probe_words(&self) -> Vec<OsString> {
        let place = self.place.to_string();
        [place.as_str(), "lbx-name", "--on", "local", "--", "/x"].map(OsString::from).into()
    }
}

/// The program that is the way in, for the architecture of an instance.
fn entry(instance: &Instance) -> Result<PathBuf> {
    let arch = instance.arch.as_deref().unwrap_or(std::env::consts::ARCH);
    let files = step::guest_directories()?.map(|dir| dir.join(arch).join("lbx-on"));
    match files.iter().find(|file| file.is_file()) {
        Some(file) => Ok(file.clone()),
        None => fail(
            Failure::new(format!("the tools for the VM are not installed: {}", files[0].display()))
                .hint(format!("scripts/build-guest {arch} makes them")),
        ),
    }
}
