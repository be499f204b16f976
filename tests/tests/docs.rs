//! The documentation says what the tools do: pages, completions, help.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lbx::record::{Options, Origin, Owner, Ownership};
use lbx::{Name, Record};
use lbx_tests::{Place, docs, installed, only_at, repository};

const PAGES: [&str; 14] = [
    "man/lbx-name.1",
    "man/lbx-env.1",
    "man/lbx-enter.1",
    "man/lbx-ls.1",
    "man/lbx-diff.1",
    "man/lbx-apply.1",
    "man/lbx-discard.1",
    "man/lbx-snap.1",
    "man/lbx-on.1",
    "man/lbx-probe.1",
    "man/lbx-vm.1",
    "man/llima-box.1",
    "man/lbx-record.5",
    "man/llima-box.7",
];

fn read(path: impl AsRef<Path>) -> String {
    let file = repository().join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()))
}

/// A page as a reader has it: without macros and escapes.
fn plain(page: &str) -> String {
    let text = read(page).replace("\\-", "-").replace("\\(aq", "'").replace("\\ ", " ").replace("\\~", " ");
    ["\\fB", "\\fI", "\\fR"].iter().fold(text, |text, font| text.replace(font, ""))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let Output { status, stdout, stderr } = output;
    assert!(
        status.success(),
        "{command:?}: {status}: {}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8(stdout).expect("text")
}

#[test]
fn generated_files_are_those_that_are_committed() {
    for (path, text) in docs::generated().unwrap() {
        let file = repository().join(&path);
        if std::env::var_os("LBX_BLESS").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(committed == text, "{} is not what the command lines say: run scripts/gen-docs", path.display());
    }
}

#[test]
fn every_option_of_every_tool_is_in_its_page() {
    for tool in docs::tools() {
        let page = plain(&format!("man/{}.1", tool.get_name()));
        let mut commands: Vec<&clap::Command> = docs::verbs(&tool).collect();
        commands.push(&tool);
        for arg in commands.into_iter().flat_map(docs::arguments) {
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            for option in long.into_iter().chain(short) {
                let described = page.lines().any(|line| line.split([' ', ',', '[']).any(|word| word == option));
                assert!(described, "{option} is not in the page of {}", tool.get_name());
            }
        }
    }
}

#[test]
fn help_fits_a_screen() {
    for tool in docs::tools() {
        for command in docs::verbs(&tool).chain([&tool]) {
            let help = command.clone().term_width(80).render_help().to_string();
            let name = format!("{} {}", tool.get_name(), command.get_name());
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
            assert!(help.lines().count() <= 48, "{name}: {} lines", help.lines().count());
        }
        let help = tool.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Examples:"), "{} --help has no examples", tool.get_name());
        // clap would wrap an example that does not fit, in the midst of its words
        assert!(help.lines().all(|line| line.len() <= 80), "an example of {} is too long", tool.get_name());
    }
}

#[test]
fn pages_are_sound() {
    if only_at(&[Place::Local], "pages are the same everywhere") && installed(&["mandoc"]) {
        for page in PAGES {
            run(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(repository().join(page)));
        }
    }
}

#[test]
fn pages_refer_to_pages_that_exist() {
    let ours: BTreeSet<PathBuf> = PAGES.iter().map(PathBuf::from).collect();
    for page in PAGES {
        for line in plain(page).lines().filter(|line| line.starts_with(".BR l")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let section = words.get(2).and_then(|word| word.strip_prefix('(')?.chars().next());
            if let Some(section) = section.filter(char::is_ascii_digit) {
                let named = PathBuf::from(format!("man/{}.{section}", words[1]));
                assert!(ours.contains(&named), "{page} refers to {}", named.display());
            }
        }
    }
}

#[test]
fn every_field_of_a_record_is_in_its_page() {
    let path = Path::new("/srv/p");
    let origin = Origin {
        name: Name::of(path).unwrap(),
        path: path.to_owned(),
        owner: Owner { uid: 1000, gid: 1000, device: 1 },
        ownership: Ownership::Idmap,
        creator: 1000,
    };
    let record = Record::new(origin, 65536, 65536, "/bin/sh".into(), Options::default());
    let record = serde_json::to_value(record).unwrap();
    let page = plain("man/lbx-record.5");
    let mut live =
        vec!["path_bytes", "worktree", "from", "tag", "state", "last_used", "procs", "memory_bytes", "place", "error"];
    let objects = [&record, &record["owner"], &record["options"]];
    live.extend(objects.iter().flat_map(|object| object.as_object().unwrap().keys().map(String::as_str)));
    for field in live {
        let described =
            page.lines().any(|line| line.starts_with(".B") && line.split([' ', '"', ',']).any(|word| word == field));
        assert!(described, "{field} is not in lbx-record(5)");
    }
}

#[test]
fn every_key_of_the_config_file_is_in_its_page() {
    // serde tells the keys that it knows
    let error = serde_json::from_str::<lbx::config::Config>("{\"?\": 1}").unwrap_err().to_string();
    let (_, known) = error.split_once("expected one of ").unwrap();
    let page = plain("man/llima-box.7");
    let (_, page) = page.split_once("\n.SH CONFIGURATION").unwrap();
    let (page, _) = page.split_once("\n.SH").unwrap();
    for key in known.split('`').skip(1).step_by(2) {
        let described =
            page.lines().any(|line| line.starts_with(".B") && line.split([' ', ',', '"']).any(|word| word == key));
        assert!(described, "{key} is not in CONFIGURATION of llima-box(7)");
    }
}

#[test]
fn messages_that_are_explained_are_those_of_the_tools() {
    let mut sources = String::new();
    for dir in ["lib/src", "bins"] {
        let files = run(Command::new("find").arg("-L").arg(repository().join(dir)).args(["-name", "*.rs"]));
        sources.extend(files.lines().map(|file| std::fs::read_to_string(file).unwrap()));
    }
    let page = plain("man/llima-box.7");
    let (_, section) = page.split_once("\n.SH TROUBLESHOOTING").unwrap();
    let messages: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix(".BI ")).collect();
    assert!(messages.len() > 10);
    for message in messages {
        // what is bold is the tool's, what is between is the reader's
        for part in words_of_macro(message).iter().step_by(2) {
            assert!(sources.contains(part), "no tool says: {part}: {message}");
        }
    }
}

