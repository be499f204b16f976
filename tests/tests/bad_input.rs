//! The table BAD INPUT of llima-box(7), row by row, and project paths that try to be more.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use lbx_tests::machine::{entries, list, listed, traces};
use lbx_tests::{Place, Project, User, host, only_at, place, text, tool};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// How many environments there could be traces of: names alone, as other tests run beside.
fn environment_of(path: &Path) -> Vec<String> {
    match lbx::Name::of(path) {
        Ok(name) => traces(name.as_str()),
        Err(_) => Vec::new(),
    }
}

fn is_refused(path: &Path, why: &str) {
    tool("lbx-env").args(["create", "--"]).arg(path).assert().code(1).stdout("").stderr(contains(why));
    let mut shell = tool("llima-box");
    shell.arg("shell").arg(path).args(["--", "echo", "inside"]);
    shell.assert().code(125).stdout("").stderr(contains(why));
    assert_eq!(environment_of(path), [""; 0], "{}", path.display());
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let project = Project::new();
    let missing = project.path().join("missing");
    is_refused(&missing, &format!("path does not exist: {}", missing.display()));
    let dangling = project.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    is_refused(&dangling, "path does not exist:");
}

#[test]
fn a_path_that_is_not_a_directory_is_named() {
    let project = Project::new();
    project.write("file", "");
    let file = project.path().join("file");
    is_refused(&file, &format!("path is not a directory: {}", file.display()));
    is_refused(Path::new("/dev/null"), "/dev/null");
}

#[test]
fn an_unreadable_directory_is_named() {
    if !only_at(&[Place::Local], "sudo is a step of this machine") {
        return;
    }
    let (ada, bob) = (User::sudoer(), User::new());
    let closed = Project::owned_by(&bob);
    std::fs::set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).unwrap();
    ada.tool("lbx-env").arg("create").arg(closed.path()).assert().code(1).stdout("").stderr(contains(closed.str()));
    assert_eq!(environment_of(closed.path()), [""; 0]);
    ada.tool("llima-box").arg("shell").arg(closed.path()).args(["--", "true"]).assert().code(125).stdout("");
    assert_eq!(environment_of(closed.path()), [""; 0]);
}

#[test]
fn directories_of_the_system_are_refused_with_the_reason() {
    let user = User::new();
    let mut system: Vec<PathBuf> = [
        "/etc",
        "/usr",
        "/home",
        "/root",
        "/proc",
        "/sys",
        "/dev",
        "/dev/shm",
        "/run",
        "/boot",
        "/etc/ssh",
        "/bin",
        "/lib",
        "/sbin",
        "/var",
        "/var/lib",
        "/var/lib/llima-box",
        "/var/lib/llima-box/envs",
    ]
    .map(PathBuf::from)
    .into_iter()
    .filter(|p| p.is_dir())
    .collect();
    system.push(user.home().to_owned());
    for path in system {
        let output = tool("lbx-env").arg("create").arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let canonical = path.canonicalize().unwrap_or(path.clone());
        assert_eq!(output.status.code(), Some(1), "{}: {told}", path.display());
        assert!(output.stdout.is_empty());
        assert!(told.contains(canonical.to_str().unwrap()), "{}: {told}", path.display());
        assert_eq!(environment_of(&canonical), [""; 0]);
    }
    tool("lbx-env")
        .args(["create", "/"])
        .assert()
        .code(predicates::ord::ge(1).and(predicates::ord::le(2)))
        .stdout("")
        .stderr(contains("/"));
    tool("llima-box").args(["shell", "/", "--", "true"]).assert().code(125).stdout("");
}

#[test]
fn a_link_to_a_directory_of_the_system_is_that_directory() {
    let project = Project::new();
    let link = project.path().join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    is_refused(&link, "/etc");
}

#[test]
fn another_accounts_home_is_refused_also_as_a_private_one() {
    let project = Project::new();
    let name = project.create(&[]);
    let home = PathBuf::from(format!("/home/{name}"));
    tool("lbx-env").arg("create").arg(&home).assert().code(1).stdout("").stderr(contains(&name));
    host(&format!("mkdir {}/sub", home.display()));
    tool("lbx-env").arg("create").arg(home.join("sub")).assert().code(1).stdout("");
}

