//! Programs that people and their agents work with do their work inside; with `--nest`, so do
//! those that make sandboxes of their own.

use std::path::Path;

use lbx_tests::{Place, Project, errors, installed, only_at, script, skip};
use predicates::str::contains;

/// Whether these tests run here.
fn is_here() -> bool {
    only_at(&[Place::Local], "an environment has the same filter everywhere, and the VM has few programs")
}

/// A project for a test that needs `programs`, where it can run.
fn project_for(programs: &[&str], options: &[&str]) -> Option<Project> {
    if !is_here() || !installed(programs) {
        return None;
    }
    let project = Project::new();
    project.create(options);
    Some(project)
}

/// Runs `script` inside, which must succeed. Returns the last line that it printed.
fn last_line(project: &Project, script: &str) -> String {
    project.sh(script).lines().last().unwrap_or_default().to_owned()
}

// ---- version control and ssh --------------------------------------------------------------------

#[test]
fn git_commits_clones_and_packs() {
    let Some(project) = project_for(&["git"], &[]) else { return };
    project.sh("git config --global user.name Agent; git config --global user.email agent@example.com");
    let log = project.sh(
        "git init -q origin; cd origin; for n in 1 2 3; do echo $n >file; git add file; git commit -qm \"commit $n\"; done; \
         git gc -q; git fsck; cd ..; git clone -q origin clone; cd clone; git switch -qc topic; echo 4 >file; \
         git commit -qam 'commit 4'; git push -q origin topic; git -C ../origin log --format=%s topic",
    );
    assert_eq!(log, "commit 4\ncommit 3\ncommit 2\ncommit 1\n");
    assert!(project.path().join("origin/.git/packed-refs").is_file());
}

#[test]
fn ssh_makes_keys_keeps_them_in_an_agent_and_looks_for_a_host() {
    let Some(project) = project_for(&["ssh", "ssh-agent", "ssh-keygen"], &[]) else { return };
    let told = project.sh(
        "ssh -V 2>&1; ssh-keygen -q -t ed25519 -N '' -C made-inside -f ~/key; eval $(ssh-agent) >/dev/null; \
         ssh-add -q ~/key; ssh-add -L | ssh-keygen -lf -; ssh-add -L >key.pub; echo text >text; \
         ssh-keygen -q -Y sign -n file -f key.pub text; ssh-keygen -q -Y check-novalidate -n file -s text.sig <text; \
         ssh-agent -k >/dev/null",
    );
    assert!(told.starts_with("OpenSSH") && told.contains("made-inside (ED25519)"), "{told}");
    // nobody listens there
    let words = ["ssh", "-o", "BatchMode=yes", "-p", "1", "127.0.0.1"];
    project.enter(words).assert().code(255).stderr(contains("Connection refused"));
}

// ---- compilers ----------------------------------------------------------------------------------

#[test]
fn cargo_builds_and_tests_a_crate_with_a_build_script() {
    if !is_here() {
        return;
    }
    // the toolchain that has built this test
    let Some(toolchain) = Path::new(env!("CARGO")).ancestors().nth(2) else { return };
    if !toolchain.join("bin/rustc").is_file() {
        skip("there is no toolchain of Rust in one directory");
        return;
    }
    let toolchain = toolchain.to_str().expect("a path of UTF-8");
    let Some(project) = project_for(&["cc"], &["--ro", toolchain]) else { return };
    project.write("Cargo.toml", "[package]\nname = 'seven'\nversion = '0.1.0'\nedition = '2021'\n");
    project.write("build.rs", "fn main() { println!(\"cargo:rustc-env=SEVEN=7\") }");
    project.write(
        "src/main.rs",
        "fn main() { println!(\"built {}\", env!(\"SEVEN\")) }\n#[test] fn it_is_seven() { assert_eq!(env!(\"SEVEN\"), \"7\") }\n",
    );
    let told = project.sh(&format!(
        "export PATH={toolchain}/bin:$PATH RUSTFLAGS=-Cdebuginfo=0; cargo test --offline 2>&1; cargo run -q --offline"
    ));
    assert!(told.contains("it_is_seven ... ok") && told.ends_with("built 7\n"), "{told}");
    project.enter(["touch", &format!("{toolchain}/bin/planted")]).assert().failure();
}

#[test]
fn go_builds_and_tests_a_module() {
    let go = if Path::new("/usr/local/go/bin/go").is_file() { "/usr/local/go/bin/go" } else { "go" };
    let Some(project) = project_for(if go == "go" { &["go"] } else { &[] }, &[]) else { return };
    project.write("go.mod", "module example.org/seven\n\ngo 1.18\n");
    project.write(
        "main.go",
        "package main\n\nfunc Seven() int { return 7 }\n\nfunc main() { println(\"built\", Seven()) }\n",
    );
    project.write(
        "main_test.go",
        "package main\n\nimport \"testing\"\n\nfunc TestSeven(t *testing.T) {\n\tif Seven() != 7 {\n\t\tt.Fatal()\n\t}\n}\n",
    );
    let told = project.sh(&format!(
        "export CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=off; {go} build -o seven; ./seven 2>&1; {go} test -vet=off"
    ));
    assert!(told.starts_with("built 7\nPASS\n"), "{told}");
}

