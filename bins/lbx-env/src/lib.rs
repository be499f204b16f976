//! The command line of `lbx-env`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use lbx::cli::Common;
use lbx::record::{Net, Project};
use lbx::snapshot::Tag;

/// Creates, starts, stops, repairs and deletes environments
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-env",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:
  lbx-env create                    for the current directory; prints the name
  lbx-env create --ro ~/.cargo --private target ~/src/app
  lbx-env create --from app-1a2b --count 8
  lbx-env set --label team=web app-1a2b
  lbx-ls --names | lbx-env stop -   stop them all"
)]
pub struct Cli {
    /// Print the steps, one a line, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub verb: Verb,
}

/// What to do with environments.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Create the environment of each path, and print its name
    Create {
        /// Fail where the environment exists
        #[arg(long)]
        exclusive: bool,
        /// Print the record in place of the name
        #[arg(long)]
        json: bool,
        /// Operands on standard input end with NUL, not newline
        #[arg(short = '0', long)]
        null: bool,
        /// As many forks, numbered from 1
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_FORKS))]
        count: Option<u32>,
        /// Directories of projects [default: .]; '-' reads them from standard input
        #[arg(value_name = "PATH|-", conflicts_with = "from")]
        paths: Vec<OsString>,
        #[command(flatten)]
        #[allow(missing_docs)]
        options: Create,
    },
    /// Change options; a repeated option replaces the whole list, an empty value clears it
    Set {
        #[command(flatten)]
        #[allow(missing_docs)]
        envs: Envs,
        #[command(flatten)]
        #[allow(missing_docs)]
        options: Settings,
    },
    /// Start environments; entering one does so too
    Start {
        #[command(flatten)]
        #[allow(missing_docs)]
        envs: Envs,
    },
    /// End every process of environments; homes and projects stay
    Stop {
        #[command(flatten)]
        #[allow(missing_docs)]
        envs: Envs,
    },
    /// Finish or undo what was interrupted or damaged
    Repair {
        #[command(flatten)]
        #[allow(missing_docs)]
        envs: Envs,
    },
    /// Drop what was changed in copy-on-write projects: of PATH alone, or all of it
    Discard {
        /// Operands on standard input end with NUL, not newline
        #[arg(short = '0', long)]
        null: bool,
        /// Name, or path of a project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// Paths below the project; '-' reads them from standard input [default: all]
        #[arg(value_name = "PATH|-")]
        paths: Vec<OsString>,
    },
    /// Make a snapshot: freeze the home and what was changed in a copy-on-write project
    Save {
        /// Name, or path of a project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// What to call the snapshot
        #[arg(value_name = "TAG", value_hint = clap::ValueHint::Other)]
        tag: Tag,
    },
    /// Bring a snapshot back; what was there becomes a snapshot as well
    Restore {
        /// Name, or path of a project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// What the snapshot is called
        #[arg(value_name = "TAG")]
        tag: Tag,
    },
    /// Drop snapshots
    Forget {
        /// Name, or path of a project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// What the snapshots are called
        #[arg(value_name = "TAG", required = true)]
        tags: Vec<Tag>,
    },
    /// Delete environments with their homes; projects stay
    Delete {
        /// A missing environment is no failure
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        envs: Envs,
    },
}

/// Operands that mean environments.
#[derive(Args, Clone, Debug)]
pub struct Envs {
    /// Operands on standard input end with NUL, not newline
    #[arg(short = '0', long)]
    pub null: bool,
    /// Names, or paths of projects; '-' reads them from standard input
    #[arg(value_name = "ENV|-", required = true)]
    pub envs: Vec<OsString>,
}

/// As many forks as one command makes, at most.
pub const MOST_FORKS: i64 = 1000;

/// The options of a new environment.
#[derive(Args, Clone, Debug, Default, PartialEq)]
// the verb `Create` has a group of that name already
#[group(skip)]
#[command(next_help_heading = "Options of an environment")]
pub struct Create {
    /// Use WORD in place of the path's last component in the name
    #[arg(long, value_name = "WORD")]
    pub name: Option<OsString>,
    /// Fork ENV: with its home and its changes, as they are or as its snapshot TAG has them
    #[arg(long, value_name = "ENV[@TAG]")]
    pub from: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: Settings,
}