/// The arguments of a roff macro.
fn words_of_macro(mut line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    while !line.is_empty() {
        let (word, rest) = match line.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => line.split_once(' ').unwrap_or((line, "")),
        };
        words.push(word);
        line = rest.trim_start();
    }
    words
}

/// What `text` links to and is no address: `](man/lbx-ls.1)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://"))
}

/// What `text` names as a script or a directory of the repository.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_of_ours =
        |word: &&str| ["scripts/", "man/", "lib/", "tests/", "bins/lbx"].iter().any(|dir| word.starts_with(dir));
    text.split(|c: char| c.is_whitespace() || "`()[],:;".contains(c))
        .filter(is_of_ours)
        .map(|word| word.trim_end_matches('.'))
}

#[test]
fn what_the_readme_names_is_there() {
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        let text = read(page);
        for path in links(&text).chain(named(&text)) {
            let pattern = path.contains(['*', '…']);
            assert!(pattern || repository().join(path).exists(), "{page} names {path}");
        }
    }
}

/// What stands in code in the last column of the table in `text`.
fn evidence(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    rows.skip(1).filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next()).flat_map(coded).collect()
}

fn coded(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn what_keeps_an_attack_off_is_seen_by_attacks_and_tests_that_exist() {
    let page = read("SECURITY.md");
    let listed = run(Command::new(lbx_tests::tool_file("lbx-probe")).arg("--list"));
    let attacks: Vec<&str> = listed.lines().filter_map(|line| line.split('\t').next()).collect();
    let files = ["tests/tests", "tests/tests/vm"].map(|dir| std::fs::read_dir(repository().join(dir)).unwrap());
    let files = files.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let tests: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let evidence = evidence(&page);
    assert!(evidence.len() > 50, "{evidence:?}");
    for name in evidence {
        let is_test = tests.contains(&format!("\nfn {name}() {{"));
        assert!(is_test || attacks.contains(&name), "SECURITY.md names {name}");
    }
}

/// A directory with an `lbx-ls` that knows two environments and notes how it was called.
fn with_environments() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("#!/bin/sh\necho \"$*\" >>{}/calls\nprintf 'alpha-1111\\nbeta-2222\\n'\n", dir.path().display());
    let snap = "#!/bin/sh\n[ \"$1 $2\" = 'list --tags' ] && [ \"$4\" = alpha-1111 ] && printf 'one\\nother\\ntwo\\n'\n";
    let own = "#!/bin/sh\necho started >&2; exit 1\n";
    for (name, text) in [("lbx-ls", script.as_str()), ("lbx-snap", snap), ("lbx-own", own)] {
        let file = dir.path().join(name);
        lbx_tests::script(text, &file);
    }
    std::fs::create_dir_all(dir.path().join("here/some dir/below")).unwrap();
    std::fs::write(dir.path().join("here/file"), "").unwrap();
    dir
}

