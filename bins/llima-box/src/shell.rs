//! `llima-box shell`: `lbx-env create` where there is no environment, then `lbx-enter`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;
use lbx::config::{self, Config, Switch};
use lbx::failure::{Failure, Result, fail, printable, say, status};
use lbx::operand::assignment;
use lbx::record;
use lbx::step::{self, Call};
use lbx::{Name, Place, path};
use lbx_enter::{AGENT, INHERITED};
use lbx_env::{Create, GIT_KEYS, Settings};
use llima_box::Shell;

use crate::project::{self, Target};
use crate::{SHELL, TOOL, listing};

/// The variable that tells where the caller elsewhere stands.
pub(crate) const DIRECTORY: &str = "LBX_DIRECTORY";

/// Enters the environment that `shell` means, made first where there is none.
pub(crate) fn run(shell: Shell) -> Result<u8> {
    if shell.command.is_empty() && std::env::args_os().next_back().is_some_and(|word| word == "--") {
        return fail(Failure::new("no command specified after '--'"));
    }
    let place = Place::resolve(shell.common.on.as_ref())?;
    let request = Request::new(shell, &place)?;
    match place {
        Place::Local => request.here(),
        _ => match step::to_place(&place, SHELL.name, request.call(&place)?)? {},
    }
}

/// What is asked for: the command line, and what the caller's config adds.
struct Request {
    shell: Shell,
    /// For a new environment, where no option says otherwise.
    defaults: Defaults,
    /// Variables that pass, with the values that the command line gives.
    variables: Vec<(OsString, Option<OsString>)>,
}

/// Config is read where the caller is; at another place, its options came along.
enum Defaults {
    Config(Settings),
    Words(Vec<OsString>),
}

/// The options of a new environment as words.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(flatten)]
    settings: Settings,
}

impl Request {
    fn new(mut shell: Shell, place: &Place) -> Result<Request> {
        let mut variables: Vec<_> = shell.enter.env.iter().map(|word| assignment(word)).collect();
        if Place::called().is_some() {
            let words = std::mem::take(&mut shell.when_new);
            return Ok(Request { shell, defaults: Defaults::Words(words), variables });
        }
        let config = config::load()?;
        let forwarded = config.ssh_agent != Some(Switch(false)) && is_set(AGENT.as_ref());
        shell.enter.agent |= forwarded;
        let missing = |name: &&OsString| is_set(name) && !variables.iter().any(|(given, _)| given == *name);
        let added: Vec<OsString> = config.env.iter().map(OsString::from).collect();
        let added: Vec<_> = added.iter().filter(missing).map(|name| (name.clone(), None)).collect();
        variables.extend(added);
        Ok(Request { shell, defaults: Defaults::Config(settings(config, place)), variables })
    }

    /// Does what is asked for on this machine.
    fn here(self) -> Result<u8> {
        let Ok(name) = self.environment()? else {
            // it has said why
            return Ok(status::TOOL_FAILED);
        };
        self.shell.common.note(SHELL, || format!("environment {name}"));
        let mut command = step::sibling("lbx-enter")?;
        command.args(self.shell.common.words(&Place::Local)).args(self.enter_words());
        command.arg("--").arg(name.as_str()).args(&self.shell.command);
        step::carry(&mut command, &self.values());
        match step::replace(command)? {}
    }

    /// The environment that is meant, made where there is none.
    fn environment(&self) -> Result<listing::Outcome<Name>> {
        let (env, create) = (self.shell.env.as_deref(), &self.shell.create);
        if create.from.is_some() {
            return made(self.tool(create)?);
        }
        let target = match &create.name {
            // with a name of its own, a path may have further environments
            Some(_) => Target::of_path(env, &self.shell.stray)?,
            None => Target::of(env, &self.shell.stray)?,
        };
        match target {
            Target::Environment(name) if *create == Create::default() => {
                if env.is_none_or(|env| Name::parse(env).is_none()) {
                    self.tell_others(&name)?;
                }
                Ok(Ok(name))
            }
            target => self.create(target),
        }
    }

    /// Tells a person who gave a path that they might have meant others than `name`.
    fn tell_others(&self, name: &Name) -> Result<()> {
        if self.shell.common.quiet {
            return Ok(());
        }
        if let Some((path, others)) = project::others(name)? {
            let names: Vec<&str> = others.iter().map(Name::as_str).collect();
            let path = printable(&path.display().to_string());
            say(&format!("{}: entering '{name}'; path '{path}' has others: {}\n", TOOL.name, names.join(" ")));
        }
        Ok(())
    }

