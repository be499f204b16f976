//! A whole session of an agent in a repository of thousands of files, from its first edit to what the person
//! takes of it.

use lbx_tests::place::HERE;
use lbx_tests::{Project, installed, near, only_at, tool};

/// A repository with what a machine has lying about: sources, links, programs. git tidies up when it is
/// told to: else it goes on behind the backs of those who look.
const REPOSITORY: &str =
    "mkdir src; cp -a /usr/include src/include; cp -a /usr/share/perl src/perl; cp -a /etc/alternatives src/links
    mkdir src/bin; cp -a /usr/bin/git* src/bin/
    printf 'int main(void) { return 7; }\\n' >src/main.c; printf '*.o\\n' >.gitignore
    find . -type f -path './src/*' | LC_ALL=C sort | awk 'NR % 50 == 3' | xargs -d '\\n' chmod 755
    export HOME=/nonexistent GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_2=gc.auto GIT_CONFIG_VALUE_2=0 GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=P
    export GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=p@example.org
    git init -q . && git add -A && git commit -q -m first && git status --short";
/// What an agent does in a day: edits, makes, deletes, renames, chmods, builds, commits.
const SESSION: &str = "export GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_2=gc.auto GIT_CONFIG_VALUE_2=0 GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=A
    export GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=a@example.org
    git checkout -q -b work
    each() { find src -type f ! -path '* *' | LC_ALL=C sort | awk -v n=$1 'NR % n == 1'; }
    for f in $(each 90); do echo '/* edited */' >>$f; done
    for f in $(each 110); do sed -i 1d $f; done
    for f in $(each 70); do rm $f; done
    for f in $(each 130); do mv $f $f.moved; done
    for f in $(each 150); do chmod 600 $f; done
    for l in $(find src/links -type l | LC_ALL=C sort | awk 'NR % 9 == 0'); do rm $l; ln -s ../main.c $l; done
    mv src/include/linux src/linux; rm -rf src/perl/*/CPAN*; rm -r src/include/asm-generic; mkdir src/include/asm-generic
    echo new >src/include/asm-generic/new.h
    mkdir -p new/deep/er empty; for n in $(seq 200); do echo $n >new/deep/er/$n; done; ln -s deep/er/1 new/link
    git add -A; git commit -q -m 'a day of work'
    if command -v cc >/dev/null; then cc -c -o src/main.o src/main.c; cc -o program src/main.c; fi
    git mv src/main.c src/start.c; git commit -q -m more; git gc -q";
const PICTURE: &str = "{ find . -mindepth 1 ! -type d -printf '%P %y %m %s %l\\n' -o -mindepth 1 -printf '%P %y %m\\n'
    find . -type f -print0 | xargs -0r sha256sum; } | LC_ALL=C sort";
/// Everything about the project, but for when it was read.
const WHOLE: &str =
    "{ find . -printf '%p %y %m %U %G %n %i %s %C@ %T@ %l\\n'; find . -type f -print0 | xargs -0r sha256sum; } |
    LC_ALL=C sort";

/// Pictures of thousands of lines, of which a person sees the first that differ.
fn same(is: &str, was: &str, what: &str) {
    let other = is.lines().zip(was.lines()).find(|(is, was)| is != was);
    assert!(is == was, "{what}: {other:#?}");
}

#[test]
fn a_day_of_work_among_thousands_of_files_is_taken_in_parts_and_as_a_whole() {
    if !only_at(&HERE, "thousands of files take hours in an emulated machine") || !installed(&["git"]) {
        return;
    }
    let project = Project::new();
    let outside = |script: &str| near(&format!("cd '{}'; {script}", project.str()));
    assert_eq!(outside(REPOSITORY), "");
    let count: usize = outside("git ls-files | wc -l").trim().parse().expect("a number");
    assert!(count > 2000, "a repository of {count} files");
    project.create(&["--project", "cow"]);
    let (whole, was) = (outside(WHOLE), outside(PICTURE));
    project.sh(SESSION);
    same(&outside(WHOLE), &whole, "nothing is changed before anybody says so");
    let seen = project.sh(PICTURE);
    let changes = |code| {
        let assert = tool("lbx-diff").arg("--").arg(project.path()).assert().code(code);
        lbx_tests::text(assert).lines().count()
    };
    let all = changes(1);
    same(&outside(WHOLE), &whole, "nor by a look");
    assert!(all > 800, "{all} changes");

    // a part comes out, and exactly that
    let change = |name: &str, paths: &[&str]| {
        tool(name).arg("-y").arg("--").arg(project.path()).args(paths).assert().success().stderr("");
    };
    let parts = ["src/linux", "src/include", "new"];
    let is_part = |line: &str| {
        let path = line.split_once("  ./").map_or(line, |(_, path)| path);
        let path = path.split(' ').next().unwrap_or_default();
        parts.iter().any(|part| path == *part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with('/')))
    };
    let of = |picture: &str, part: bool| -> String {
        picture.lines().filter(|line| is_part(line) == part).flat_map(|line| [line, "\n"]).collect()
    };
    change("lbx-apply", &parts);
    let is = outside(PICTURE);
    same(&of(&is, true), &of(&seen, true), "the part is not what it is inside");
    same(&of(&is, false), &of(&was, false), "more than the part came out");
    same(&project.sh(PICTURE), &seen, "the inside has lost something");

    // what is discarded leaves nothing, inside or outside
    let whole = outside(WHOLE);
    project.must("stop");
    change("lbx-discard", &["src/perl", "src/links"]);
    same(&outside(WHOLE), &whole, "what is discarded is not the project's");
    let part = |script: &str| format!("cd src/perl; {script}; cd ../links; {script}");
    same(&project.sh(&part(PICTURE)), &outside(&part(PICTURE)), "something is left of what was discarded");

    // the rest, bit for bit
    let seen = project.sh(PICTURE);
    change("lbx-apply", &[]);
    same(&outside(PICTURE), &seen, "the whole is not what it is inside");
    assert_eq!(changes(0), 0);
    outside("git fsck --strict --no-progress; [ \"$(git log --format=%an | sort | uniq -c | xargs)\" = '2 A 1 P' ]");
    let git = "git status --short | LC_ALL=C sort";
    assert_eq!(outside(git), project.sh(git), "git sees the same on both sides");
    eprintln!("{count} files, {all} changes");
}
