//! What it takes to see what was changed: the layer is read, and not the tree that it lies over.

use std::process::{Command, Stdio};

use lbx_tests::{Project, tool_file};

use crate::Figure;
use crate::pairs::{median, run, sh, times};

/// 1,000 directories of 100 files.
const TREE: &str =
    "mkdir tree; cd tree; for d in $(seq 1000); do mkdir $d; (cd $d; seq 100 | split -l 1 -a 3 -d - f); done";
/// As a session leaves ten changes, all over it.
const CHANGES: &str = "for d in 1 200 400 600 800; do echo more >>tree/$d/f007; done; rm tree/300/f008
    for d in 500 700; do echo new >tree/$d/new; done; mv tree/900/f000 tree/900/moved";

pub(crate) fn figures() -> Vec<Figure> {
    let project = Project::new();
    sh(&format!("cd '{}'; {TREE}", project.str()));
    run(&["sync", "--file-system", project.str()]);
    project.create(&["--project", "cow"]);
    project.sh(CHANGES);
    let diff = || {
        let mut command = Command::new(tool_file("lbx-diff"));
        let status = command.arg("--").arg(project.path()).stdout(Stdio::null()).status().expect("lbx-diff runs");
        assert_eq!(status.code(), Some(1), "there are changes");
    };
    let told = Command::new(tool_file("lbx-diff")).arg(project.path()).output().expect("lbx-diff runs").stdout;
    assert_eq!(told.iter().filter(|byte| **byte == b'\n').count(), 10);
    let taken = median(times(201, diff));
    vec![Figure::value("review-diff", "`lbx-diff` of 10 changes in 100,000 files", Some(20.0), taken, "ms")]
}
