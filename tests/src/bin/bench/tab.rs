//! What a person waits for after TAB: on a terminal, until the shell asks whether to show all that it
//! found.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use lbx_tests::{repository, script, tool_file};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Figure;
use crate::pairs::median;

/// Where a shell finds nothing else to offer.
const EMPTY: &str = "/srv/empty";
const PROMPT: &str = "ready> ";
/// How often TAB is pressed; the first time loads what the shell needs and is not counted.
const TIMES: usize = 11;

struct Shell {
    words: &'static [&'static str],
    /// What it reads first, with COMPLETIONS for their directory, and the file that it reads.
    rc: (&'static str, &'static str),
    /// What it asks, and what leads from there to an empty line.
    asks: &'static str,
    away: &'static [&'static str],
}

const BASH: Shell = Shell {
    words: &["bash", "--noprofile", "--rcfile", "/srv/empty-rc/bash", "-i"],
    rc: (
        "bash",
        "PS1='ready> '; bind 'set show-all-if-ambiguous on'; bind 'set enable-bracketed-paste off'; \
         source COMPLETIONS/bash/llima-box",
    ),
    asks: "possibilities? (y or n)",
    away: &["n", "\x15"],
};
const ZSH: Shell = Shell {
    words: &["zsh", "-d", "-i"],
    rc: (
        ".zshrc",
        "PS1='ready> '; unsetopt list_ambiguous; fpath=(COMPLETIONS/zsh $fpath); autoload -Uz compinit; compinit -u -D",
    ),
    asks: "lines)?",
    away: &["n", "\x15"],
};
const FISH: Shell = Shell {
    words: &["fish", "--no-config", "-i", "-C", "source /srv/empty-rc/fish"],
    rc: (
        "fish",
        "set -g fish_autosuggestion_enabled 0; function fish_prompt; echo -n 'ready> '; end; \
         function fish_greeting; end; source COMPLETIONS/fish/llima-box.fish",
    ),
    asks: "more rows",
    away: &["\x1b", "\x15"],
};

pub(crate) fn figures() -> Vec<Figure> {
    let figure = |name, shell: &Shell, word: &str| {
        let about = format!("TAB after `lbx-enter {word}` in {}, 10,000 recorded", shell.words[0]);
        match Terminal::of(shell) {
            Ok(terminal) => Figure::value(name, about, Some(50.0), terminal.waits(shell, word), "ms"),
            Err(why) => Figure::not(name, about, Some(50.0), why),
        }
    };
    vec![
        figure("list-tab", &BASH, ""),
        figure("list-tab-some", &BASH, "p9"),
        figure("list-tab-zsh", &ZSH, ""),
        figure("list-tab-fish", &FISH, ""),
    ]
}

/// A shell on a terminal of its own.
struct Terminal {
    shell: Child,
    screen: File,
}

impl Terminal {
    fn of(shell: &Shell) -> Result<Terminal, String> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        unlockpt(&master).expect("unlockpt");
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("it has a size");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let slave = openat(CWD, name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
        let end = || Stdio::from(slave.try_clone().expect("dup"));
        std::fs::create_dir_all(EMPTY).expect("an empty directory");
        let (file, text) = shell.rc;
        let completions = repository().join("completions").display().to_string();
        script(&text.replace("COMPLETIONS", &completions), Path::new("/srv/empty-rc").join(file));
        let path = format!("{}:/usr/bin:/bin", tool_file("").display());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(shell.words).current_dir(EMPTY).env("PATH", path);
        command.env("ZDOTDIR", "/srv/empty-rc").env("HOME", EMPTY).env("TERM", "xterm");
        if !Path::new("/usr/bin").join(shell.words[0]).exists() {
            return Err(format!("{} is not installed", shell.words[0]));
        }
        let shell = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid");
        Ok(Terminal { shell, screen: File::from(master) })
    }

    /// Milliseconds from TAB to the question.
    fn waits(mut self, shell: &Shell, word: &str) -> f64 {
        self.until(PROMPT);
        let mut once = || {
            let line = format!("lbx-enter {word}");
            self.types(&line);
            // it shows what is typed
            self.until(&line[line.len() - 1..]);
            std::thread::sleep(std::time::Duration::from_millis(100));
            let begun = Instant::now();
            self.types("\t");
            self.until(shell.asks);
            let waited = begun.elapsed().as_secs_f64() * 1000.0;
            for keys in shell.away {
                std::thread::sleep(std::time::Duration::from_millis(200));
                self.types(keys);
            }
            self.rest();
            waited
        };
        once();
        median((1..TIMES).map(|_| once()).collect())
    }

    fn types(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).expect("a shell reads its terminal");
    }

    /// Reads until the screen was written `text`.
    fn until(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let read = self.read(10_000, &mut seen);
            assert!(read, "never shown: {text}: {:?}", String::from_utf8_lossy(&seen));
        }
    }

    /// Reads what still comes.
    fn rest(&mut self) {
        while self.read(200, &mut Vec::new()) {}
    }

    fn read(&mut self, millis: i64, to: &mut Vec<u8>) -> bool {
        let limit = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        let mut ready = [PollFd::new(&self.screen, PollFlags::IN)];
        if poll(&mut ready, Some(&limit)).expect("a terminal can be waited for") == 0 {
            return false;
        }
        let mut bytes = [0; 1 << 16];
        let count = self.screen.read(&mut bytes).expect("a terminal can be read");
        to.extend(&bytes[..count]);
        count > 0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
