//! What an environment sees, as a list of steps: a pure function of its record and of what the
//! machine has. [`super::view`] carries it out.

use std::fmt;
use std::path::{Path, PathBuf};

use lbx::Record;
use lbx::path::shell_quoted;
use lbx::record::{Net, Ownership, Project};

/// Whose a directory inside is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Root,
    Environment,
}

/// How much of a bind may be done inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
    /// A device of the machine: the one kind of mount without `nodev`.
    Device,
}

/// Where a bind comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A path of the machine that is root's to change.
    System(PathBuf),
    /// The recorded project, opened anew and checked.
    Project,
    /// A path that the caller named: no link in it is followed.
    Named(PathBuf),
    /// `PATH` below the git directory that worktrees share, where it is there.
    Git(PathBuf),
    /// The environment's home.
    Home,
    /// The environment's own directory for this one of the project.
    Private(PathBuf),
}

/// One thing that is done to a new view. All paths are those inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A directory on the view's own tmpfs.
    Directory { path: PathBuf, mode: u32, whose: Whose },
    /// A symbolic link.
    Link { path: PathBuf, target: PathBuf },
    /// Makes what is there writable where all around it will not be.
    Writable { path: PathBuf },
    /// A part of the machine.
    Bind { path: PathBuf, source: Source, access: Access, mapped: bool },
    /// The recorded project, opened anew and checked, below the environment's own layer and as many `frozen`
    /// ones.
    Overlay { path: PathBuf, mapped: bool, frozen: usize },
    /// The environment's home, over as many `frozen` ones.
    HomeOverlay { path: PathBuf, frozen: usize },
    /// The shared /etc with the environment's own files over it.
    Etc,
    /// A process file system of the environment's PID namespace.
    Proc,
    /// A device tree.
    Sys,
    /// The environment's own cgroups.
    Cgroup,
    /// Terminals of its own.
    Terminals,
    /// Hides what is there, when it is there.
    Mask { path: PathBuf },
    /// Hides a socket; what else is there by then stays.
    MaskSocket { path: PathBuf },
    /// Closes what is there for writing.
    Close { path: PathBuf },
}

/// What the plan depends on besides the record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// `/bin` and its like: what is a link to where, or `None` for a directory.
    pub(crate) top: Vec<(PathBuf, Option<PathBuf>)>,
    /// Of [`OPTIONAL`], what is there.
    pub(crate) present: Vec<PathBuf>,
    /// Listening sockets in the file system.
    pub(crate) sockets: Vec<PathBuf>,
    /// Whether there are cgroups of version 2.
    pub(crate) cgroups: bool,
}

/// What is at the top of the machine, as link or as directory.
pub(crate) const TOP: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Read-only where they exist: more software, and what programs need of `/var`.
pub(crate) const OPTIONAL: [&str; 9] = [
    "/opt",
    "/nix",
    "/home/linuxbrew",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/pacman",
    "/var/lib/texmf",
    "/var/cache/fontconfig",
    "/var/cache/man",
];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What of /proc tells of the machine or changes it (a `--nest` environment cannot have masks:
/// the kernel refuses a further proc mount below a masked one).
const PROC_MASKED: [&str; 5] = ["/proc/sysrq-trigger", "/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/timer_list"];
const SYS_MASKED: [&str; 5] =
    ["/sys/firmware", "/sys/kernel/security", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/bpf"];
/// A service behind a read-only mount still answers on its socket.
const SERVICES: [&str; 1] = ["/nix/var/nix/daemon-socket"];

/// What the environment of `record` sees on `machine`.
pub(crate) fn plan(record: &Record, machine: &Machine) -> Vec<Step> {
    let mut steps = Vec::with_capacity(80);
    system(machine, &mut steps);
    kernel(record, machine, &mut steps);
    scratch(record, &mut steps);
    home(record, &mut steps);
    project(record, &mut steps);
    let bound: Vec<PathBuf> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Bind {
                path,
                source: Source::System(_) | Source::Named(_),
                access: Access::ReadOnly | Access::ReadWrite,
                ..
            } => Some(path.clone()),
            _ => None,
        })
        .collect();
    let project = record.project();
    for socket in &machine.sockets {
        let behind = bound.iter().any(|dir| socket.starts_with(dir));
        if behind && !socket.starts_with(&project) {
            steps.push(Step::MaskSocket { path: socket.clone() });
        }
    }
    steps.push(Step::Close { path: "/".into() });
    steps
}

