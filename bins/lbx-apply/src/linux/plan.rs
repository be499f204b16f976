//! What is to be done, as a list of steps: a pure function of the changes and of what the person wants.
//!
//! Directories are made first and removed last, so that whatever is put or removed in between finds its
//! parent; a run that is killed leaves a tree from which the rest can still be done.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use lbx::operand::Wanted;
use lbx::path::shell_quoted;

use super::change::{Change, Kind, Status};

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Which changes; `None`: all.
    pub(crate) wanted: Option<Vec<Wanted>>,
    /// Paths that were named themselves: what else would be refused is meant.
    pub(crate) named: BTreeSet<PathBuf>,
    /// What becomes of conflicts.
    pub(crate) conflicts: Conflicts,
}

/// What becomes of what both sides have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conflicts {
    /// It is left alone.
    #[default]
    Leave,
    /// The environment's is taken.
    Force,
    /// Files are merged.
    Merge,
}

/// How what lies in the project is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// As long as the person has not changed it.
    Checked,
    /// Whatever it is.
    Forced,
    /// By merging it.
    Merged,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) path: PathBuf,
    /// The frozen layer that has it; `None`: what the environment writes.
    pub(crate) layer: Option<String>,
    pub(crate) what: What,
    pub(crate) take: Take,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Lets the owner change a directory that there is, until its mode is set.
    Open,
    /// Makes a directory where nothing is.
    MakeDir(u32),
    /// Makes a directory in the place of something else.
    TurnIntoDir(u32),
    /// Puts a file, link and the like where nothing is.
    PutNew(Kind),
    /// Puts a file, link and the like in the place of another.
    Put(Kind),
    /// Puts a file, link and the like in the place of a directory that is empty by now.
    PutForDir(Kind),
    /// Removes what is no directory.
    Remove,
    /// Removes a directory that is empty by now.
    RemoveDir,
    /// Sets the mode of a directory.
    Mode(u32),
}

/// A change that is wanted, but left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) path: PathBuf,
    pub(crate) why: Why,
}

/// Why a change is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Both sides have changed it.
    Conflict(Clash),
    /// A link that leads out of the project.
    LeadsOut(OsString),
    /// No file, directory or link.
    Special(Kind),
    /// It lies in a directory that is not made.
    Inside(PathBuf),
    /// A directory that holds what is to stay.
    NotEmpty,
}

/// What both sides did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clash {
    /// Both changed it, or both made it.
    Changed,
    /// The project has it no more.
    Gone,
    /// It could not be merged, for this reason.
    Unmerged(&'static str),
}

/// The steps, and what is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) left: Vec<Left>,
}

/// The modes that pass: no set-id bit, no sticky one.
pub(crate) const MODES: u32 = 0o777;
/// What the owner of a directory needs to work in it.
const OWN: u32 = 0o700;

/// The plan for what `request` wants of `changes`, which are sorted by path, in `project`.
pub(crate) fn plan(changes: &[Change], request: &Request, project: &Path) -> Plan {
    let by_path: BTreeMap<&Path, &Change> = changes.iter().map(|change| (change.path.as_path(), change)).collect();
    let wanted = Selection::of(request.wanted.as_deref());
    let mut chosen: Chosen<'_> = BTreeMap::new();
    let mut left: BTreeMap<&OsStr, Left> = BTreeMap::new();
    for change in changes.iter().filter(|change| wanted.holds(&change.path)) {
        match take(change, request, project) {
            Ok(take) => drop(chosen.insert(change.path.as_os_str(), (change, take))),
            Err(why) => drop(left.insert(change.path.as_os_str(), Left { path: change.path.clone(), why })),
        }
    }
    // new directories on the way come along; `clear`: the last one whose way has nothing more to tell
    let mut clear: Option<&Path> = None;
    for change in chosen.values().map(|(change, _)| *change).collect::<Vec<_>>() {
        let above = change.path.parent();
        let known = std::mem::replace(&mut clear, above);
        for above in above.into_iter().flat_map(Path::ancestors) {
            if known.is_some_and(|known| known.starts_with(above)) {
                break;
            }
            let Some(dir) = by_path.get(above).filter(|dir| dir.new == Some(Kind::Dir)) else { continue };
            if chosen.contains_key(above.as_os_str()) {
                continue;
            }
            match dir.status {
                Status::Added if !dir.conflict => drop(chosen.insert(above.as_os_str(), (dir, Take::Checked))),
                // something else is there that is not to be replaced
                Status::Turned => {
                    let why = Why::Inside(above.to_owned());
                    left.insert(change.path.as_os_str(), Left { path: change.path.clone(), why });
                    clear = None;
                    break;
                }
                _ => {}
            }
        }
    }
    chosen.retain(|path, _| !left.contains_key(path));
    Plan { steps: steps(&chosen), left: left.into_values().collect() }
}

