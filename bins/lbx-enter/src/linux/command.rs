//! The command: found on PATH as execvp(3) finds it, and executed.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lbx::Result;
use nix::errno::Errno;
use nix::unistd::execve;

use super::report::Failed;
use super::{c_string, c_variable};

/// A command line and its variables, ready for exec: nothing is allocated after the join that need not be.
#[derive(Debug)]
pub(super) struct Command {
    words: Vec<CString>,
    /// What is executed, in this order, until one is found.
    files: Vec<CString>,
    variables: Vec<CString>,
    name: OsString,
}

impl Command {
    /// `words`, or `shell` as a login shell.
    pub(super) fn new(words: &[OsString], shell: &Path, variables: Vec<(OsString, OsString)>) -> Result<Command> {
        let path = variables.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        let (name, words) = match words.first() {
            Some(name) => (name.clone(), words.iter().map(|word| c_string(word)).collect::<Result<_>>()?),
            None => {
                let mut dash = OsString::from("-");
                dash.push(shell.file_name().unwrap_or(shell.as_os_str()));
                (shell.as_os_str().to_owned(), vec![c_string(&dash)?])
            }
        };
        let mut unique: Vec<(OsString, OsString)> = Vec::with_capacity(variables.len());
        for (name, value) in variables {
            unique.retain(|(other, _)| *other != name);
            unique.push((name, value));
        }
        Ok(Command {
            files: candidates(&name, path.as_deref()).iter().map(|file| c_string(file)).collect::<Result<_>>()?,
            words,
            variables: unique.into_iter().map(c_variable).collect::<Result<_>>()?,
            name,
        })
    }

    /// What messages call it.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Replaces this process; returns only why that failed.
    pub(super) fn exec(&self) -> Failed {
        let mut worst = Errno::ENOENT;
        for file in &self.files {
            // an exec of what is not there costs ten times as much
            let e = match rustix::fs::access(file, rustix::fs::Access::EXISTS) {
                Ok(()) => {
                    let Err(e) = execve(file, &self.words, &self.variables);
                    e
                }
                Err(e) => Errno::from_raw(e.raw_os_error()),
            };
            match e {
                Errno::ENOENT | Errno::ENOTDIR => {}
                // a script without an interpreter line is the shell's, as for execvp(3)
                Errno::ENOEXEC => return Failed::exec(self.exec_script(file)),
                // a directory or a file without x: perhaps another one on PATH
                Errno::EACCES => worst = e,
                e => return Failed::exec(e),
            }
        }
        Failed::exec(worst)
    }

    fn exec_script(&self, file: &CString) -> Errno {
        let mut words = vec![c"sh".to_owned(), file.clone()];
        words.extend(self.words.iter().skip(1).cloned());
        let Err(e) = execve(c"/bin/sh", &words, &self.variables);
        e
    }
}

/// A name with a slash is itself; others are looked for in the directories of `path`.
fn candidates(name: &OsStr, path: Option<&OsStr>) -> Vec<OsString> {
    if name.is_empty() || name.as_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    let path = path.unwrap_or(OsStr::new("/usr/bin:/bin"));
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|dir| {
            // an empty entry is the current directory
            let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
            dir.join(name).into_os_string()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_and_a_path_is_not() {
        assert_eq!(candidates(OsStr::new("ls"), Some(OsStr::new("/a:/b"))), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates(OsStr::new("./ls"), Some(OsStr::new("/a"))), ["./ls"]);
        assert_eq!(candidates(OsStr::new(""), Some(OsStr::new("/a"))), [""]);
        assert_eq!(candidates(OsStr::new("x"), Some(OsStr::new(":/b"))), ["./x", "/b/x"]);
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let variables = vec![("PATH".into(), "/a".into()), ("PATH".into(), "/b".into())];
        let command = Command::new(&["x".into()], Path::new("/bin/sh"), variables).unwrap();
        assert_eq!(command.variables, [c"PATH=/b".to_owned()]);
        assert_eq!(command.files, [c"/b/x".to_owned()]);
    }

    #[test]
    fn a_login_shell_starts_with_a_dash() {
        let command = Command::new(&[], Path::new("/usr/bin/zsh"), Vec::new()).unwrap();
        assert_eq!((command.words, command.files), (vec![c"-zsh".to_owned()], vec![c"/usr/bin/zsh".to_owned()]));
    }
}