fn directory(path: impl Into<PathBuf>, mode: u32) -> Step {
    Step::Directory { path: path.into(), mode, whose: Whose::Root }
}

fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Step {
    Step::Link { path: path.into(), target: target.into() }
}

fn read_only(path: impl Into<PathBuf>) -> Step {
    let path = path.into();
    Step::Bind { source: Source::System(path.clone()), path, access: Access::ReadOnly, mapped: false }
}

fn device(path: impl Into<PathBuf>) -> Step {
    let path = path.into();
    Step::Bind { source: Source::System(path.clone()), path, access: Access::Device, mapped: false }
}

/// The system's own files, read-only.
fn system(machine: &Machine, steps: &mut Vec<Step>) {
    steps.push(read_only("/usr"));
    if cfg!(feature = "broken-mounts") {
        steps.push(read_only("/srv"));
    }
    for (path, target) in &machine.top {
        steps.push(match target {
            Some(target) => link(path, target),
            None => read_only(path),
        });
    }
    steps.push(Step::Etc);
    for dir in ["cache", "empty", "lib", "local", "log", "opt", "spool"] {
        steps.push(directory(Path::new("/var").join(dir), 0o755));
    }
    steps.extend([link("/var/run", "/run"), link("/var/lock", "/run/lock"), link("/var/mail", "spool/mail")]);
    steps.extend(machine.present.iter().map(read_only));
}

/// /dev, /proc and /sys.
fn kernel(record: &Record, machine: &Machine, steps: &mut Vec<Step>) {
    for name in DEVICES.iter().chain(cfg!(feature = "broken-devices").then_some(&"kmsg")) {
        steps.push(device(Path::new("/dev").join(name)));
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        steps.push(link(Path::new("/dev").join(name), format!("/proc/self/fd{target}")));
    }
    let terminals = if cfg!(feature = "broken-terminals") { device("/dev/pts") } else { Step::Terminals };
    steps.extend([terminals, link("/dev/ptmx", "pts/ptmx"), Step::Proc]);
    if !record.options.nest {
        steps.push(Step::Close { path: "/proc/sys".into() });
        if !cfg!(feature = "broken-masks") {
            steps.extend(PROC_MASKED.iter().map(|path| Step::Mask { path: path.into() }));
        }
    }
    steps.push(Step::Sys);
    if machine.cgroups {
        steps.push(Step::Cgroup);
    }
    steps.extend(SYS_MASKED.iter().map(|path| Step::Mask { path: path.into() }));
    steps.extend(SERVICES.iter().map(|path| Step::Mask { path: path.into() }));
}

/// What is private and gone at stop: one tmpfs, capped.
fn scratch(record: &Record, steps: &mut Vec<Step>) {
    steps.extend([
        directory("/run", 0o755),
        directory("/tmp", 0o1777),
        directory("/var/tmp", 0o1777),
        directory("/dev/shm", 0o1777),
    ]);
    for path in ["/run", "/tmp", "/var/tmp", "/dev/shm"] {
        steps.push(Step::Writable { path: path.into() });
    }
    if cfg!(feature = "broken-scratch") {
        steps.push(read_only("/tmp"));
    }
    steps.extend([directory("/run/lock", 0o1777), directory("/run/user", 0o755)]);
    let runtime = Path::new("/run/user").join(record.uid.to_string());
    // lbx-enter makes the sockets of forwarded ssh agents in /run/lbx
    for path in [runtime, "/run/lbx".into()] {
        steps.push(Step::Directory { path, mode: 0o700, whose: Whose::Environment });
    }
}

