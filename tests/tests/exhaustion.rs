//! One environment takes all that it can get: the others, the machine and the tools go on, and stop and
//! delete end it in the middle of that.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::time::Duration;

use lbx_tests::machine::{read, traces};
use lbx_tests::{
    Command, Place, Project, eventually, host, installed, only_at, place, scaled, std_command, tool, tool_file,
};
use predicates::str::contains;

/// No tool takes longer while an environment is exhausted.
const SOON: Duration = Duration::from_secs(10);
/// How long it may take until all is taken.
const PATIENCE: Duration = Duration::from_secs(60);

const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Who takes all memory is alone with it.
static MEMORY: RwLock<()> = RwLock::new(());

fn beside() -> RwLockReadGuard<'static, ()> {
    MEMORY.read().unwrap_or_else(PoisonError::into_inner)
}

fn soon(mut command: Command) -> Command {
    command.timeout(scaled(SOON));
    command
}

/// A program in an environment that takes what it can get, says how much, and keeps it.
struct Hog(Child);

impl Hog {
    /// Runs `perl` inside, until it has said what there is to say.
    fn of(project: &Project, perl: &str) -> (Hog, u64) {
        let mut enter = std_command(tool_file("lbx-enter"));
        enter.arg(project.path()).args(["--", "perl", "-e", &format!("$| = 1; {perl}")]);
        let mut child = enter.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let hog = Hog(child);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let line = told.recv_timeout(scaled(PATIENCE)).expect("it has taken all that it gets");
        (hog, line.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `perl` in one environment, and while it holds what it has taken, `check` with that environment,
/// its neighbour and what it said; sees the tools go on; then stops the environment, and the next time
/// deletes it, in the middle of it.
fn is_withstood(perl: &str, check: impl Fn(&Project, &Project, u64)) {
    if !installed(&["perl"]) {
        return;
    }
    let _beside = beside();
    let sibling = Project::named("sibling");
    sibling.create(&[]);
    sibling.sh("echo kept >/tmp/kept");
    let hogged = Project::named("hog");
    for verb in ["stop", "delete"] {
        let name = hogged.create(&[]);
        let (hog, taken) = Hog::of(&hogged, perl);
        check(&hogged, &sibling, taken);
        soon(sibling.enter(["sh", "-c", "cat /tmp/kept; echo more >/tmp/more"])).assert().success().stdout("kept\n");
        soon(tool("lbx-ls")).args(["--names", "--state", "running"]).assert().success().stdout(contains(&*name));
        let fresh = Project::named("fresh");
        soon(fresh.env_tool("create")).arg(fresh.path()).assert().success();
        soon(fresh.enter(["true"])).assert().success();
        soon(hogged.env_tool(verb)).arg(hogged.path()).assert().success();
        drop(hog);
        soon(sibling.enter(["cat", "/tmp/kept"])).assert().success();
        if verb == "delete" {
            assert_eq!(traces(&name), [""; 0]);
        } else {
            assert_eq!(hogged.sh("echo fine again"), "fine again\n");
        }
    }
}

#[test]
fn processes_that_are_replaced_as_they_end_are_withstood() {
    // as many as there may be, of which ever some end and are forked again
    let bomb = "$SIG{CHLD} = 'IGNORE'; my ($n, $said) = (0, 0); while ($n < 10000) { my $p = fork; \
                if (!defined $p) { print \"$n\\n\" unless $said++; select undef, undef, undef, 0.02; next } \
                if (!$p) { close STDOUT; sleep($said ? 1 : 1000); exit } $n++ } print \"$n\\n\"; sleep 1000";
    is_withstood(bomb, |hogged, _, taken| {
        assert!((1..10_000).contains(&taken), "{taken} processes");
        // no room for another, or none to execute in: that is said, or for a moment there is
        let entered = soon(hogged.enter(["true"])).output().unwrap();
        assert!(matches!(entered.status.code(), Some(0 | 125 | 126)), "{entered:?}");
    });
}

/// Makes what is private of `project`, which is running, as small as this: a test fills it soon.
fn shrink(project: &Project, options: &str) {
    let name = project.name();
    host(&format!(
        "for status in /proc/[0-9]*/status; do pid=${{status%/status}}; pid=${{pid#/proc/}}; \
         if grep -qx 'Name:\tlbx-holder' $status 2>/dev/null && \
            [ \"$(nsenter -t $pid -u hostname)\" = {name} ]; then \
            nsenter -t $pid -m mount -o remount,{options} /tmp; exit 0; fi; done; exit 1"
    ));
}

/// Fails where what is private of `project` may become larger than it says.
fn require_bounds(project: &Project) {
    let said = project.sh("stat -f -c '%c %b %S' /tmp; sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo");
    let numbers: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [inodes, blocks, size, memory] = numbers[..] else { panic!("{said}") };
    assert_eq!(inodes, 1_000_000);
    // without a bound of its own it were half of memory
    assert!(blocks * size / 1024 <= memory / 3, "{said}");
}

/// `/tmp` filled by `fill`, at `options` of the most that it may be.
fn is_bounded(options: &str, fill: &str) {
    if !installed(&["perl", "nsenter"]) {
        return;
    }
    let _beside = beside();
    let machine = || host("stat -f -c '%T %S' /tmp; df --output=target /tmp");
    let before = machine();
    let wait = format!("until (-e '/tmp/shrunk') {{ select undef, undef, undef, 0.02 }} {fill} sleep 1000");
    let first = Project::named("first");
    first.create(&[]);
    assert_ne!(first.sh("stat -c %d /tmp"), host("stat -c %d /tmp"), "it is the machine's");
    require_bounds(&first);
    let hogged = first;
    let sibling = Project::named("sibling");
    sibling.create(&[]);
    sibling.must("start");
    for verb in ["stop", "delete"] {
        let name = hogged.create(&[]);
        hogged.must("start");
        shrink(&hogged, options);
        hogged.sh("touch /tmp/shrunk");
        let (hog, taken) = Hog::of(&hogged, &wait);
        assert!(taken > 0);
        for dir in ["/tmp", "/var/tmp", "/dev/shm", "/run/lbx"] {
            hogged
                .enter(["sh", "-c", &format!("mkdir {dir}/more && head -c 100000 /dev/zero >{dir}/more/f")])
                .assert()
                .failure();
        }
        // it is entered all the same, and its files on disk are written
        soon(hogged.enter(["sh", "-c", "echo x >~/f; echo x >f"])).assert().success();
        soon(sibling.enter(["sh", "-c", "mkdir -p /tmp/d && echo more >/tmp/d/more"])).assert().success();
        host("f=$(mktemp /tmp/lbx-test.XXXXXX); echo more >$f; rm $f");
        soon(tool("lbx-ls")).assert().success().stdout(contains(&*name));
        soon(hogged.env_tool(verb)).arg(hogged.path()).assert().success();
        drop(hog);
    }
    assert_eq!(machine(), before);
}

#[test]
fn a_full_tmp_is_its_environments_alone() {
    is_bounded(
        "size=24m",
        "open my $f, '>', '/tmp/f' or die; my $n = 0; $n++ while syswrite $f, 'x' x 65536; print \"$n\\n\";",
    );
}

#[test]
fn inodes_run_out_for_their_environment_alone() {
    is_bounded(
        "nr_inodes=3000",
        "my $n = 0; $n++ while open my $f, '>', \"/tmp/f$n\" and $n < 100000; print \"$n\\n\";",
    );
}

#[test]
fn hoarded_descriptors_and_pipes_are_withstood() {
    // eight processes, each with as many files as it may have, and pipes that are full
    let hoard = "my @kept; pipe my $from, my $to; for (1 .. 8) { next if fork; my $n = 0; my @own; \
                 for (1 .. 500) { pipe my $r, my $w or last; $w->blocking(0); 1 while syswrite $w, 'x' x 4096; push @own, $r, $w } \
                 while (@own < 30000 and open my $f, '<', '/dev/null') { push @own, $f } syswrite $to, scalar(@own) . \"\\n\"; sleep 1000 } \
                 my $all = 0; for (1 .. 8) { $all += <$from> } print \"$all\\n\"; sleep 1000";
    is_withstood(&format!("use IO::Handle; {hoard}"), |hogged, sibling, taken| {
        assert!(taken > 1000, "{taken} descriptors");
        // who has too many gets small ones from the kernel (pipe(7)), by uid: fcntl(2), F_GETPIPE_SZ
        let capacity = "pipe my $r, my $w or die; print fcntl($r, 1032, 0)";
        let usual = if sibling.shares_uid() { "8192".to_owned() } else { host(&format!("perl -e '{capacity}'")) };
        soon(sibling.enter(["perl", "-e", capacity])).assert().success().stdout(usual);
        for script in ["seq 20000 | tail -n 1", "exec 5<>/dev/null 6<>/dev/null; seq 20000 | tail -n 1"] {
            assert_eq!(sibling.sh(script), "20000\n");
            assert_eq!(host(script), "20000\n");
        }
        soon(hogged.enter(["true"])).assert().success();
    });
}

#[test]
fn terminals_run_out_for_their_environment_alone() {
    let open = "my @kept; while (@kept < 1000 and open my $f, '+<', '/dev/ptmx') { push @kept, $f } \
                print scalar(@kept) . \"\\n\";";
    is_withstood(&format!("{open} sleep 1000"), |hogged, sibling, taken| {
        assert!((1..=256).contains(&taken), "{taken} terminals");
        let one = ["perl", "-e", "open my $f, '+<', '/dev/ptmx' or die 'none'"];
        hogged.enter(one).assert().failure();
        soon(sibling.enter(one)).assert().success();
        host("perl -e \"open my \\$f, '+<', '/dev/ptmx' or die 'none'\"");
    });
}

/// A core pattern that runs a program, in a VM of the suite's, until it is dropped.
struct Pattern(String);

impl Pattern {
    const MARK: &str = "/run/lbx-test-core";

    fn new() -> Pattern {
        let before = read("/proc/sys/kernel/core_pattern");
        host(&format!("echo '|/usr/bin/touch {}' >/proc/sys/kernel/core_pattern", Pattern::MARK));
        Pattern(before.trim_end().to_owned())
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        host(&format!("echo '{}' >/proc/sys/kernel/core_pattern; rm -f {}", self.0, Pattern::MARK));
    }
}

#[test]
fn a_crash_writes_no_core_and_runs_no_handler() {
    if !installed(&["perl"]) {
        return;
    }
    let _beside = beside();
    // the pattern of this machine is not the suite's to change
    let pattern = (place() == Place::Lima).then(Pattern::new);
    let project = Project::new();
    project.create(&[]);
    // the caller's own limit lets anything through
    let script = "ulimit -c unlimited 2>/dev/null; exec \"$@\"";
    let mut enter = lbx_tests::command("sh");
    enter.args(["-c", script, "sh"]).arg(tool_file("lbx-enter")).arg(project.path());
    // bit 7 of a status: a core was dumped (wait(2))
    let crash = "for my $how ('', 'ulimit -c unlimited;', 'ulimit -S -c 1;') { \
                 system 'sh', '-c', \"$how kill -SEGV \\$\\$\"; print $? & 128, ' ', $? & 127, \"\\n\" }";
    enter.args(["--", "perl", "-e", crash]).assert().success().stdout("0 11\n0 11\n0 11\n");
    assert_eq!(project.sh("ls -A; ls -A /tmp ~ | grep -i core || :"), "");
    if pattern.is_some() {
        assert_eq!(host(&format!("ls {} 2>/dev/null || :", Pattern::MARK)), "", "the handler ran");
        // that it would have run is seen outside
        host("sh -c 'ulimit -c unlimited; kill -SEGV $$' || :");
        eventually("the handler runs", || !host(&format!("ls {} 2>/dev/null || :", Pattern::MARK)).is_empty());
    }
}

#[test]
fn what_runs_inside_goes_first_where_memory_runs_out() {
    let project = Project::new();
    project.create(&[]);
    assert_eq!(project.sh("cat /proc/self/oom_score_adj"), "500\n");
    // root without this capability, as in some containers, cannot forbid it
    let rights = host("sed -n 's/^CapEff:\t//p' /proc/self/status");
    if u64::from_str_radix(rights.trim(), 16).unwrap() & CAP_SYS_RESOURCE != 0 {
        project.enter(["sh", "-c", "echo 499 >/proc/self/oom_score_adj"]).assert().failure();
    }
    project.sh("echo 501 >/proc/self/oom_score_adj");
}

#[test]
fn memory_that_is_not_there_ends_who_takes_it() {
    if !only_at(&[Place::Lima], "the memory of this machine is others' as well") || !installed(&["perl"]) {
        return;
    }
    let _alone = MEMORY.write().unwrap_or_else(PoisonError::into_inner);
    let (hogged, sibling) = (Project::named("hog"), Project::named("sibling"));
    for project in [&hogged, &sibling] {
        project.create(&[]);
        // in the background: to be there afterwards
        project.sh("setsid sleep 100000 >/dev/null 2>&1 & echo $! >~/pid");
    }
    // all of it, in pieces that are written to; nobody keeps a program from asking for more than there is
    let mut hog = hogged.enter(["perl", "-e", "my @kept; push @kept, 'x' x (8 << 20) while 1"]);
    let ended = hog.timeout(scaled(PATIENCE * 2)).output().unwrap();
    assert!(!ended.status.success(), "{ended:?}");
    assert!(ended.status.code().is_some(), "not by its limit of time: {ended:?}");
    for project in [&sibling, &hogged] {
        soon(project.enter(["true"])).assert().success();
        assert_eq!(project.state(), "running");
    }
    assert_eq!(sibling.sh("kill -0 $(cat ~/pid) && echo alive"), "alive\n");
    assert_eq!(host("true | cat; echo fine"), "fine\n");

    // in the middle of it: much is taken, and given back
    let half = "my $kb = 0; open my $f, '<', '/proc/meminfo'; while (<$f>) { $kb = $1 if /^MemAvailable: *(\\d+)/ } \
                my @kept; push @kept, 'x' x (1 << 20) for 1 .. $kb / 2048; print scalar(@kept) . \"\\n\"; sleep 1000";
    for verb in ["stop", "delete"] {
        let (hog, taken) = Hog::of(&hogged, half);
        assert!(taken > 100, "{taken} MiB");
        soon(sibling.enter(["true"])).assert().success();
        soon(hogged.env_tool(verb)).arg(hogged.path()).assert().success();
        drop(hog);
    }
    assert_eq!(traces(&hogged.name()), [""; 0]);
}