/// What is asked for, and some of what must and must not be offered.
const QUESTIONS: [(&str, &[&str], &[&str]); 26] = [
    ("lbx-env start ", &["alpha-1111", "beta-2222"], &["file", "create"]),
    ("lbx-env start al", &["alpha-1111"], &["beta-2222"]),
    ("lbx-env --on local delete -f alpha-1111 b", &["beta-2222"], &["alpha-1111"]),
    ("lbx-env ", &["create", "set", "start", "stop", "repair", "delete"], &["alpha-1111"]),
    ("lbx-env create --n", &["--name", "--net", "--nest", "--null"], &["--ro"]),
    ("lbx-env create --net ", &["shared", "none"], &["alpha-1111"]),
    ("lbx-env delete --", &["--force", "--null", "--on", "--dry-run"], &["--ro"]),
    ("lbx-name ", &[], &["alpha-1111", "file"]),
    ("lbx-name --name ", &[], &["alpha-1111", "file"]),
    ("lbx-ls --state ", &["running", "stopped", "broken"], &[]),
    ("lbx-enter ", &["alpha-1111"], &["file"]),
    ("lbx-enter alpha-1111 -- l", &["lbx-own"], &["alpha-1111"]),
    ("lbx-enter -A --env HOME alpha-1111 -- ls ", &["file"], &["alpha-1111"]),
    ("lbx-enter --env HOM", &["HOME"], &[]),
    ("llima-box ", &["shell", "list", "delete", "delete-all", "help", "name", "env", "enter", "ls", "own"], &["file"]),
    ("llima-box shell ", &["alpha-1111", "beta-2222"], &["file"]),
    ("llima-box shell alpha-1111 -- ls ", &["file"], &["alpha-1111"]),
    ("llima-box env ", &["create", "delete"], &["shell"]),
    ("llima-box env start ", &["alpha-1111", "beta-2222"], &["create"]),
    ("llima-box help ", &["shell", "env"], &["alpha-1111"]),
    ("llima-box delete --on local ", &["alpha-1111"], &[]),
    ("lbx-snap restore alpha-1111 o", &["one", "other"], &["two", "alpha-1111"]),
    ("lbx-snap delete alpha-1111 one ", &["two"], &["alpha-1111", "file"]),
    ("llima-box snap restore --stop 'alpha-1111' ", &["one", "other", "two"], &["alpha-1111"]),
    ("lbx-snap restore beta-2222 ", &[], &["one", "alpha-1111", "file"]),
    ("lbx-snap save alpha-1111 ", &[], &["one", "alpha-1111", "file"]),
];

fn answers_are_right(shell: &str, ask: impl Fn(&Path, &str) -> Vec<String>) {
    for (line, wanted, unwanted) in QUESTIONS {
        let dir = with_environments();
        let answer = ask(dir.path(), line);
        for word in wanted {
            assert!(answer.iter().any(|a| a == word), "{shell}: '{line}' does not offer {word}: {answer:?}");
        }
        for word in unwanted {
            assert!(!answer.iter().any(|a| a == word), "{shell}: '{line}' offers {word}");
        }
    }
    let dir = with_environments();
    let answer = ask(dir.path(), "lbx-env create some");
    assert!(answer.iter().any(|a| a.replace('\\', "").trim_end_matches('/') == "some dir"), "{shell}: {answer:?}");
    let answer = ask(dir.path(), "lbx-env start --on=lima:work b");
    assert!(answer.iter().any(|a| a == "beta-2222"), "{shell}: {answer:?}");
    let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(calls.lines().all(|call| call == "--names --on lima:work"), "{shell}: lbx-ls {calls}");
}

/// `line` in the words that readline makes of it: colons and equals signs are words of their own.
fn readline_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in line.chars() {
        let last = words.last_mut().unwrap();
        let is_break = |word: &str| word.chars().all(|c| c == '=' || c == ':');
        match c {
            ' ' if last.is_empty() => {}
            ' ' => words.push(String::new()),
            _ if last.is_empty() || is_break(last) == matches!(c, '=' | ':') => last.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words
}

#[test]
fn bash_completes_names_and_options_and_starts_nothing() {
    answers_are_right("bash", |dir, line| {
        let words = readline_words(line);
        let script = "
            compopt() { :; }
            . \"$1\"; COMP_LINE=$2; COMP_POINT=${#2}; shift 2; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
            _lbx; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut bash = Command::new("/bin/bash");
        bash.args(["--norc", "-uc", script, "bash"]).arg(repository().join("completions/bash/llima-box")).arg(line);
        bash.args(words).current_dir(dir.join("here")).env_clear().env("PATH", dir).env("HOME", "/");
        let output = bash.output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    });
}

#[test]
fn fish_completes_names_and_options_and_starts_nothing() {
    if installed(&["fish"]) {
        answers_are_right("fish", |dir, line| {
            let mut fish = Command::new("fish");
            fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"]);
            fish.arg(repository().join("completions/fish/llima-box.fish")).arg(line);
            let path = format!("{}:/usr/bin:/bin", dir.display());
            fish.current_dir(dir.join("here")).env_clear().env("PATH", path).env("HOME", dir);
            let output = fish.output().unwrap();
            // it would be shown to whoever presses TAB
            assert!(output.stderr.is_empty(), "'{line}': {}", String::from_utf8_lossy(&output.stderr));
            let answer = String::from_utf8(output.stdout).unwrap();
            answer.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
        });
    }
}

#[test]
fn zsh_reads_its_completion() {
    if installed(&["zsh"]) {
        run(Command::new("zsh").arg("-n").arg(repository().join("completions/zsh/_llima-box")));
    }
}