fn home(record: &Record, steps: &mut Vec<Step>) {
    let path = record.home.clone();
    steps.push(match record.layers.home.len() {
        0 => Step::Bind { path, source: Source::Home, access: Access::ReadWrite, mapped: false },
        frozen => Step::HomeOverlay { path, frozen },
    });
}

/// The project, after all that could hide it; what the caller named around it before, below it after.
fn project(record: &Record, steps: &mut Vec<Step>) {
    let project = record.project();
    let mapped = record.ownership == Ownership::Idmap;
    let named = |paths: &[lbx::path::JsonPath], access: Access| -> Vec<(PathBuf, Access)> {
        paths.iter().map(|path| (path.0.clone(), access)).collect()
    };
    let mut binds = named(&record.options.ro, Access::ReadOnly);
    binds.extend(named(&record.options.rw, Access::ReadWrite));
    binds.sort_by(|a, b| a.0.cmp(&b.0));
    let (below, around): (Vec<_>, Vec<_>) = binds.into_iter().partition(|(path, _)| path.starts_with(&project));
    let bind = |(path, access): (PathBuf, Access)| Step::Bind {
        source: Source::Named(path.clone()),
        path,
        access,
        mapped: true,
    };
    steps.extend(around.into_iter().map(bind));
    let shown = record.options.project;
    if let Some(worktree) = &record.worktree {
        git(&worktree.common.0, &worktree.own.0, shown, steps);
    }
    let bound = |access| Step::Bind { path: project.clone(), source: Source::Project, access, mapped };
    steps.push(match shown {
        _ if cfg!(feature = "broken-layers") => bound(Access::ReadWrite),
        Project::Rw => bound(Access::ReadWrite),
        Project::Ro => bound(Access::ReadOnly),
        Project::Cow => Step::Overlay { path: project.clone(), mapped, frozen: record.layers.project.len() },
    });
    steps.extend(below.into_iter().map(bind));
    for dir in &record.options.private {
        steps.push(Step::Bind {
            path: project.join(&dir.0),
            source: Source::Private(dir.0.clone()),
            access: Access::ReadWrite,
            mapped: false,
        });
    }
}

/// The git directory that a worktree shares with others: closed but for what a commit writes. Hooks,
/// settings and pointers in it are what the person's own git runs and obeys, in every worktree. Where the
/// project is not to be changed, it is closed as a whole: it is no less the person's.
fn git(common: &Path, own: &Path, shown: Project, steps: &mut Vec<Step>) {
    let mut bind = |path: &Path, access| {
        steps.push(Step::Bind { path: common.join(path), source: Source::Git(path.to_owned()), access, mapped: true });
    };
    bind(Path::new(""), Access::ReadOnly);
    if shown != Project::Rw {
        return;
    }
    for name in ["objects", "refs", "logs", "lfs"] {
        bind(Path::new(name), Access::ReadWrite);
    }
    bind(own, Access::ReadWrite);
    for name in ["commondir", "gitdir", "config.worktree"] {
        bind(&own.join(name), Access::ReadOnly);
    }
}

/// The plan of everything that starting `record` does, for `--dry-run`.
pub(crate) fn describe(record: &Record, machine: &Machine) -> Vec<String> {
    let mut lines = vec![format!(
        "new namespaces: mount pid ipc uts cgroup{}",
        if record.options.net == Net::None { " net" } else { "" }
    )];
    lines.extend(plan(record, machine).iter().map(Step::to_string));
    lines
}