fn hostile_names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "a b  c",
        " lead and trail ",
        "it's \"quoted\"",
        "$(touch pwned)",
        "`touch pwned`",
        "a;touch pwned;b",
        "a&b|c>d<e",
        "new\nline",
        "trailing newline\n",
        "carriage\rreturn",
        "tab\tbell\x07esc\x1b[31m",
        "-rf",
        "--help",
        "-",
        "--",
        "*",
        "?[a-z]",
        "back\\slash",
        "\\040",
        "%s%n",
        "a=b",
        "a,b:c",
        "...",
        "ünïcödé 項目 🦀",
        "~",
        "#x",
        "{}",
        "!!",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    names.push(OsString::from("x".repeat(255)));
    names.push(OsString::from("-".repeat(255)));
    names.push(OsString::from_vec(b"\xff\xfe not utf-8 \x80\n".to_vec()));
    names.push(OsString::from_vec((1..=255).filter(|b| *b != b'/').take(127).collect()));
    names.push(OsString::from_vec((1..=255).filter(|b| *b != b'/').skip(127).collect()));
    names
}

#[test]
fn hostile_paths_work_at_their_real_place() {
    for hostile in hostile_names() {
        let project = Project::named(&hostile);
        let path = project.path();
        let said = format!("{}", path.display());
        let created = tool("lbx-env").current_dir(path).arg("create").arg("--").arg(path).assert().success();
        let name = project.name();
        assert_eq!(text(created), format!("{name}\n"));

        let pwd = project.enter(["sh", "-c", "pwd; printf %s. \"$LBX_PROJECT\""]).output().unwrap();
        let mut expected = path.as_os_str().as_bytes().to_vec();
        expected.push(b'\n');
        expected.extend(path.as_os_str().as_bytes());
        expected.push(b'.');
        assert_eq!(pwd.stdout, expected, "{said}: {pwd:?}");
        project.sh("echo made >file");
        assert_eq!(project.read("file"), "made\n", "{said}");

        let object = listed(&name).unwrap_or_else(|| panic!("not listed: {said}"));
        assert_eq!(path_in(&object), path, "{said}");
        let containing = |operand: &OsStr| {
            text(tool("lbx-ls").args(["--names", "--containing"]).arg(operand).current_dir(path).assert().success())
        };
        assert_eq!(containing(path.as_os_str()), format!("{name}\n"), "{said}");
        if place() != Place::Ssh {
            assert_eq!(list(&["--containing", "."]).len(), 0);
            assert_eq!(containing(OsStr::new(".")), format!("{name}\n"), "{said}");
        }
        assert_eq!(entries(project.base()), [hostile.to_string_lossy()], "nothing beside it was made: {said}");

        project.must("stop");
        project.must("delete");
        assert_eq!(traces(&name), [""; 0], "{said}");
    }
    assert!(!lbx_tests::machine::exists("/pwned"));
}

/// The path of an object of `lbx-ls`, which carries what is not UTF-8 in `path_bytes`.
fn path_in(object: &Value) -> PathBuf {
    match object["path_bytes"].as_str() {
        Some(bytes) => OsString::from_vec(base64::engine::general_purpose::STANDARD.decode(bytes).unwrap()).into(),
        None => object["path"].as_str().expect("path is text").into(),
    }
}

#[test]
fn hostile_paths_work_from_inside_as_relative_ones() {
    if !only_at(&[Place::Local, Place::Lima], "behind ssh a path is absolute") {
        return;
    }
    for hostile in ["-rf", "--help", "-", "--", " ", "$(x)"] {
        let project = Project::named(hostile);
        let relative = OsString::from("./").into_string().unwrap() + hostile;
        let name =
            text(tool("lbx-env").current_dir(project.base()).args(["create", "--", &relative]).assert().success());
        let mut enter = tool("lbx-enter");
        enter.current_dir(project.base()).args([relative.as_str(), "--", "pwd"]);
        enter.assert().success().stdout(format!("{}\n", project.str()));
        let mut shell = tool("llima-box");
        shell.current_dir(project.base()).args(["shell", &relative, "--", "pwd"]);
        shell.assert().success().stdout(format!("{}\n", project.str()));
        tool("lbx-env").args(["delete", name.trim()]).assert().success();
    }
}

