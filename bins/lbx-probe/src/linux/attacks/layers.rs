//! The project where it is not to be changed, and the layers of one that is changed apart from itself, or of a
//! home of which something was frozen.

use std::path::Path;

use lbx::layer;
use lbx::record::Project;
use libc::{AT_FDCWD, S_IFCHR};
use nix::errno::Errno;

use super::devices::nodes;
use super::{Attack, all_refused, attack, refused_or};
use crate::linux::inside::Inside;
use crate::linux::line::{Answer, Verdict};
use crate::linux::raw::call;

pub(super) const ATTACKS: &[Attack] = &[
    attack("project-closed", "overlayfs, mount(2), MS_RDONLY", "writes a project that is not to be changed", closed),
    attack("layer-path", "mount_namespaces(7)", "finds layers by their paths", |inside| {
        let kept = format!("var/lib/llima-box/envs/{}/project", inside.told.name);
        let dirs = ["/", "/proc/1/root/", "/proc/self/root/", "/run/"];
        super::absent(dirs.iter().flat_map(|dir| {
            let layers = ["upper", "work", "lower"].map(|layer| format!("{kept}/{layer}"));
            let frozen = [layer::FROZEN, layer::FROZEN_HOMES].map(|dir| dir.trim_start_matches('/').to_owned());
            layers
                .into_iter()
                .chain(frozen)
                .chain(["upper", "work", "lower"].map(str::to_owned))
                .map(move |path| format!("{dir}{path}"))
        }))
    }),
    attack("layer-names", "proc_pid_mountinfo(5), overlayfs", "reads where layers lie", |inside| {
        let tried = "read /proc/self/mountinfo";
        let home = inside.home();
        let overlays: Vec<String> =
            [inside.project(), home.as_path()].into_iter().filter_map(super::mounts::overlay_at).collect();
        match overlays.iter().find(|options| options.contains('/')) {
            Some(options) => Answer::through(tried, options.clone()),
            None if overlays.is_empty() => Answer::held(tried, "neither project nor home is an overlay"),
            None => Answer::held(tried, "no layer has a path"),
        }
    }),
    attack("layer-whiteout", "mknod(2), overlayfs whiteouts", "makes what hides a name of a layer below", |inside| {
        nodes(inside, "whiteout", S_IFCHR, 0)
    }),
    attack("layer-whiteout-rename", "renameat2(2), RENAME_WHITEOUT", "leaves such a one behind a rename", |inside| {
        let dirs = [inside.project().to_owned(), inside.home(), "/tmp".into()];
        let tried = "renameat2 RENAME_WHITEOUT in the project, the home and /tmp";
        let answers = dirs.map(|dir| refused_or(&[Errno::EINVAL], tried, renamed(inside, &dir)));
        let through = answers.iter().find(|answer| answer.verdict != Verdict::Held);
        through.or(answers.last()).cloned().unwrap_or_else(|| Answer::skipped(tried, "nowhere"))
    }),
    attack("layer-marks", "xattr(7), trusted.overlay.*", "marks files as overlayfs does", |inside| {
        let dirs = [inside.project().to_owned(), inside.home(), "/tmp".into()];
        let names = [c"trusted.overlay.opaque", c"trusted.overlay.redirect", c"trusted.overlay.metacopy"];
        let calls = dirs.iter().flat_map(|dir| {
            names.map(|name| {
                let path = super::c_path(dir);
                let called = call!(libc::SYS_setxattr, path.as_ptr(), name.as_ptr(), c"y".as_ptr(), 1, 0);
                (dir.to_string_lossy().into_owned(), called)
            })
        });
        all_refused("setxattr trusted.overlay.* of the project, the home and /tmp", calls)
    }),
];

/// Held when the project is what the record says that it is.
fn closed(inside: &Inside) -> Answer {
    let project = inside.project();
    match inside.told.project {
        Project::Rw => Answer::held("read the record", "the project is the environment's to write"),
        Project::Ro => super::files::read_only(&[&project.to_string_lossy()]),
        Project::Cow => {
            let is_overlay = super::mounts::overlay_at(project).is_some();
            Answer::when(is_overlay, "read /proc/self/mountinfo", "of the project's own mount")
        }
    }
}

/// Renames a file of directory `dir` and back, a whiteout in its place.
fn renamed(inside: &Inside, dir: &Path) -> super::Called {
    let path = |end| super::c_path(&dir.join(format!(".{}-{end}", inside.told.outside.token)));
    let (from, to) = (path("from"), path("to"));
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
    // where nothing can be made, nothing can be left behind
    let file = call!(libc::SYS_openat, AT_FDCWD, from.as_ptr(), flags, 0o600)?;
    let _ = call!(libc::SYS_close, file);
    let called = call!(libc::SYS_renameat2, AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), libc::RENAME_WHITEOUT);
    for path in [&from, &to] {
        let _ = call!(libc::SYS_unlinkat, AT_FDCWD, path.as_ptr(), 0);
    }
    called
}
