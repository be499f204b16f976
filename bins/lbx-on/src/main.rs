//! Runs one tool at another place: the only tool that knows how to get anywhere.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::Context;
use lbx::failure::{Failure, Result, Tool, fail, status};
use lbx::{Place, step};
use lbx_on::Cli;
use lbx_on::frame::Call;

mod agent;
mod greeting;
mod guest;
mod keyboard;
mod link;
#[cfg(target_os = "linux")]
mod linux;
mod near;
#[cfg(target_os = "linux")]
mod pipe;
#[cfg(not(target_os = "linux"))]
mod pipe {
    /// There is nothing to say about it: the system widens it by itself.
    #[derive(Default)]
    pub(crate) struct Width;

    impl Width {
        pub(crate) fn widen(&mut self, _: impl std::os::fd::AsFd) {}
    }
}
mod signals;
mod terminal;

use link::{Link, NoLink};

const TOOL: Tool = Tool::wrapper("lbx-on");

fn main() -> ExitCode {
    let cli: Cli = match lbx::cli::parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(TOOL.report(&error)),
    };
    if cli.serve {
        return TOOL.run(serve);
    }
    let (Some(place), Some(tool)) = (cli.place, cli.tool) else { return ExitCode::from(TOOL.usage) };
    let call = Wanted { place, tool, words: cli.words };
    // a tool fails here as it fails elsewhere
    let failed = if call.is_wrapper() { status::TOOL_FAILED } else { status::FAILED };
    Tool { failed, ..TOOL }.run(|| call.run())
}

#[cfg(target_os = "linux")]
fn serve() -> Result<u8> {
    linux::serve()
}

#[cfg(not(target_os = "linux"))]
fn serve() -> Result<u8> {
    fail(Failure::new("environments live on Linux: there is nothing to serve here"))
}

/// The call that is asked for.
struct Wanted {
    place: Place,
    tool: OsString,
    words: Vec<OsString>,
}

/// What a tool wants of a VM that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It lists what there is: where there is no VM, nothing.
    List,
    /// It only looks.
    Look,
    /// It changes what there is.
    Start,
    /// It makes what there was not.
    Create,
}

impl Wanted {
    fn run(self) -> Result<u8> {
        if !self.tool.to_str().is_some_and(greeting::is_tool) {
            return fail(
                Failure::new(format!("not a tool of llima-box: '{}'", self.tool.display())).status(status::TOOL_FAILED),
            );
        }
        if self.place == Place::Local {
            let mut command = step::sibling(&self.tool.to_string_lossy())?;
            command.args(&self.words);
            match step::replace(command)? {}
        }
        signals::take()?;
        let call = near::call(&self.place, &self.tool, &self.words, self.wants_stdin(), self.forwards_agent())?;
        Ok(match self.link(&call)? {
            Ok(link) => near::status(near::relay(link, &call)?),
            Err(status) => status,
        })
    }

    /// A way to the place, which is started when the tool may do that; `Err`: the status to end
    /// with, when all is said.
    fn link(&self, call: &Call) -> Result<std::result::Result<Link, u8>> {
        let open = || Link::open(&self.place, || near::first_frame(call));
        let down = match open() {
            Ok(link) => return Ok(Ok(link)),
            Err(NoLink::Failed(error)) => return Err(error),
            Err(NoLink::Down(error)) => error,
        };
        if !matches!(self.place, Place::Lima(_)) || std::env::var_os(lbx_vm::STARTING_VARIABLE).is_some() {
            return Err(down);
        }
        match self.need() {
            Need::List | Need::Look => return self.tell_of_vm(down).map(Err),
            need => {
                let mut vm = self.vm()?;
                vm.arg("start").args((need == Need::Start).then_some("--existing")).stdin(Stdio::null());
                // what it prints is not what the tool prints
                vm.stdout(Stdio::null());
                step::trace(&vm);
                let ended = vm.status().context("cannot run lbx-vm")?;
                if !ended.success() {
                    let own = ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(status::FAILED);
                    return Ok(Err(if self.is_wrapper() { status::TOOL_FAILED } else { own }));
                }
            }
        }
        match open() {
            Ok(link) => Ok(Ok(link)),
            Err(NoLink::Down(error) | NoLink::Failed(error)) => Err(error),
        }
    }

