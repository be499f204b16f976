//! Environments that come and go. `scripts/bench` lays /etc on the disk that has all else: on tmpfs,
//! as the sandbox has it, the fsyncs of both sides would cost nothing.

use lbx_tests::{Project, tool_file};

use crate::Figure;
use crate::pairs::{pairs, run, sh, time};
use crate::peers::bwrap;

const ACCOUNT: &str = "lbx-bench-peer";
const PEER: &str = "useradd -m and userdel -r";

fn account_comes_and_goes() {
    run(&["useradd", "-m", ACCOUNT]);
    run(&["userdel", "-r", ACCOUNT]);
}

pub(crate) fn figures() -> Vec<Figure> {
    let tool = |name: &str| tool_file(name).display().to_string();
    let (env, enter, llima_box) = (tool("lbx-env"), tool("lbx-enter"), tool("llima-box"));
    // the last environment that goes takes along what all share
    let other = Project::new();
    other.create(&[]);
    other.must("start");
    let project = Project::new();
    let at = project.str();
    let verb = |verb: &str| run(&[env.as_str(), verb, "--", at]);
    let delete = || run(&[env.as_str(), "delete", "-f", "--", at]);
    let cycle = || {
        verb("create");
        run(&[enter.as_str(), at, "--", "true"]);
        delete();
    };
    let create = || {
        verb("create");
        delete();
    };
    let first = || {
        sh(&format!("cd {at} && {llima_box} shell -- true"));
        delete();
    };
    let figure =
        |name, about: &str, promise, compared| Figure::ratio(name, format!("{about} | {PEER}"), promise, compared);
    let mut figures = vec![
        figure("cycle", "create, first command, delete", Some(0.5), pairs(60, cycle, account_comes_and_goes)),
        figure("create-delete", "create, delete", None, pairs(30, create, account_comes_and_goes)),
        figure(
            "first-shell",
            "`llima-box shell -- true` in a new project, delete",
            None,
            pairs(30, first, account_comes_and_goes),
        ),
    ];
    let mut parts: [Vec<f64>; 4] = Default::default();
    for _ in 0..30 {
        for (verb, times) in ["create", "start", "stop", "delete"].iter().zip(&mut parts) {
            times.push(time(&mut || run(&[env.as_str(), verb, "--", at])));
        }
    }
    let names = ["life-create", "life-start", "life-stop", "life-delete"];
    for ((name, verb), times) in names.iter().zip(["create", "start", "stop", "delete"]).zip(parts) {
        figures.push(Figure::value(name, format!("`lbx-env {verb}`"), None, crate::pairs::median(times), "ms"));
    }
    verb("create");
    let start = || {
        verb("start");
        verb("stop");
    };
    let bwrap = bwrap(&["true"]);
    figures.push(Figure::ratio(
        "start-stop",
        "start, stop | bwrap --unshare-all true",
        None,
        pairs(40, start, || run(&bwrap)),
    ));
    figures
}