/// Which paths are wanted; of tens of thousands each is looked up, not looked for.
struct Selection<'a> {
    all: bool,
    alone: BTreeSet<&'a Path>,
    below: BTreeSet<&'a Path>,
}

impl Selection<'_> {
    fn of(wanted: Option<&[Wanted]>) -> Selection<'_> {
        let mut selection = Selection { all: wanted.is_none(), alone: BTreeSet::new(), below: BTreeSet::new() };
        for wanted in wanted.unwrap_or_default() {
            match wanted {
                Wanted::Alone(path) => selection.alone.insert(path),
                Wanted::Below(path) => selection.below.insert(path),
            };
        }
        selection
    }

    fn holds(&self, path: &Path) -> bool {
        let below = || !self.below.is_empty() && path.ancestors().any(|above| self.below.contains(above));
        self.all || self.alone.contains(path) || below()
    }
}

/// How `change` is taken, or why it is not.
fn take(change: &Change, request: &Request, project: &Path) -> Result<Take, Why> {
    if !request.named.contains(&change.path) {
        match (change.new, &change.target) {
            (Some(kind @ (Kind::Fifo | Kind::Socket | Kind::Device)), _) => return Err(Why::Special(kind)),
            (Some(Kind::Symlink), Some(target)) if leads_out(&change.path, Path::new(target), project) => {
                return Err(Why::LeadsOut(target.clone()));
            }
            _ => {}
        }
    }
    let both_files = (change.new, change.old) == (Some(Kind::File), Some(Kind::File));
    match request.conflicts {
        _ if !change.conflict => Ok(Take::Checked),
        _ if cfg!(feature = "broken-apply-conflicts") => Ok(Take::Forced),
        Conflicts::Force => Ok(Take::Forced),
        Conflicts::Merge if both_files => Ok(Take::Merged),
        Conflicts::Leave | Conflicts::Merge if change.old.is_none() => Err(Why::Conflict(Clash::Gone)),
        Conflicts::Leave | Conflicts::Merge => Err(Why::Conflict(Clash::Changed)),
    }
}