    /// The environment of `target`, created or with the options that were asked for.
    fn create(&self, target: Target) -> Result<listing::Outcome<Name>> {
        let exists = matches!(target, Target::Environment(_));
        let (path, own_name) = target.project()?;
        let mut create = self.shell.create.clone();
        let exists = match &create.name {
            Some(word) => record::dir(&Name::with_word(word, &path)).exists(),
            None => exists,
        };
        if !exists {
            fill(&mut create.settings, self.default_settings()?);
        }
        if let (None, Some(name)) = (&create.name, own_name) {
            create.name = Some(name.word().into());
        }
        self.shell.common.note(SHELL, || format!("project {}", path.display()));
        let mut command = self.tool(&create)?;
        command.arg("--").arg(&path);
        made(command)
    }

    /// `lbx-env create` with the options of `create`.
    fn tool(&self, create: &Create) -> Result<Command> {
        let mut command = step::sibling("lbx-env")?;
        command.arg("create").args(self.shell.common.words(&Place::Local)).args(create.words(&Place::Local)?);
        Ok(command)
    }

    fn default_settings(&self) -> Result<Settings> {
        match &self.defaults {
            Defaults::Words(words) => Ok(Words::try_parse_from(words)?.settings),
            Defaults::Config(settings) => Ok(Settings { git: git_identity(), ..settings.clone() }),
        }
    }

    fn enter_words(&self) -> Vec<OsString> {
        let enter = &self.shell.enter;
        let mut words: Vec<OsString> = Vec::new();
        for (given, word) in [(enter.no_stdin, "-n"), (enter.agent, "-A")] {
            if given {
                words.push(word.into());
            }
        }
        words.extend(enter.chdir.iter().map(|dir| option("--chdir", dir.as_os_str())));
        words.extend(self.variables.iter().map(|(name, _)| option("--env", name)));
        words
    }

    /// The values that travel beside the command line, never in it.
    fn values(&self) -> Vec<(OsString, OsString)> {
        self.variables.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect()
    }

    /// The same call for the `llima-box` of `place`.
    fn call(&self, place: &Place) -> Result<Call> {
        let mut words: Vec<OsString> = vec!["shell".into()];
        words.extend(self.shell.common.words(&Place::Local));
        words.extend(self.shell.create.words(place)?);
        words.extend(self.default_settings()?.words(place)?.iter().map(|word| option("--when-new", word)));
        words.extend(self.enter_words());
        match &self.shell.env {
            Some(env) if Name::parse(env).is_some() => words.push(env.clone()),
            Some(env) => words.push(project_at(place, Path::new(env), &self.shell.stray)?.into()),
            None if matches!(place, Place::Ssh(_)) && self.shell.create.from.is_none() => {
                let message = format!("no environment given: the files of '{place}' are its own");
                return fail(Failure::new(message).hint("name one, or its absolute path"));
            }
            None => {}
        }
        words.extend(self.shell.stray.iter().cloned());
        if !self.shell.command.is_empty() {
            words.push("--".into());
            words.extend(self.shell.command.iter().cloned());
        }
        let own = |name: &OsString| std::env::var_os(name).map(|value| (name.clone(), value));
        let mut vars: Vec<_> = self
            .variables
            .iter()
            .filter_map(|(name, value)| value.clone().map(|value| (name.clone(), value)).or_else(|| own(name)))
            .collect();
        for name in INHERITED.map(OsString::from) {
            if !vars.iter().any(|(given, _)| *given == name) {
                vars.extend(own(&name));
            }
        }
        if self.shell.enter.agent {
            vars.extend(own(&AGENT.into()));
        }
        if let (None, Ok(directory)) = (&self.shell.env, path::canonical(Path::new("."))) {
            vars.push((DIRECTORY.into(), directory.into()));
        }
        Ok(Call { words, vars })
    }
}

/// The environment that `command` prints.
fn made(command: Command) -> Result<listing::Outcome<Name>> {
    let text = match listing::output(command)? {
        Ok(text) => text,
        Err(status) => return Ok(Err(status)),
    };
    let name = str::from_utf8(text.trim_ascii_end()).ok().and_then(|name| Name::parse(name.as_ref()));
    name.map(Ok).ok_or_else(|| Failure::new("lbx-env create printed no name").into())
}

