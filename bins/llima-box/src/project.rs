//! Which project a person means.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lbx::failure::{Failure, Result, fail};
use lbx::path::{self, shell_quoted};
use lbx::record::{self, Record};
use lbx::{Name, Place, step};

use crate::shell::DIRECTORY;
use crate::{TOOL, verbs};

/// What an operand, or its absence, means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An environment that there is.
    Environment(Name),
    /// A project without environment.
    Project(PathBuf),
}

impl Target {
    /// The target of `operand`, a name or a path; without one, the project around the current
    /// directory. `stray`: words that have no place behind it.
    pub(crate) fn of(operand: Option<&OsStr>, stray: &[OsString]) -> Result<Target> {
        let Some(operand) = operand else {
            let home = step::carried("HOME".as_ref()).and_then(|home| path::canonical(Path::new(&home)).ok());
            return around(&here()?, home.as_deref(), record::of_path);
        };
        let target = explicit(operand, stray)?;
        match stray {
            [] => Ok(target),
            [first, ..] => {
                let command = command_line(Some(operand), stray);
                fail(Failure::new(format!("one environment at a time: '{}'", first.display())).hint(command))
            }
        }
    }

    /// As [`Target::of`], but whether the path has an environment does not count.
    pub(crate) fn of_path(operand: Option<&OsStr>, stray: &[OsString]) -> Result<Target> {
        match operand {
            Some(operand) if Name::parse(operand).is_none() && stray.is_empty() => {
                path::directory(Path::new(operand)).map(Target::Project)
            }
            _ => Target::of(operand, stray),
        }
    }

    /// The project's path, and the name that its environment has where that is not the default.
    pub(crate) fn project(self) -> Result<(PathBuf, Option<Name>)> {
        match self {
            Target::Project(path) => Ok((path, None)),
            Target::Environment(name) => {
                let record = Record::load(&name).map_err(|why| why.failure(&name))?;
                let path = record.project();
                let default = Name::of(&path)?;
                Ok((path, (name != default).then_some(name)))
            }
        }
    }
}

/// The path of `name`, and the other environments that it has; `None` where it has none.
pub(crate) fn others(name: &Name) -> Result<Option<(PathBuf, Vec<Name>)>> {
    // a damaged one is told of by whoever enters it
    let Ok(record) = Record::load(name) else { return Ok(None) };
    let path = record.project();
    let mut others = record::named_of_path(&path)?;
    others.retain(|other| other != name);
    Ok((!others.is_empty()).then_some((path, others)))
}

fn explicit(operand: &OsStr, stray: &[OsString]) -> Result<Target> {
    if let Some(name) = Name::parse(operand) {
        return match record::dir(&name).exists() {
            true => Ok(Target::Environment(name)),
            false => missing(&name),
        };
    }
    let path = directory(Path::new(operand), stray)?;
    let names = record::of_path(&path)?;
    Ok(only(&path, names)?.map_or(Target::Project(path), Target::Environment))
}

/// The directory `path`; one that is missing may have been meant as a command.
pub(crate) fn directory(path: &Path, stray: &[OsString]) -> Result<PathBuf> {
    match path::directory(path) {
        Err(error) if is_missing(path) => match Place::called() {
            // the caller has looked: it is there
            Some(place @ Place::Lima(_)) => fail(place.outside(path)),
            _ => {
                let command: Vec<OsString> = std::iter::once(path.into()).chain(stray.iter().cloned()).collect();
                fail(Failure::new(format!("{error:#}")).hint(command_line(None, &command)))
            }
        },
        found => found,
    }
}