#[test]
fn a_path_of_many_components_works() {
    let project = Project::new();
    let mut deep = project.path().to_owned();
    while deep.as_os_str().len() < 3900 {
        deep.push("d".repeat(100));
    }
    std::fs::create_dir_all(&deep).unwrap();
    let output = tool("lbx-env").arg("create").arg(&deep).output().unwrap();
    if output.status.success() {
        tool("lbx-enter").arg(&deep).args(["--", "pwd"]).assert().success().stdout(format!("{}\n", deep.display()));
        tool("lbx-env").arg("delete").arg(&deep).assert().success();
    } else {
        assert!(!output.stderr.is_empty() && output.status.code() == Some(1), "{output:?}");
    }
    assert_eq!(environment_of(&deep), [""; 0]);
}

#[test]
fn a_message_shows_control_characters_and_does_not_send_them() {
    let project = Project::new();
    let evil = project.path().join("a\x1b[2Jb\nlbx-env: all is well");
    let output = tool("lbx-env").arg("create").arg(&evil).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains('\x1b') && told.lines().all(|l| !l.starts_with("lbx-env: all is well")), "{told:?}");
}

#[test]
fn no_command_behind_the_dashes_is_said() {
    let project = Project::new();
    let mut shell = tool("llima-box");
    shell.arg("shell").arg(project.path()).arg("--");
    shell.assert().code(125).stdout("").stderr(contains("no command specified after '--'"));
    tool("llima-box")
        .current_dir(project.path())
        .args(["shell", "--"])
        .assert()
        .code(125)
        .stderr(contains("no command specified after '--'"));
    assert_eq!(environment_of(project.path()), [""; 0]);
}

#[test]
fn a_command_without_the_dashes_is_taken_for_a_path() {
    let project = Project::new();
    tool("llima-box").current_dir(project.path()).args(["shell", "make"]).assert().code(125).stdout("").stderr(
        match place() {
            Place::Ssh => contains("path is not absolute: make").and(contains("hint: ")),
            _ => contains("path does not exist").and(contains("hint: llima-box shell -- make")),
        },
    );
    assert_eq!(environment_of(project.path()), [""; 0]);
}

#[test]
fn unknown_places_and_options_are_named() {
    let project = Project::new();
    for place in ["moon", "docker:x", "ssh:", "local:x", ""] {
        let mut create = tool("lbx-env");
        create.args(["create", "--on", place]).arg(project.path());
        create.assert().code(2).stdout("").stderr(contains(format!("'{place}'")));
        let mut enter = tool("lbx-enter");
        enter.args(["--on", place]).arg(project.path()).args(["--", "true"]);
        enter.assert().code(125).stdout("");
        if !place.is_empty() {
            tool("lbx-ls").env("LBX_ON", place).assert().code(2).stderr(contains(place));
        }
    }
    for (tool_name, status) in [("lbx-env", 2), ("lbx-ls", 2), ("lbx-name", 2), ("llima-box", 2), ("lbx-enter", 125)] {
        tool(tool_name).arg("--no-such-option").assert().code(status).stdout("").stderr(contains("--no-such-option"));
    }
    tool("lbx-env").args(["create", "--lable", "a=b"]).arg(project.path()).assert().code(2).stderr(contains("--label"));
    tool("lbx-env")
        .args(["create", "--net", "nome"])
        .arg(project.path())
        .assert()
        .code(2)
        .stderr(contains("nome").and(contains("none")));
    tool("lbx-env").arg("delte").assert().code(2).stderr(contains("delete"));
    assert_eq!(environment_of(project.path()), [""; 0]);
}

#[test]
fn a_place_out_of_reach_is_not_this_one() {
    let project = Project::new();
    // where limactl is, a VM called so would be made
    let lima = (place() != Place::Lima).then_some(("lima:nowhere", "limactl"));
    for (place, named) in [("ssh:nowhere.invalid", "nowhere.invalid")].into_iter().chain(lima) {
        let mut create = tool("lbx-env");
        create.args(["create", "--on", place]).arg(project.path());
        create.assert().failure().stdout("").stderr(contains(named));
        let mut enter = tool("lbx-enter");
        enter.args(["--on", place]).arg(project.path()).args(["--", "echo", "here"]);
        enter.assert().code(125).stdout("");
    }
    assert_eq!(environment_of(project.path()), [""; 0]);
}