/// The project at `path` as `place` knows it. What can be seen to be none from here is told from
/// here: a VM would only say that it has no such directory.
fn project_at(place: &Place, path: &Path, stray: &[OsString]) -> Result<PathBuf> {
    match place {
        Place::Ssh(_) => place.path(path),
        _ => project::directory(path, stray),
    }
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

fn is_set(variable: &OsStr) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// What the config file says of new environments at `place`; its paths are this machine's.
fn settings(config: Config, place: &Place) -> Settings {
    let own = |paths| if matches!(place, Place::Ssh(_)) { Vec::new() } else { paths };
    Settings {
        ro: own(config.ro),
        rw: own(config.rw),
        private: config.private,
        net: config.net,
        project: config.project,
        shell: config.shell,
        ..Settings::default()
    }
}

/// Takes from `defaults` what no option of `settings` says.
fn fill(settings: &mut Settings, defaults: Settings) {
    for (given, default) in
        [(&mut settings.ro, defaults.ro), (&mut settings.rw, defaults.rw), (&mut settings.private, defaults.private)]
    {
        if given.is_empty() {
            *given = default;
        }
    }
    settings.net = settings.net.or(defaults.net);
    settings.project = settings.project.or(defaults.project);
    settings.shell = settings.shell.take().or(defaults.shell);
    for (key, value) in defaults.git {
        if !settings.git.iter().any(|(given, _)| *given == key) {
            settings.git.push((key, value));
        }
    }
}

/// Who the caller is to git: what their own configuration says, not that of a project.
fn git_identity() -> Vec<(String, String)> {
    let keys = GIT_KEYS.map(|key| key.to_ascii_lowercase().replace('.', "\\."));
    let mut git = Command::new("git");
    git.args(["config", "--global", "--includes", "-z", "--get-regexp", &format!("^({})$", keys.join("|"))]);
    git.current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    step::trace(&git);
    git.output().map(|output| identity(&output.stdout)).unwrap_or_default()
}

/// Reads `KEY\nVALUE\0…`, where later values count; what cannot stand in a line is left out.
fn identity(text: &[u8]) -> Vec<(String, String)> {
    let pairs: Vec<(&str, &str)> = text
        .split(|byte| *byte == 0)
        .filter_map(|pair| str::from_utf8(pair).ok()?.split_once('\n'))
        .filter(|(_, value)| !value.is_empty() && !value.contains(char::is_control))
        .collect();
    let last = |key: &str| pairs.iter().rfind(|(given, _)| given.eq_ignore_ascii_case(key));
    GIT_KEYS.iter().filter_map(|key| Some(((*key).to_owned(), last(key)?.1.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_replaces_what_config_says() {
        let mut settings =
            Settings { ro: vec!["/mine".into()], git: pairs(&[("user.name", "me")]), ..Settings::default() };
        fill(
            &mut settings,
            Settings {
                ro: vec!["/default".into()],
                private: vec!["target".into()],
                shell: Some("/bin/zsh".into()),
                git: pairs(&[("user.name", "other"), ("user.email", "me@example.org")]),
                ..Settings::default()
            },
        );
        assert_eq!(settings.ro, [Path::new("/mine")]);
        assert_eq!(settings.private, [Path::new("target")]);
        assert_eq!(settings.shell.as_deref(), Some(Path::new("/bin/zsh")));
        assert_eq!(settings.git, pairs(&[("user.name", "me"), ("user.email", "me@example.org")]));
    }

    #[test]
    fn the_identity_is_what_git_says_last() {
        let text = b"user.name\nA\0user.email\na@example.org\0user.name\nB C\0init.defaultbranch\ntrunk\0";
        let read = identity(text);
        assert_eq!(
            read,
            pairs(&[("user.name", "B C"), ("user.email", "a@example.org"), ("init.defaultBranch", "trunk")])
        );
        assert_eq!(identity(b""), []);
        assert_eq!(identity(b"user.name\nA\x1b\0user.email\0"), []);
    }

    #[test]
    fn options_of_a_new_environment_survive_as_words() {
        let settings = Settings {
            ro: vec!["/usr".into()],
            git: pairs(&[("user.name", "A = B")]),
            net: Some(lbx::record::Net::None),
            project: Some(lbx::record::Project::Cow),
            ..Settings::default()
        };
        let words = settings.words(&Place::Local).unwrap();
        assert_eq!(Words::try_parse_from(words).unwrap().settings, settings);
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }
}