/// Changes by the bytes of their paths: what is above another comes before it.
type Chosen<'a> = BTreeMap<&'a OsStr, (&'a Change, Take)>;

fn steps(chosen: &Chosen<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |change: &Change, take: Take, what: What| {
        steps.push(Step { path: change.path.clone(), layer: change.layer.clone(), what, take });
    };
    let forward = || chosen.values().copied();
    for (change, take) in forward().filter(|(change, _)| change.new == Some(Kind::Dir)) {
        match change.status {
            Status::Turned => add(change, take, What::TurnIntoDir(change.mode & MODES)),
            Status::Modified => {
                let below = change.path.join("");
                let next = chosen.range(below.as_os_str()..).next();
                if next.is_some_and(|(next, _)| Path::new(next).starts_with(&change.path)) {
                    add(change, take, What::Open);
                }
            }
            _ => add(change, take, What::MakeDir(change.mode & MODES)),
        }
    }
    for (change, take) in forward() {
        match (change.new, change.status, change.old) {
            (None | Some(Kind::Dir), ..) | (_, Status::Turned, Some(Kind::Dir)) => {}
            (Some(kind), Status::Added, None) => add(change, take, What::PutNew(kind)),
            (Some(kind), ..) => add(change, take, What::Put(kind)),
        }
    }
    for (change, take) in forward().rev() {
        match (change.new, change.old) {
            (None, Some(Kind::Dir)) => add(change, take, What::RemoveDir),
            (None, _) => add(change, take, What::Remove),
            (Some(kind), Some(Kind::Dir)) if kind != Kind::Dir => add(change, take, What::PutForDir(kind)),
            _ => {}
        }
    }
    for (change, take) in forward().rev().filter(|(change, _)| change.new == Some(Kind::Dir)) {
        // a new one that its owner may work in has its mode since it was made
        if change.status == Status::Modified || change.mode & OWN != OWN {
            add(change, take, What::Mode(change.mode & MODES));
        }
    }
    steps
}

/// Whether the link `path`, relative to `project`, may lead out of it by `target`.
///
/// What a further link on the way makes of `..` is not looked at: `..` behind a name counts as out.
pub(crate) fn leads_out(path: &Path, target: &Path, project: &Path) -> bool {
    let (below, depth) = match target.strip_prefix(project) {
        Ok(below) => (below, 0),
        Err(_) if target.is_absolute() => return true,
        Err(_) => (target, path.components().count().saturating_sub(1)),
    };
    let parts: Vec<Component<'_>> = below.components().filter(|part| *part != Component::CurDir).collect();
    let ups = parts.iter().take_while(|part| **part == Component::ParentDir).count();
    ups > depth || parts[ups..].contains(&Component::ParentDir)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = shell_quoted(self.path.as_os_str());
        match self.what {
            What::Open => write!(f, "open directory {path}"),
            What::MakeDir(mode) => write!(f, "make directory {mode:04o} {path}"),
            What::TurnIntoDir(mode) => write!(f, "replace by directory {mode:04o} {path}"),
            What::PutNew(kind) => write!(f, "put {} {path}", kind.word()),
            What::Put(kind) if self.take == Take::Merged => write!(f, "merge {} {path}", kind.word()),
            What::Put(kind) | What::PutForDir(kind) => write!(f, "replace by {} {path}", kind.word()),
            What::Remove => write!(f, "remove {path}"),
            What::RemoveDir => write!(f, "remove directory {path}"),
            What::Mode(mode) => write!(f, "set mode {mode:04o} {path}"),
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            Why::Conflict(Clash::Changed) => write!(f, "conflict: '{path}': changed in the project, too"),
            Why::Conflict(Clash::Gone) => write!(f, "conflict: '{path}': gone from the project"),
            Why::Conflict(Clash::Unmerged(why)) => {
                write!(f, "conflict: '{path}': changed in the project, too, and cannot be merged: {why}")
            }
            Why::LeadsOut(target) => {
                write!(f, "refused: '{path}': a link that leads out of the project: '{}'", target.display())
            }
            Why::Special(kind) => write!(f, "refused: '{path}': a {}", kind.word()),
            Why::NotEmpty => write!(f, "left: '{path}': the directory is not empty in the project"),
            Why::Inside(dir) => {
                write!(f, "left: '{path}': it needs the directory '{}', which is not named", dir.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(status: Status, path: &str, new: Option<Kind>, old: Option<Kind>) -> Change {
        Change { path: path.into(), status, new, old, mode: 0o755, target: None, layer: None, conflict: false }
    }

    fn added(path: &str, kind: Kind) -> Change {
        change(Status::Added, path, Some(kind), None)
    }

    fn deleted(path: &str, kind: Kind) -> Change {
        change(Status::Deleted, path, None, Some(kind))
    }

    fn modified(path: &str, kind: Kind) -> Change {
        change(Status::Modified, path, Some(kind), Some(kind))
    }

    fn planned(changes: &[Change], request: &Request) -> (Vec<String>, Vec<String>) {
        let plan = plan(changes, request, Path::new("/home/alice/p"));
        (plan.steps.iter().map(ToString::to_string).collect(), plan.left.iter().map(ToString::to_string).collect())
    }

    fn only(wanted: &[Wanted]) -> Request {
        Request { wanted: Some(wanted.to_vec()), ..Request::default() }
    }

    #[test]
    fn directories_are_made_first_and_removed_last() {
        let changes = [
            deleted("a", Kind::Dir),
            deleted("a/x", Kind::File),
            modified("b", Kind::File),
            added("c", Kind::Dir),
            added("c/d", Kind::Dir),
            added("c/d/e", Kind::Symlink),
            change(Status::Turned, "t", Some(Kind::File), Some(Kind::Dir)),
            deleted("t/y", Kind::File),
            change(Status::Turned, "u", Some(Kind::Dir), Some(Kind::File)),
            added("u/z", Kind::File),
        ];
        let (steps, left) = planned(&changes, &Request::default());
        assert_eq!(
            steps,
            [
                "make directory 0755 c",
                "make directory 0755 c/d",
                "replace by directory 0755 u",
                "replace by file b",
                "put link c/d/e",
                "put file u/z",
                "remove t/y",
                "replace by file t",
                "remove a/x",
                "remove directory a",
            ]
        );
        assert!(left.is_empty());
    }

    #[test]
    fn a_directory_that_closes_is_closed_last() {
        let mut shut = added("d", Kind::Dir);
        shut.mode = 0o1555;
        let mut opened = modified("e", Kind::Dir);
        opened.mode = 0o700;
        let mut alone = modified("f", Kind::Dir);
        alone.mode = 0o2750;
        let changes = [shut, added("d/x", Kind::File), opened, modified("e/y", Kind::File), alone];
        assert_eq!(
            planned(&changes, &Request::default()).0,
            [
                "make directory 0555 d",
                "open directory e",
                "put file d/x",
                "replace by file e/y",
                "set mode 0750 f",
                "set mode 0700 e",
                "set mode 0555 d",
            ]
        );
    }

    #[test]
    fn a_part_is_that_part_and_the_new_directories_on_the_way() {
        let changes = [
            added("a", Kind::Dir),
            added("a/b", Kind::Dir),
            added("a/b/x", Kind::File),
            added("a/b/y", Kind::File),
            modified("a2", Kind::File),
            modified("z", Kind::File),
        ];
        let (steps, left) = planned(&changes, &only(&[Wanted::Alone("a/b/x".into())]));
        assert_eq!(steps, ["make directory 0755 a", "make directory 0755 a/b", "put file a/b/x"]);
        assert!(left.is_empty());
        assert_eq!(planned(&changes, &only(&[Wanted::Below("a".into())])).0.len(), 4);
        assert_eq!(planned(&changes, &only(&[Wanted::Alone("a".into())])).0, ["make directory 0755 a"]);
        assert_eq!(planned(&changes, &only(&[Wanted::Below("".into())])).0.len(), 6);
        assert_eq!(planned(&changes, &only(&[])), (vec![], vec![]));
    }

    #[test]
    fn what_lies_in_a_directory_that_replaces_something_needs_it_named() {
        let changes = [change(Status::Turned, "d", Some(Kind::Dir), Some(Kind::File)), added("d/x", Kind::File)];
        let (steps, left) = planned(&changes, &only(&[Wanted::Below("d/x".into())]));
        assert!(steps.is_empty());
        assert_eq!(left, ["left: 'd/x': it needs the directory 'd', which is not named"]);
        assert_eq!(planned(&changes, &only(&[Wanted::Below("d".into())])).0.len(), 2);
    }

    #[test]
    fn a_conflict_is_left_alone_or_taken_as_asked() {
        let both = |mut change: Change| {
            change.conflict = true;
            change
        };
        let changes =
            [both(modified("a", Kind::File)), both(added("gone", Kind::File)), both(modified("l", Kind::Symlink))];
        let (steps, left) = planned(&changes, &Request::default());
        assert!(steps.is_empty());
        assert_eq!(
            left,
            [
                "conflict: 'a': changed in the project, too",
                "conflict: 'gone': gone from the project",
                "conflict: 'l': changed in the project, too"
            ]
        );
        let force = Request { conflicts: Conflicts::Force, ..Request::default() };
        assert_eq!(planned(&changes, &force).0, ["replace by file a", "put file gone", "replace by link l"]);
        let merge = Request { conflicts: Conflicts::Merge, ..Request::default() };
        let (steps, left) = planned(&changes, &merge);
        assert_eq!((steps, left.len()), (vec!["merge file a".to_owned()], 2));
    }

    #[test]
    fn what_leads_out_and_what_is_no_file_must_be_named() {
        let mut out = added("out", Kind::Symlink);
        out.target = Some("/etc/passwd".into());
        let changes = [added("fifo", Kind::Fifo), out];
        let (steps, left) = planned(&changes, &only(&[Wanted::Below("".into())]));
        assert!(steps.is_empty());
        assert_eq!(
            left,
            ["refused: 'fifo': a FIFO", "refused: 'out': a link that leads out of the project: '/etc/passwd'"]
        );
        let named = Request { named: ["fifo".into(), "out".into()].into(), ..Request::default() };
        assert_eq!(planned(&changes, &named).0, ["put FIFO fifo", "put link out"]);
    }

    #[test]
    fn a_link_leads_out_unless_it_cannot() {
        let project = Path::new("/home/alice/p");
        for (path, target) in
            [("a", "b"), ("a", "./b/c"), ("d/a", "../b"), ("d/e/a", "../../b"), ("a", "/home/alice/p/b"), ("a", ".")]
        {
            assert!(!leads_out(Path::new(path), Path::new(target), project), "{path} {target}");
        }
        for (path, target) in [
            ("a", ".."),
            ("a", "../p/b"),
            ("d/a", "../../b"),
            ("d/a", "b/../../.."),
            // `b` may be a link to anywhere in the project
            ("a", "b/.."),
            ("d/a", "./../b/../x"),
            ("a", "/etc/passwd"),
            ("a", "/home/alice/p2/b"),
            ("a", "/home/alice/p/../x"),
            ("d/a", "/home/alice/p/.."),
        ] {
            assert!(leads_out(Path::new(path), Path::new(target), project), "{path} {target}");
        }
    }
}