    /// No VM is an empty list; one that does not run is not started for a look.
    fn tell_of_vm(&self, down: anyhow::Error) -> Result<u8> {
        let mut vm = self.vm()?;
        vm.arg("status").stdin(Stdio::null()).stderr(Stdio::inherit());
        step::trace(&vm);
        let state = vm.output().context("cannot run lbx-vm")?.stdout;
        let state = String::from_utf8_lossy(&state).trim().to_owned();
        let message = match (state.as_str(), self.need()) {
            ("absent", Need::List) => return Ok(status::DONE),
            // lbx-vm has said why
            ("", _) => return Ok(status::FAILED),
            ("running", _) => return Err(down),
            (state, _) => format!("place '{}' is not running: its VM is {state}", self.place),
        };
        let Place::Lima(instance) = &self.place else { return Err(down) };
        let hint = format!("lbx-vm --on lima:{instance} start");
        fail(Failure::new(message).hint(hint).status(status::NOT_RUNNING))
    }

    fn vm(&self) -> Result<std::process::Command> {
        let mut vm = step::sibling("lbx-vm")?;
        vm.args(["--on", &self.place.to_string()]);
        step::keep_values_from(&mut vm);
        vm.args(self.says("--quiet").then_some("--quiet"));
        Ok(vm)
    }

    /// The words in front of `--`.
    fn own_words(&self) -> impl Iterator<Item = &OsString> {
        self.words.iter().take_while(|word| *word != "--")
    }

    fn says(&self, word: &str) -> bool {
        self.own_words().any(|own| own == word)
    }

    fn is_wrapper(&self) -> bool {
        greeting::is_wrapper(&self.tool, &self.words)
    }

    fn verb(&self) -> Option<&OsStr> {
        self.words.first().map(OsString::as_os_str)
    }

    fn need(&self) -> Need {
        match self.tool.to_str() {
            Some("lbx-ls") => Need::List,
            Some("lbx-env") if self.says("--dry-run") => Need::Look,
            Some("lbx-env") if self.says("create") => Need::Create,
            Some("llima-box") if self.verb() == Some(OsStr::new("shell")) => Need::Create,
            Some("lbx-probe") if self.says("--list") => Need::Look,
            Some("lbx-apply") if self.says("--dry-run") => Need::Look,
            Some("lbx-snap") if self.says("list") || self.says("--dry-run") => Need::Look,
            Some("lbx-diff" | "lbx-name") => Need::Look,
            _ => Need::Start,
        }
    }

    /// Whether the caller's ssh agent goes along.
    fn forwards_agent(&self) -> bool {
        self.is_wrapper() && (self.says("-A") || self.says("--agent"))
    }

