//! The layers of an environment, the top first, opened so that they belong together though a snapshot may
//! freeze them meanwhile.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::{Failure, Result, fail};
use lbx::record::{self, Project, Record};
use lbx::sys::Looks;
use lbx::{layer, step};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::layers::Layer;

/// How often layers are looked for that are on their way to another place, and how long is waited between.
const PATIENCE: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// All layers that are compared.
#[derive(Default)]
pub(crate) struct Layers {
    /// Each once; the project is the last.
    pub(crate) all: Vec<Layer>,
    /// Which of them make up the new side and the old one, the top first.
    pub(crate) sides: [Vec<usize>; 2],
}

impl Layers {
    /// The layers of `record` against its project.
    pub(crate) fn of(mut written: Vec<Layer>, project: Layer) -> Layers {
        written.push(project);
        let last = written.len() - 1;
        Layers { sides: [(0..=last).collect(), vec![last]], all: written }
    }

    /// The layers `new` against the layers `old`, both upon `project`. A frozen one that both have is one.
    pub(crate) fn against(new: Vec<Layer>, old: Vec<Layer>, project: Layer) -> Layers {
        let mut all = new;
        let mut new: Vec<usize> = (0..all.len()).collect();
        let mut theirs = Vec::new();
        for layer in old {
            let same = all.iter().position(|own| own.id().is_some() && own.id() == layer.id());
            theirs.push(same.unwrap_or(all.len()));
            if same.is_none() {
                all.push(layer);
            }
        }
        for side in [&mut new, &mut theirs] {
            side.push(all.len());
        }
        all.push(project);
        Layers { all, sides: [new, theirs] }
    }
}

/// The environment `env`, which is the caller's, and what was changed in it, the newest first.
pub(crate) fn open(env: &OsStr, caller: Caller, looks: Looks) -> Result<(Record, Vec<Layer>)> {
    let mut record = record::open(env)?;
    let mut attempt = 0;
    loop {
        record.require_caller(caller)?;
        step::require_program_out_of_reach(&record)?;
        let written = written(&record, looks);
        // a snapshot tells of it in the record before it moves anything
        let now = Record::load(&record.name).map_err(|why| why.failure(&record.name))?;
        let is_settled = now.layers == record.layers && now.options.project == record.options.project;
        attempt += 1;
        match written {
            Ok(written) if is_settled => return Ok((now, written)),
            Err(error) if attempt >= PATIENCE || (is_settled && !is_absent(&error)) => return Err(error),
            Ok(_) if attempt >= PATIENCE => {
                return fail(Failure::new(format!("layers of '{}' change all the while", now.name)));
            }
            _ => std::thread::sleep(PAUSE),
        }
        record = now;
    }
}

fn is_absent(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound))
}

/// What was changed in the environment of `record`: none where it has no layer of its own.
fn written(record: &Record, looks: Looks) -> Result<Vec<Layer>> {
    if record.options.project != Project::Cow {
        return Ok(Vec::new());
    }
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from).with_context(|| {
            Failure::new(format!("cannot open '{}'", path.display()))
                .hint(format!("lbx-env repair {} makes what is missing", record.name))
        })
    };
    let mut layers = vec![Layer::written(open(&layer::upper(&record.name))?, looks, record.uid, None)];
    for frozen in &record.layers.project {
        layers.push(Layer::written(open(&frozen.upper())?, looks, frozen.uid, Some(frozen.id.clone())));
    }
    Ok(layers)
}

/// The project of `record`, whose owner is the recorded one.
pub(crate) fn project(record: &Record, looks: Looks) -> Result<Layer> {
    let project = record.project();
    let top = Layer::open_top(&project, looks).with_context(|| format!("cannot open path: {}", project.display()))?;
    let stat = fstat(&top).with_context(|| format!("cannot look at path: {}", project.display()))?;
    if (stat.st_uid, stat.st_gid) != (record.owner.uid, record.owner.gid) {
        let message = format!(
            "owner of '{}' has changed: recorded {}:{}, now {}:{}",
            project.display(),
            record.owner.uid,
            record.owner.gid,
            stat.st_uid,
            stat.st_gid
        );
        return Err(Failure::new(message).hint("lbx-env repair takes the new owner").into());
    }
    Ok(Layer::project(top, looks))
}