#[test]
fn unknown_environments_are_named_with_the_near_miss() {
    let project = Project::named("nearmiss");
    let name = project.create(&[]);
    let typo = name.replacen("nearmiss", "nearmis", 1);
    for verb in ["start", "stop", "delete", "repair"] {
        project.env_tool(verb).arg(&typo).assert().code(1).stderr(contains(&typo).and(contains(&name)));
    }
    tool("lbx-enter")
        .args([&typo, "--", "true"])
        .assert()
        .code(125)
        .stdout("")
        .stderr(contains(&typo).and(contains(&name)));
    tool("lbx-ls").arg(&typo).assert().code(1).stdout("").stderr(contains(&typo));
}

#[test]
fn an_operand_is_wanted_where_all_would_be_too_much() {
    for verb in ["start", "stop", "repair", "delete", "set"] {
        tool("lbx-env").arg(verb).assert().code(2).stdout("");
    }
    tool("llima-box").args(["delete", "-y"]).assert().code(2).stdout("");
    tool("llima-box").assert().code(2).stdout("").stderr(contains("Usage"));
    tool("lbx-enter").assert().code(125).stdout("");
}

#[test]
fn delete_without_a_terminal_needs_consent() {
    let project = Project::new();
    let name = project.create(&[]);
    tool("llima-box").arg("delete").arg(&name).assert().failure().stdout("").stderr(contains("-y"));
    tool("llima-box").arg("delete").arg(&name).write_stdin("y\n").assert().failure();
    assert!(listed(&name).is_some());
    tool("llima-box").args(["delete", "-y", &name]).assert().success();
    assert_eq!(traces(&name), [""; 0]);
    tool("llima-box").args(["delete", "-y", &name]).assert().code(1).stderr(contains(&name));
    tool("llima-box").args(["delete", "-f", &name]).assert().success();
}

#[test]
fn a_name_word_becomes_a_name_whatever_it_is() {
    for word in ["", "../../etc", "ROOT", "a b", "-x", "é", "root\n:0:0", &"w".repeat(300)] {
        let project = Project::new();
        let mut create = project.env_tool("create");
        let output = create.arg(format!("--name={word}")).arg("--").arg(project.path()).output().unwrap();
        assert!(output.status.success(), "{word:?}: {output:?}");
        let name = String::from_utf8(output.stdout).unwrap();
        assert!(lbx::Name::parse(OsStr::new(name.trim_end())).is_some(), "{word:?}: {name:?}");
        project.env_tool("delete").arg(name.trim_end()).assert().success();
    }
    assert_eq!(host("awk -F: 'NF != 7' /etc/passwd"), "");
}

#[test]
fn a_label_with_a_control_character_is_refused() {
    let project = Project::new();
    for label in ["a=b\nc", "a\x1b=b", "=x"] {
        project.env_tool("create").args(["--label", label]).arg(project.path()).assert().code(2).stdout("");
    }
    assert_eq!(environment_of(project.path()), [""; 0]);
}

#[test]
fn a_shell_that_is_none_is_refused() {
    let project = Project::new();
    for shell in ["bash", "/no/such/shell", "/etc/passwd", "/bin"] {
        let output = project.env_tool("create").args(["--shell", shell]).arg(project.path()).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{shell}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(shell), "{shell}: {output:?}");
        assert_eq!(environment_of(project.path()), [""; 0], "{shell}");
    }
}

#[test]
fn variables_without_a_name_are_refused_and_without_a_value_are_not_passed() {
    let project = Project::new();
    project.create(&[]);
    for variable in ["", "=x", "=", "A B=\n"] {
        let mut enter = tool("lbx-enter");
        enter.args(["--env", variable]).arg(project.path()).args(["--", "env"]);
        let output = enter.output().unwrap();
        if output.status.success() {
            assert!(
                !String::from_utf8_lossy(&output.stdout).lines().any(|l| l.starts_with('=')),
                "{variable:?}: {output:?}"
            );
        } else {
            assert_eq!(output.status.code(), Some(125), "{variable:?}");
        }
    }
    let mut enter = tool("lbx-enter");
    enter.args(["--env", "LBX_NEVER_SET"]).arg(project.path()).args(["--", "sh", "-c", "echo ${LBX_NEVER_SET-unset}"]);
    enter.assert().success().stdout("unset\n");
}

#[test]
fn two_dashes_and_a_lone_dash_are_told_apart() {
    let project = Project::new();
    tool("lbx-env").args(["create", "-"]).arg(project.path()).write_stdin("").assert().failure().stdout("");
    assert_eq!(environment_of(project.path()), [""; 0]);
}
