//! What a reader will copy from README.md and CONTRIBUTING.md, run as it stands.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lbx_tests::{Command, Place, Project, bin_dir, command, installed, only_at, place, repository, script, text, tool};

/// Held by each test: some examples stop every environment that there is.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The blocks of `file` behind `<!-- MARK -->`, each in a fence.
fn blocks(file: &str, mark: &str) -> Vec<String> {
    let page = std::fs::read_to_string(repository().join(file)).expect("the page is readable");
    let mark = format!("<!-- {mark} -->\n```");
    let body = |rest: &str| {
        let (_language, rest) = rest.split_once('\n').expect("a fence is a line");
        rest.split_once("```").expect("a fence ends").0.to_owned()
    };
    page.split(&mark).skip(1).map(body).collect()
}

/// The commands of a transcript, each with what it prints.
fn transcript(block: &str) -> Vec<(&str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, String::new())),
            (None, Some((_, printed))) => *printed += &format!("{line}\n"),
            (None, None) => panic!("a transcript begins with a command: {line}"),
        }
    }
    commands
}

/// `script` as a person runs it in `project`, the tools on PATH, in a home of its own.
fn run(project: &Project, script: &str) -> Command {
    let home = project.base().join("person");
    std::fs::create_dir_all(&home).expect("a home can be made");
    let mut bash = command("bash");
    // behind ssh a path is absolute
    let absolute = script.replace(" . ", " \"$PWD\" ").replace(" .\n", " \"$PWD\"\n");
    let script = if place() == Place::Ssh { &absolute } else { script };
    let path = format!("{}:{}:/usr/bin:/bin", bin_dir().display(), home.join("bin").display());
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(project.path()).env("PATH", path).env("HOME", home);
    bash
}

#[test]
fn every_example_of_the_readme_runs() {
    let _alone = alone();
    let blocks = blocks("README.md", "test");
    assert!(blocks.len() >= 7, "README has lost its examples");
    for block in blocks {
        let project = Project::new();
        project.create(&[]);
        project.must("start");
        project.write("dir/file", "");
        run(&project, &block).assert().success();
    }
}

#[test]
fn examples_of_the_readme_do_what_it_says() {
    let _alone = alone();
    let project = Project::new();
    let name = project.create(&[]);
    let running = &blocks_printing(&project, "select(.state");
    assert!(!running.contains(project.str()), "{name} is not running");
    project.must("start");
    assert!(blocks_printing(&project, "select(.state").lines().any(|line| line == project.str()));

    project.write("dir/file", "");
    assert_eq!(blocks_printing(&project, "find .").lines().count(), 1);
    blocks_printing(&project, "-- sort");
    assert_eq!(project.read("sorted"), "a\nb\n");
    assert!(blocks_printing(&project, "while read").contains(&format!("{name}: 2 files")));
    blocks_printing(&project, "xargs");
    assert_eq!(project.state(), "stopped");
}

#[test]
fn the_transcript_of_the_readme_is_what_is_seen() {
    if !only_at(&[Place::Local, Place::Lima], "behind ssh a path is absolute") || !installed(&["jq"]) {
        return;
    }
    let _alone = alone();
    let project = Project::new();
    project.write("main.c", "int main(void) { return 0; }\n");
    project.write("notes", "old\n");
    let name = project.name();
    let digits = name.rsplit_once('-').expect("a name ends with digits").1;
    let block = blocks("README.md", "test: console").concat().replace("1a2b", digits);
    for (command, printed) in transcript(&block) {
        if place() == Place::Lima && command.starts_with("lbx-apply") {
            // a VM's clock and that of the files of its host differ a little
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        // a difference is status 1
        let script = format!("{command} || [ $? = 1 ]");
        assert_eq!(text(run(&project, &script).assert().success()), printed, "{command}");
    }
    assert_eq!(project.read("notes"), "old\n");
}

#[test]
fn what_is_installed_is_whole() {
    if !only_at(&[Place::Local], "the tools are this machine's") {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let _alone = alone();
    let project = Project::new();
    let prefix = project.base().join("prefix");
    // twice: an older version is replaced
    for _ in 0..2 {
        let mut install = command(repository().join("scripts/install"));
        install.arg(&prefix).env("LBX_BIN_DIR", bin_dir()).assert().success().stdout("");
    }
    for tool in ["lbx-name", "lbx-env", "lbx-enter", "lbx-ls", "lbx-diff", "lbx-on", "lbx-vm", "llima-box"] {
        let file = std::fs::metadata(prefix.join("bin").join(tool)).expect("the tool is installed");
        assert_eq!((file.uid(), file.mode() & 0o7777), (0, 0o755), "{tool}");
        let share = prefix.join("share");
        for file in [
            format!("man/man1/{tool}.1"),
            format!("bash-completion/completions/{tool}"),
            format!("fish/vendor_completions.d/{tool}.fish"),
        ] {
            assert!(share.join(&file).is_file(), "{file} is not installed");
        }
    }
    let guest = prefix.join("libexec/llima-box/guest").join(std::env::consts::ARCH);
    for file in ["version", "lbx-on", "lbx-env", "llima-box"] {
        assert!(guest.join(file).is_file(), "{file} is not installed for guests");
    }
    let help = command(prefix.join("bin/llima-box")).args(["help", "env"]).assert().success();
    assert!(text(help).contains("lbx-env"));
    command(prefix.join("bin/llima-box")).args(["shell", project.str(), "--", "true"]).assert().success();
}

/// What the one block that contains `part` prints.
fn blocks_printing(project: &Project, part: &str) -> String {
    let all = blocks("README.md", "test");
    let block = all.iter().find(|block| block.contains(part)).expect("README has that block");
    text(run(project, block).assert().success())
}

#[test]
fn the_config_file_of_the_readme_is_understood() {
    let _alone = alone();
    let project = Project::new();
    let config = &blocks("README.md", "test: config")[0];
    let home = project.base().join("person");
    std::fs::create_dir_all(home.join(".config/llima-box")).expect("a directory can be made");
    std::fs::create_dir_all(home.join(".cargo")).expect("a directory can be made");
    std::fs::write(home.join(".config/llima-box/config.yaml"), config).expect("a file can be written");
    project.write("target/outside", "");
    let script = "ANTHROPIC_API_KEY=secret llima-box shell . -- sh -c 'echo $ANTHROPIC_API_KEY; ls target'";
    assert_eq!(text(run(&project, script).assert().success()), "secret\n");
    let options = &project.record()["options"];
    // the paths of a config file are those of the machine that has it
    let cargo = home.join(".cargo");
    let ro = (place() != Place::Ssh).then(|| cargo.to_str().expect("a path of UTF-8"));
    assert_eq!(options["ro"][0].as_str(), ro);
    assert_eq!(options["private"][0], "target");
}

#[test]
fn the_plug_in_of_ten_lines_works() {
    let _alone = alone();
    let project = Project::new();
    let name = project.create(&[]);
    let bin = project.base().join("person/bin");
    std::fs::create_dir_all(&bin).expect("a directory can be made");
    let plug_in = bin.join("lbx-du");
    script(&blocks("CONTRIBUTING.md", "test: lbx-du")[0], &plug_in);
    project.sh("head -c 2M /dev/zero >~/two");
    let printed = text(run(&project, "llima-box du .\n").assert().success());
    let (size, of) = printed.trim_end().split_once('\t').expect("a size and a name");
    assert_eq!(of, name);
    assert!(size.parse::<u32>().expect("a number") >= 2048, "{printed}");
    assert!(text(tool("lbx-ls").arg("--names").assert().success()).contains(&name));
}