#[test]
fn make_runs_several_compilers_at_once() {
    let Some(project) = project_for(&["make", "cc"], &[]) else { return };
    for n in 1..=8 {
        project.write(&format!("f{n}.c"), &format!("int f{n}(void) {{ return {n}; }}\n"));
    }
    project.write("main.c", "#include <stdio.h>\nint f8(void);\nint main(void) { printf(\"built %d\\n\", f8()); }\n");
    project.write("Makefile", "program: $(patsubst %.c,%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^\n");
    assert_eq!(last_line(&project, "make -j4; ./program"), "built 8");
}

#[test]
fn gdb_stops_its_child_at_a_breakpoint_and_attaches_to_nothing_else() {
    let Some(project) = project_for(&["gdb", "cc"], &[]) else { return };
    project.write(
        "program.c",
        "#include <stdio.h>\nint seven(int n) { return n; }\nint main(void) { printf(\"printed %d\\n\", seven(7)); }\n",
    );
    let told = project.sh("cc -g -O0 -o program program.c; \
         gdb -nx -batch -ex 'break seven' -ex run -ex backtrace -ex 'set var n = 8' -ex continue ./program 2>&1");
    for line in ["#0  seven (n=7) at program.c:2", "in main () at program.c:3", "printed 8", "exited normally"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let first = project.enter(["sh", "-c", "gdb -nx -batch -p 1 2>&1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&first.stdout).contains("Operation not permitted"), "{first:?}");
}

#[test]
fn a_jvm_compiles_and_runs_threads() {
    // Eclipse's compiler is a tenth of the other, and runs on a JVM as well
    let (compiler, options) =
        if Path::new("/usr/bin/javac").exists() { ("javac", "") } else { ("ecj", "-proc:none -11") };
    let Some(project) = project_for(&["java", compiler], &[]) else { return };
    project.write(
        "Program.java",
        "import java.util.concurrent.*;\n\
         public class Program { public static void main(String[] a) throws Exception {\n\
         ExecutorService pool = Executors.newFixedThreadPool(4);\n\
         java.util.List<Future<Integer>> sums = new java.util.ArrayList<>();\n\
         for (int i = 0; i < 8; i++) { final int n = i; sums.add(pool.submit(() -> n * n)); }\n\
         int sum = 0; for (Future<Integer> f : sums) sum += f.get();\n\
         pool.shutdown(); System.gc(); System.out.println(\"sum \" + sum);\n} }\n",
    );
    assert_eq!(last_line(&project, &format!("{compiler} {options} Program.java; java Program")), "sum 140");
}

// ---- interpreters -------------------------------------------------------------------------------

#[test]
fn python_makes_a_venv_and_pip_installs_into_it() {
    let Some(project) = project_for(&["python3"], &[]) else { return };
    if project.enter(["python3", "-c", "import ensurepip"]).output().is_ok_and(|o| !o.status.success()) {
        skip("not installed: Python's venv");
        return;
    }
    project.write("package/seven/__init__.py", "def seven(): return 7\n");
    // a build backend of its own: what Debian brings differs from release to release
    project.write(
        "package/pyproject.toml",
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n[project]\nname = 'seven'\nversion = '1'\n",
    );
    project.write(
        "package/backend.py",
        "import zipfile\n\
         def build_wheel(to, settings=None, metadata=None):\n\
         \x20   info, name = 'seven-1.dist-info/', 'seven-1-py3-none-any.whl'\n\
         \x20   with zipfile.ZipFile(to + '/' + name, 'w') as wheel:\n\
         \x20       wheel.write('seven/__init__.py')\n\
         \x20       wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: seven\\nVersion: 1\\n')\n\
         \x20       wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         \x20       wheel.writestr(info + 'RECORD', '')\n\
         \x20   return name\n",
    );
    let told = last_line(
        &project,
        "python3 -m venv venv; venv/bin/pip install -q --disable-pip-version-check --no-index ./package >&2; \
         venv/bin/python -c 'import multiprocessing as m, seven; print(sum(m.Pool(2).map(abs, [seven.seven(), -7])))'",
    );
    assert_eq!(told, "14");
}

#[test]
fn node_has_worker_threads_child_processes_and_a_server() {
    let Some(project) = project_for(&["node"], &[]) else { return };
    project.write(
        "program.js",
        "const { Worker, isMainThread, parentPort } = require('worker_threads');\n\
         if (!isMainThread) { parentPort.postMessage('worker'); return; }\n\
         const child = require('child_process').execFileSync(process.execPath, ['-p', '\"child\"']).toString().trim();\n\
         new Worker(__filename).on('message', worker => {\n\
         const server = require('http').createServer((_, answer) => answer.end('served'));\n\
         server.listen(0, '127.0.0.1', () => require('http').get({ port: server.address().port, agent: false }, got => {\n\
         got.on('data', data => console.log(worker, child, data.toString())); got.on('end', () => server.close());\n\
         })); });\n",
    );
    assert_eq!(last_line(&project, "node program.js"), "worker child served");
}

#[test]
fn npm_packs_installs_and_runs_scripts() {
    let Some(project) = project_for(&["node", "npm"], &[]) else { return };
    project
        .write("seven/package.json", r#"{"name": "seven", "version": "1.0.0", "main": "index.js", "bin": "index.js"}"#);
    script("#!/usr/bin/env node\nconsole.log('installed', 7)\n", project.path().join("seven/index.js"));
    project.write("package.json", r#"{"name": "app", "version": "1.0.0", "scripts": {"test": "seven"}}"#);
    let told = last_line(
        &project,
        "export npm_config_offline=true npm_config_update_notifier=false; npm pack --silent ./seven >&2; \
         npm install --no-audit --no-fund ./seven-1.0.0.tgz >&2; npm test --silent",
    );
    assert_eq!(told, "installed 7");
}

// ---- terminals ----------------------------------------------------------------------------------

#[test]
fn tmux_runs_a_shell_in_a_session() {
    let Some(project) = project_for(&["tmux"], &[]) else { return };
    // the shell takes the quotation marks away: what is waited for is not what was typed
    project.sh("trap 'tmux kill-server' EXIT; tmux new-session -d -s work -x 80 -y 24 sh; \
         tmux send-keys -t work 'echo; echo ty\"\"ped; tty' Enter; \
         timeout 30 sh -c 'until tmux capture-pane -p -t work | grep -x typed; do sleep 0.1; done'; \
         timeout 30 sh -c 'until tmux capture-pane -p -t work | grep -x \"/dev/pts/[0-9]*\"; do sleep 0.1; done'");
}

#[test]
fn vim_edits_a_file() {
    let Some(project) = project_for(&["vim"], &[]) else { return };
    project.write("file", "one\ntwo\n");
    project.sh("vim -u NONE -n -es -c '%s/two/three/' -c '1!echo from a shell' -c wq file");
    assert_eq!(project.read("file"), "from a shell\nthree\n");
}

// ---- sandboxes of their own ---------------------------------------------------------------------

#[test]
fn bwrap_keeps_a_command_from_what_the_environment_has() {
    let Some(project) = project_for(&["bwrap"], &["--nest"]) else { return };
    project.write(
        "bwrap.sh",
        "exec bwrap --unshare-all --die-with-parent --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp \"$@\"\n",
    );
    project.write("file", "untouched\n");
    let told = project.sh(
        "echo outside >/tmp/file; sleep 60 >/dev/null & trap \"kill $!\" EXIT; \
         cat /proc/[0-9]*/comm | grep -x sleep; sh bwrap.sh --hostname nested sh -c \
         'ls /tmp; cat /proc/[0-9]*/comm | grep -x sleep; cat /proc/1/comm; hostname; grep -c : /proc/net/dev; cat file; \
          (echo >file) 2>/dev/null || echo refused'",
    );
    assert_eq!(told, "sleep\nbwrap\nnested\n1\nuntouched\nrefused\n");
    // namespaces are given up, and nothing else: nothing of root's is this one's
    let words = ["sh", "bwrap.sh", "--uid", "0", "--gid", "0", "sh", "-c", "id -u; cat /etc/shadow"];
    project.enter(words).assert().failure().stdout("0\n");

    let plain = Project::new();
    plain.create(&[]);
    plain.enter(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]).assert().failure();
}

#[test]
fn chromium_runs_in_its_own_sandbox() {
    let page = "<p>begin</p><script>document.write('<p>' + 6 * 7 + '</p>')</script>";
    let browse = "timeout 60 chromium --headless=new --disable-gpu --dump-dom \"file://$PWD/page.html\"";
    let Some(project) = project_for(&["chromium"], &["--nest"]) else { return };
    project.write("page.html", page);
    assert!(project.sh(browse).contains("<p>42</p>"));

    // it would not have run without one
    let plain = Project::new();
    plain.create(&[]);
    plain.write("page.html", page);
    let refused = plain.enter(["sh", "-c", browse]).assert().failure().stdout("");
    assert!(errors(refused).contains("No usable sandbox"));
}