fn layers(number: usize) -> String {
    format!("{number} frozen layer{}", if number == 1 { "" } else { "s" })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |path: &Path| shell_quoted(path.as_os_str());
        match self {
            Step::Directory { path, mode, whose: Whose::Root } => write!(f, "directory {mode:04o} {}", word(path)),
            Step::Directory { path, mode, .. } => write!(f, "directory {mode:04o} {} of the environment", word(path)),
            Step::Link { path, target } => write!(f, "link {} to {}", word(path), word(target)),
            Step::Writable { path } => write!(f, "writable {}", word(path)),
            Step::Bind { path, source, access, mapped } => {
                let access = match access {
                    Access::ReadOnly => "ro",
                    Access::ReadWrite => "rw",
                    Access::Device => "dev",
                };
                let mapped = if *mapped { " id-mapped" } else { "" };
                match source {
                    Source::Private(dir) => write!(f, "bind {access} {} from private {}", word(path), word(dir)),
                    _ => write!(f, "bind {access}{mapped} {}", word(path)),
                }
            }
            Step::Overlay { path, mapped, frozen } => {
                let mapped = if *mapped { " id-mapped" } else { "" };
                let frozen = if *frozen > 0 { format!(" {} and", layers(*frozen)) } else { String::new() };
                write!(f, "overlay rw {} over{frozen} the{mapped} project", word(path))
            }
            Step::HomeOverlay { path, frozen } => {
                write!(f, "overlay rw {} over {}", word(path), layers(*frozen))
            }
            Step::Etc => f.write_str("overlay ro /etc, own passwd group hosts hostname resolv.conf gitconfig"),
            Step::Proc => f.write_str("proc /proc"),
            Step::Sys => f.write_str("sysfs ro /sys"),
            Step::Cgroup => f.write_str("cgroup2 ro /sys/fs/cgroup"),
            Step::Terminals => f.write_str("devpts /dev/pts"),
            Step::Mask { path } | Step::MaskSocket { path } => write!(f, "mask {}", word(path)),
            Step::Close { path } => write!(f, "close {}", word(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbx::Name;
    use lbx::path::JsonPath;
    use lbx::record::{Options, Origin, Owner, Worktree};

    fn record(path: &str, options: Options) -> Record {
        let path = PathBuf::from(path);
        let origin = Origin {
            name: Name::of(&path).unwrap(),
            path,
            owner: Owner { uid: 1000, gid: 1000, device: 1 },
            ownership: Ownership::Idmap,
            creator: 1000,
        };
        Record::new(origin, 65536, 65536, "/bin/bash".into(), options)
    }

    fn at(steps: &[Step], path: &str) -> usize {
        let path = Path::new(path);
        steps
            .iter()
            .rposition(|step| match step {
                Step::Bind { path: p, .. }
                | Step::Overlay { path: p, .. }
                | Step::HomeOverlay { path: p, .. }
                | Step::Mask { path: p }
                | Step::MaskSocket { path: p }
                | Step::Writable { path: p }
                | Step::Close { path: p } => p == path,
                _ => false,
            })
            .unwrap_or_else(|| panic!("{path:?} is not in {steps:#?}"))
    }

    #[test]
    fn the_project_comes_after_what_could_hide_it() {
        let options =
            Options { ro: vec![JsonPath("/tmp".into()), JsonPath("/tmp/p/vendor".into())], ..Options::default() };
        let steps = plan(&record("/tmp/p", options), &Machine::default());
        let project = at(&steps, "/tmp/p");
        assert!(at(&steps, "/tmp") < project);
        assert!(project < at(&steps, "/tmp/p/vendor"));
        assert_eq!(at(&steps, "/"), steps.len() - 1, "the root is closed last");
    }

    #[test]
    fn a_project_that_is_not_to_be_changed_is_nowhere_writable() {
        for project in [Project::Ro, Project::Cow] {
            let options = Options { project, private: vec![JsonPath("target".into())], ..Options::default() };
            let mut record = record("/srv/work", options);
            let (common, own) = (JsonPath("/srv/main/.git".into()), JsonPath("worktrees/work".into()));
            record.worktree = Some(Worktree { common, own });
            let steps = plan(&record, &Machine::default());
            let theirs = |step: &&Step| matches!(step, Step::Bind { access: Access::ReadWrite, path, .. } if path.starts_with("/srv"));
            let writable: Vec<String> = steps.iter().filter(theirs).map(Step::to_string).collect();
            assert_eq!(writable, ["bind rw /srv/work/target from private target"]);
            let overlaid = steps.iter().any(|step| matches!(step, Step::Overlay { .. }));
            assert_eq!(overlaid, project == Project::Cow);
            assert!(at(&steps, "/srv/work") < at(&steps, "/srv/work/target"));
        }
    }

    #[test]
    fn what_is_frozen_lies_below_what_is_written() {
        let options = Options { project: Project::Cow, ..Options::default() };
        let mut record = record("/srv/p", options);
        let frozen = |id: &str| lbx::layer::Frozen { id: id.repeat(16), uid: 65536, gid: 65536 };
        record.layers.home = vec![frozen("2"), frozen("1")];
        record.layers.project = vec![frozen("2")];
        let steps = plan(&record, &Machine::default());
        assert_eq!(
            steps[at(&steps, "/srv/p")].to_string(),
            "overlay rw /srv/p over 1 frozen layer and the id-mapped project"
        );
        let home = &steps[at(&steps, &record.home.display().to_string())];
        assert_eq!(home.to_string(), format!("overlay rw /home/{} over 2 frozen layers", record.name));
        assert!(!steps.iter().any(|step| matches!(step, Step::Bind { source: Source::Home, .. })));
        // nothing frozen of a project that is written itself, whatever the record says
        record.options.project = Project::Rw;
        let steps = plan(&record, &Machine::default());
        assert!(!steps.iter().any(|step| matches!(step, Step::Overlay { .. })));
    }

    #[test]
    fn nothing_but_the_named_is_writable() {
        let steps = plan(
            &record("/srv/p", Options::default()),
            &Machine { present: vec!["/opt".into()], ..Machine::default() },
        );
        let mut writable: Vec<String> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Bind { path, access: Access::ReadWrite, .. } | Step::Writable { path } => {
                    Some(path.display().to_string())
                }
                _ => None,
            })
            .collect();
        writable.sort();
        let name = Name::of(Path::new("/srv/p")).unwrap();
        assert_eq!(
            writable,
            [
                "/dev/shm".to_owned(),
                format!("/home/{name}"),
                "/run".into(),
                "/srv/p".into(),
                "/tmp".into(),
                "/var/tmp".into()
            ]
        );
    }

    #[test]
    fn a_worktree_cannot_change_what_others_obey() {
        let mut record = record("/srv/work", Options::default());
        let (common, own) = (JsonPath("/srv/main/.git".into()), JsonPath("worktrees/work".into()));
        record.worktree = Some(Worktree { common, own });
        let steps = plan(&record, &Machine::default());
        let access = |path: &str| match &steps[at(&steps, path)] {
            Step::Bind { access, .. } => *access,
            step => panic!("{step:?}"),
        };
        for closed in ["", "/worktrees/work/commondir", "/worktrees/work/gitdir"] {
            assert_eq!(access(&format!("/srv/main/.git{closed}")), Access::ReadOnly, "{closed}");
        }
        for open in ["/objects", "/refs", "/worktrees/work"] {
            assert_eq!(access(&format!("/srv/main/.git{open}")), Access::ReadWrite, "{open}");
        }
        assert!(at(&steps, "/srv/main/.git") < at(&steps, "/srv/main/.git/worktrees/work"));
        assert!(at(&steps, "/srv/main/.git/worktrees/work") < at(&steps, "/srv/main/.git/worktrees/work/commondir"));
    }

    #[test]
    fn a_nested_environment_has_a_bare_proc_and_others_a_masked_one() {
        let bare = plan(&record("/srv/p", Options { nest: true, ..Options::default() }), &Machine::default());
        assert!(!bare.iter().any(|s| s.to_string().contains("/proc/") && !matches!(s, Step::Link { .. })));
        at(&plan(&record("/srv/p", Options::default()), &Machine::default()), "/proc/kcore");
    }

    #[test]
    fn a_service_behind_a_read_only_mount_does_not_answer() {
        let machine = Machine {
            present: vec!["/opt".into()],
            sockets: vec!["/opt/x/sock".into(), "/srv/p/own.sock".into(), "/run/docker.sock".into()],
            ..Machine::default()
        };
        let steps = plan(&record("/srv/p", Options::default()), &machine);
        at(&steps, "/opt/x/sock");
        assert!(!steps.iter().any(
            |s| matches!(s, Step::MaskSocket { path } if path.ends_with("own.sock") || path.ends_with("docker.sock"))
        ));
    }
}