    /// Whether the tool reads what is piped in here: one that does not must leave it to the next
    /// command of a loop.
    fn wants_stdin(&self) -> bool {
        match self.tool.to_str() {
            Some("lbx-diff" | "lbx-env" | "lbx-probe" | "lbx-snap") => false,
            // a list of paths, or the answer to a question
            Some(tool @ ("lbx-apply" | "lbx-discard")) => {
                let paths: Vec<_> = self.words.iter().skip_while(|word| *word != "--").skip(2).collect();
                let asks = tool == "lbx-discard" || paths.is_empty();
                paths == ["-"] || (asks && !self.says("--yes") && !self.says("--dry-run"))
            }
            Some("lbx-ls" | "lbx-name") => self.words.iter().any(|word| Path::new(word) == Path::new("-")),
            _ if self.is_wrapper() => !self.says("-n") && !self.says("--no-stdin"),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(words: &[&str]) -> Wanted {
        Wanted {
            place: Place::Lima("agents".into()),
            tool: words[0].into(),
            words: words[1..].iter().map(OsString::from).collect(),
        }
    }

    #[test]
    fn a_vm_starts_for_a_change_and_never_for_a_look() {
        for (words, need) in [
            (&["lbx-ls", "--on", "local", "--"][..], Need::List),
            (&["lbx-env", "--on", "local", "create", "--", "/p"], Need::Create),
            (&["lbx-env", "--on", "local", "--dry-run", "create", "--", "/p"], Need::Look),
            (&["lbx-env", "--on", "local", "stop", "--", "create"], Need::Start),
            (&["lbx-enter", "--on", "local", "--", "app-1a2b", "create"], Need::Start),
            (&["llima-box", "shell", "--on", "local"], Need::Create),
            (&["llima-box", "delete", "--on", "local", "shell"], Need::Start),
            (&["lbx-probe", "--on", "local", "--", "app-1a2b"], Need::Start),
            (&["lbx-probe", "--on", "local", "--list"], Need::Look),
            (&["lbx-diff", "--on", "local", "--", "app-1a2b"], Need::Look),
            (&["lbx-apply", "--on", "local", "--dry-run", "--", "app-1a2b"], Need::Look),
            (&["lbx-apply", "--on", "local", "--", "app-1a2b", "--dry-run"], Need::Start),
            (&["lbx-snap", "--on", "local", "list", "--", "app-1a2b"], Need::Look),
            (&["lbx-snap", "--on", "local", "save", "--", "app-1a2b", "list"], Need::Start),
            (&["lbx-unknown", "x"], Need::Start),
        ] {
            assert_eq!(wanted(words).need(), need, "{words:?}");
        }
    }

    #[test]
    fn input_is_left_alone_by_tools_that_do_not_read_it() {
        for (words, wants) in [
            (&["lbx-env", "--on", "local", "stop", "--", "a-1a2b"][..], false),
            (&["lbx-probe", "--on", "local", "--", "a-1a2b"], false),
            (&["lbx-diff", "--on", "local", "--", "a-1a2b", "src"], false),
            (&["lbx-apply", "--on", "local", "--", "a-1a2b"], true),
            (&["lbx-apply", "--on", "local", "--yes", "--", "a-1a2b"], false),
            (&["lbx-apply", "--on", "local", "--yes", "--", "a-1a2b", "-"], true),
            (&["lbx-apply", "--on", "local", "--", "a-1a2b", "src"], false),
            (&["lbx-discard", "--on", "local", "--", "a-1a2b", "src"], true),
            (&["lbx-discard", "--on", "local", "--yes", "--", "a-1a2b", "src"], false),
            (&["lbx-snap", "--on", "local", "delete", "--", "a-1a2b", "x"], false),
            (&["lbx-ls", "--on", "local", "--"], false),
            (&["lbx-ls", "--on", "local", "--", "-"], true),
            (&["lbx-enter", "--on", "local", "--", "a-1a2b", "cat", "-n"], true),
            (&["lbx-enter", "--on", "local", "--no-stdin", "--", "a-1a2b", "cat"], false),
            (&["llima-box", "shell", "-n", "--", "cat"], false),
            (&["llima-box", "shell", "--", "cat", "-n"], true),
            (&["llima-box", "delete", "--", "a-1a2b"], true),
        ] {
            assert_eq!(wanted(words).wants_stdin(), wants, "{words:?}");
        }
    }

    #[test]
    fn what_runs_a_command_fails_apart_from_it() {
        assert!(wanted(&["lbx-enter", "x"]).is_wrapper());
        assert!(wanted(&["llima-box", "shell"]).is_wrapper());
        assert!(!wanted(&["llima-box", "delete", "shell"]).is_wrapper());
        assert!(!wanted(&["lbx-env", "create"]).is_wrapper());
    }
}
