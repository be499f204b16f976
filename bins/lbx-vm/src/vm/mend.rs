//! What ends a VM, however it is: one that runs, one that hangs, and what is left of one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::failure::Result;
use lbx::step;

use super::{SHUTDOWN, Vm};
use crate::limactl::{Ended, Instance, Limactl, Log};

/// One that will not is only asked.
const LAST_WORDS: Duration = Duration::from_secs(30);

impl Vm<'_> {
    /// The status, once a host agent that has just been started had time to start its VM.
    pub(super) fn settled(&self, mut status: String) -> Result<String> {
        let young = age(&self.dir.join("ha.pid")).is_some_and(|age| age < Duration::from_secs(10));
        let begin = Instant::now();
        while young && status == "Broken" && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(500));
            status = self.find()?.unwrap_or_default().status;
        }
        Ok(status)
    }

    /// Stops the VM; one that does not follow is made to.
    pub(super) fn halt(&self, instance: &Instance, log: &mut Log) -> Result<()> {
        if instance.status == "Stopped" || self.is_half_made() {
            return Ok(());
        }
        let limactl = Limactl::find()?;
        log.phase.say("shutting down");
        if instance.status == "Running" {
            let limit = if self.call(log)? == Ended::Done { SHUTDOWN } else { LAST_WORDS };
            let stop = limactl.command(["--tty=false", "stop", &self.name]);
            if log.run(stop, Stdio::null(), limit)? == Ended::Done {
                return Ok(());
            }
        }
        self.force(&limactl, log)
    }

    /// Ends whatever is left of a VM that runs by halves or hangs.
    pub(super) fn force(&self, limactl: &Limactl, log: &mut Log) -> Result<()> {
        self.drop_stale_pids();
        let stop = limactl.command(["--tty=false", "stop", "--force", &self.name]);
        match log.run(stop, Stdio::null(), SHUTDOWN)? {
            Ended::Done => Ok(()),
            ended => Err(self.failure("cannot stop", ended, log, false)),
        }
    }

    pub(super) fn remove(&self, log: &mut Log) -> Result<()> {
        self.drop_stale_pids();
        let half_made = self.is_half_made();
        let delete = Limactl::find()?.command(["--tty=false", "delete", "--force", &self.name]);
        let ended = log.run(delete, Stdio::null(), SHUTDOWN)?;
        if half_made && self.dir.exists() {
            // limactl leaves alone what it cannot read
            std::fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove '{}'", self.dir.display()))?;
        }
        if self.dir.exists() {
            return Err(self.failure("cannot delete", ended, log, false));
        }
        self.store.unmark_creating()
    }

    /// Removes Lima's notes of processes that are not the VM's any more: a number is given again,
    /// after a reboot most of all, and a forced stop would kill whoever has it now.
    fn drop_stale_pids(&self) {
        // its processes have files of its directory in their command lines, as Lima spells it
        let real = self.dir.canonicalize().unwrap_or_default();
        let dirs = [&self.dir, &real].map(|dir| format!("{}/", dir.display()));
        for file in ["ha.pid", "qemu.pid", "vz.pid"] {
            let path = self.dir.join(file);
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let output = Command::new("ps").args(["-ww", "-o", "command=", "-p", text.trim()]).output();
            let Ok(output) = output else { continue };
            let command = String::from_utf8_lossy(&output.stdout);
            if !dirs.iter().any(|dir| command.contains(dir)) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// Ends the ssh master of a VM that is not there any more: it would keep the sockets of the next.
    pub(super) fn forget_connections(&self) {
        let (config, master) = (self.dir.join("ssh.config"), self.dir.join("ssh.sock"));
        if master.exists() && config.exists() {
            let mut exit = Command::new("ssh");
            exit.arg("-F").arg(&config).args(["-O", "exit", &format!("lima-{}", self.name)]);
            step::trace(&exit);
            let _ = exit.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let way = lbx_vm::socket(&self.name);
        for socket in [Some(master), way].into_iter().flatten() {
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn age(path: &Path) -> Option<Duration> {
    path.metadata().ok()?.modified().ok()?.elapsed().ok()
}