/// The options that `create` and `set` share.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Options of an environment")]
pub struct Settings {
    /// The project inside: itself, itself read-only, or a layer over it to write to [default: rw]
    #[arg(long, value_name = "rw|ro|cow", hide_possible_values = true)]
    pub project: Option<Project>,
    /// Show PATH inside, read-only; may be repeated
    #[arg(long, value_name = "PATH", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub ro: Vec<PathBuf>,
    /// Show PATH inside, read-write; may be repeated
    #[arg(long, value_name = "PATH", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub rw: Vec<PathBuf>,
    /// Lay a directory of the environment's own over DIR of the project; may be repeated
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub private: Vec<PathBuf>,
    /// The network inside: the place's, or loopback alone [default: shared]
    #[arg(long, value_name = "shared|none", hide_possible_values = true)]
    pub net: Option<Net>,
    /// Label, for people and scripts; may be repeated
    #[arg(long, value_name = "K=V", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Login shell inside [default: zsh where installed, else bash]
    #[arg(long, value_name = "PATH")]
    pub shell: Option<PathBuf>,
    /// Let programs inside make user namespaces: browsers' and bwrap's sandboxes
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", require_equals = true, value_parser = yes_no)]
    pub nest: Option<bool>,
    /// git setting inside: user.name, user.email or init.defaultBranch; may be repeated
    #[arg(long, value_name = "K=V", value_parser = git)]
    pub git: Vec<(String, String)>,
}

/// The git settings that environments take from their caller.
pub const GIT_KEYS: [&str; 3] = ["user.name", "user.email", "init.defaultBranch"];

/// `K=V`, or nothing, which clears the list in `set`.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() && !text.is_empty() {
        return Err("nothing in front of '='".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("a label holds no control characters".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn git(text: &str) -> Result<(String, String), String> {
    let (key, value) = label(text)?;
    match GIT_KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key)) {
        Some(known) => Ok(((*known).to_owned(), value)),
        None if text.is_empty() => Ok((key, value)),
        None => Err(format!("only {} pass", GIT_KEYS.join(", "))),
    }
}

fn yes_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("neither yes nor no".to_owned()),
    }
}

impl Create {
    /// These options as words of a command line at `place`, paths as they are known there.
    ///
    /// # Errors
    /// As [`Settings::words`]; an environment to fork that cannot be one.
    pub fn words(&self, place: &lbx::Place) -> lbx::Result<Vec<OsString>> {
        let mut words = self.settings.words(place)?;
        words.extend(self.name.iter().map(|name| word("--name", name)));
        if let Some(from) = &self.from {
            let (env, tag) = lbx::operand::tagged(from)?;
            let mut env = place.env(&env)?;
            match tag {
                Some(tag) => env.push(format!("@{tag}")),
                // the last part of the path is none
                None if lbx::operand::tagged(&env)?.1.is_some() => env.push("/"),
                None => {}
            }
            words.push(word("--from", &env));
        }
        Ok(words)
    }
}

fn word(option: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(option);
    word.push("=");
    word.push(value);
    word
}

impl Settings {
    /// These options as words of a command line at `place`, paths as they are known there.
    ///
    /// # Errors
    /// A path that cannot be resolved, or that is not absolute where it is another machine's.
    pub fn words(&self, place: &lbx::Place) -> lbx::Result<Vec<OsString>> {
        let mut words = Vec::new();
        let mut word = |option: &str, value: &OsStr| words.push(word(option, value));
        if let Some(project) = self.project {
            word("--project", project.word().as_ref());
        }
        for (option, paths) in [("--ro", &self.ro), ("--rw", &self.rw)] {
            for path in paths {
                match path.as_os_str().is_empty() {
                    true => word(option, path.as_os_str()),
                    false => word(option, place.path(path)?.as_os_str()),
                }
            }
        }
        for path in &self.private {
            word("--private", path.as_os_str());
        }
        if let Some(net) = self.net {
            word("--net", if net == Net::None { "none" } else { "shared" }.as_ref());
        }
        for (option, pairs) in [("--label", &self.label), ("--git", &self.git)] {
            for (key, value) in pairs {
                let pair = if key.is_empty() { String::new() } else { format!("{key}={value}") };
                word(option, pair.as_ref());
            }
        }
        if let Some(shell) = &self.shell {
            word("--shell", shell.as_os_str());
        }
        if let Some(nest) = self.nest {
            word("--nest", if nest { "yes" } else { "no" }.as_ref());
        }
        Ok(words)
    }
}