/// Where the caller stands, as far as this machine has that directory.
fn here() -> Result<PathBuf> {
    match (step::carried(DIRECTORY.as_ref()), Place::called()) {
        (Some(directory), Some(place)) if !Path::new(&directory).is_dir() => fail(place.outside(Path::new(&directory))),
        (Some(directory), Some(_)) => Ok(directory.into()),
        _ => path::canonical(Path::new(".")),
    }
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

/// There is no environment `name`: which one could be meant?
fn missing(name: &Name) -> Result<Target> {
    let names = record::names()?;
    let failure = Failure::new(format!("no such environment: {name}"));
    fail(match verbs::nearest(name.as_str(), names.iter().map(Name::as_str)) {
        Some(near) => failure.hint(format!("{} shell {near}", TOOL.name)),
        None if Path::new(name.as_str()).is_dir() => failure.hint(format!("{} shell ./{name}", TOOL.name)),
        None => failure.hint(format!("{} list", TOOL.name)),
    })
}

fn command_line(operand: Option<&OsStr>, command: &[OsString]) -> String {
    let mut words = vec![TOOL.name.to_owned(), "shell".to_owned()];
    words.extend(operand.map(shell_quoted));
    words.push("--".to_owned());
    words.extend(command.iter().map(|word| shell_quoted(word)));
    words.join(" ")
}

/// The nearest directory at or above `cwd` that has an environment, else the nearest below `home`
/// that holds `.git`, else `cwd` itself.
fn around(cwd: &Path, home: Option<&Path>, environments: impl Fn(&Path) -> Result<Vec<Name>>) -> Result<Target> {
    for dir in cwd.ancestors() {
        if let Some(name) = only(dir, environments(dir)?)? {
            return Ok(Target::Environment(name));
        }
    }
    // a repository of dot files in the home is no project, nor is what lies around it
    let below_home = |dir: &&Path| home.is_some_and(|home| dir.starts_with(home) && *dir != home);
    let repository = cwd.ancestors().take_while(below_home).find(|dir| dir.join(".git").symlink_metadata().is_ok());
    Ok(Target::Project(repository.unwrap_or(cwd).to_owned()))
}

/// The one environment of `path`.
fn only(path: &Path, mut names: Vec<Name>) -> Result<Option<Name>> {
    if names.len() > 1 {
        let list: Vec<&str> = names.iter().map(Name::as_str).collect();
        let message = format!("several environments of path '{}': {}", path.display(), list.join(" "));
        return fail(Failure::new(message).hint(format!("{} shell {}", TOOL.name, list[0])));
    }
    Ok(names.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home with a repository `repo`, a plain directory `plain`, and deeper ones below each.
    struct Tree {
        _dir: tempfile::TempDir,
        home: PathBuf,
    }

    impl Tree {
        fn new() -> Tree {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().canonicalize().unwrap().join("home/alice");
            for path in ["repo/.git", "repo/src/deep", "plain/deep"] {
                std::fs::create_dir_all(home.join(path)).unwrap();
            }
            Tree { _dir: dir, home }
        }

        /// The target from `cwd`, with environments of the paths in `taken`, all below the home.
        fn around(&self, cwd: &str, taken: &[&str]) -> Result<Target> {
            let taken: Vec<PathBuf> = taken.iter().map(|path| self.home.join(path)).collect();
            let environments = |path: &Path| {
                let count = taken.iter().filter(|taken| *taken == path).count();
                let word = |n: usize| Name::with_word(format!("n{n}").as_ref(), path);
                Ok((0..count).map(word).collect())
            };
            around(&self.home.join(cwd), Some(&self.home), environments)
        }

        fn project(&self, path: &str) -> Target {
            Target::Project(self.home.join(path))
        }

        fn environment(&self, path: &str) -> Target {
            Target::Environment(Name::with_word("n0".as_ref(), &self.home.join(path)))
        }
    }

    #[test]
    fn the_nearest_ancestor_with_an_environment_comes_first() {
        let tree = Tree::new();
        assert_eq!(tree.around("repo/src/deep", &["plain", "repo/src"]).unwrap(), tree.environment("repo/src"));
        assert_eq!(tree.around("plain/deep", &["plain"]).unwrap(), tree.environment("plain"));
        assert_eq!(tree.around("repo/src", &["repo/src", "repo"]).unwrap(), tree.environment("repo/src"));
    }

    #[test]
    fn then_the_nearest_repository() {
        let tree = Tree::new();
        assert_eq!(tree.around("repo/src/deep", &["repo/src/deep/x"]).unwrap(), tree.project("repo"));
        assert_eq!(tree.around("repo", &[]).unwrap(), tree.project("repo"));
        std::fs::write(tree.home.join("repo/src/.git"), "gitdir: elsewhere").unwrap();
        assert_eq!(tree.around("repo/src/deep", &[]).unwrap(), tree.project("repo/src"));
    }

    #[test]
    fn a_repository_counts_below_the_home_alone() {
        let tree = Tree::new();
        std::fs::create_dir(tree.home.join(".git")).unwrap();
        std::fs::create_dir(tree.home.join("../.git")).unwrap();
        assert_eq!(tree.around("plain/deep", &[]).unwrap(), tree.project("plain/deep"));
        let none = |_: &Path| Ok(Vec::new());
        let deep = tree.home.join("repo/src");
        assert_eq!(around(&deep, None, none).unwrap(), Target::Project(deep.clone()));
    }

    #[test]
    fn else_the_current_directory() {
        let tree = Tree::new();
        assert_eq!(tree.around("plain/deep", &["repo"]).unwrap(), tree.project("plain/deep"));
        let root = Path::new("/");
        assert_eq!(around(root, Some(&tree.home), |_| Ok(Vec::new())).unwrap(), Target::Project(root.into()));
    }

    #[test]
    fn several_environments_of_one_path_are_named() {
        let tree = Tree::new();
        let error = tree.around("plain/deep", &["plain", "plain"]).unwrap_err().to_string();
        assert!(error.contains("/plain'") && error.contains("n0-") && error.contains("n1-"), "{error}");
    }

    #[test]
    fn a_command_in_the_place_of_a_path_is_understood() {
        let error = explicit("make".as_ref(), &["a b".into()]).unwrap_err();
        assert!(error.to_string().starts_with("path does not exist: /"), "{error}");
        assert_eq!(
            error.downcast_ref::<Failure>().unwrap().with_hint(),
            format!("{error}: llima-box shell -- make 'a b'")
        );
    }
}
