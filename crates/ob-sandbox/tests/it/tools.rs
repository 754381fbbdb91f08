//! Programs that agents use, for real, in the full cage: what is denied must not be in their way.

use std::path::PathBuf;

use crate::world::World;

/// Where a toolchain of this machine's Rust is, outside and inside: what built this test.
fn rust() -> (PathBuf, &'static str) {
    let output = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc");
    (PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()), "/opt/rust")
}

#[tokio::test]
async fn a_crate_is_built_and_its_tests_run() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("cargo");
    let (outside, inside) = rust();
    spec.read_only_at = vec![(outside, inside.to_owned())];
    spec.env = vec![("CARGO_NET_OFFLINE".into(), "true".into())];
    let script = r#"
        set -e
        PATH=/opt/rust/bin:$PATH
        cd /workspace && mkdir -p one/src && cd one
        printf '[package]\nname = "one"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
        printf 'fn main() { println!("cargo::rustc-env=BUILT={}", std::process::id()); }\n' > build.rs
        cat > src/lib.rs <<'END'
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
#[test]
fn threads_sockets_processes_and_files_work() {
    assert!(!env!("BUILT").is_empty());
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
    let mut said = String::new();
    TcpStream::connect(("localhost", port)).unwrap().read_to_string(&mut said).unwrap();
    served.join().unwrap();
    assert_eq!(said, "hello");
    UnixStream::pair().unwrap();
    assert!(std::process::Command::new("true").status().unwrap().success());
    let folder = std::env::temp_dir().join("made");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "x").unwrap();
    std::fs::rename(folder.join("a"), std::env::temp_dir().join("b")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}
END
        cargo test --offline --quiet && echo BUILT
    "#;
    let said = world.inside_of(&spec, script).await;
    assert!(said.contains("1 passed") && said.contains("BUILT"), "{said}");
}

#[tokio::test]
async fn a_repository_is_worked_in_and_a_program_compiled() {
    let Some(world) = World::new() else { return };
    let script = r#"
        set -e
        cd /workspace && mkdir c && cd c
        git init -q . && git config user.email a@b && git config user.name a
        printf '#include <stdio.h>\n#include <pthread.h>\nstatic void *f(void *p) { return p; }\nint main(void) { pthread_t t; if (pthread_create(&t, 0, f, 0) || pthread_join(t, 0)) return 1; puts("ran"); return 0; }\n' > a.c
        git add a.c && git commit -qm one && git gc -q && git stash -q list && git clone -q . ../d
        gcc -O1 -o a a.c -pthread && ./a && cc -c a.c && ar rc lib.a a.o && echo COMPILED
        tar cf x.tar a.c && tar xf x.tar && gzip -k a.c && echo PACKED
    "#;
    let said = world.inside(script).await;
    assert!(said.contains("ran") && said.contains("COMPILED") && said.contains("PACKED"), "{said}");
}

#[tokio::test]
async fn interpreters_and_their_test_runners_work() {
    let Some(world) = World::new() else { return };
    // Those that this machine has where a sandbox sees them.
    let script = r#"
        cd /workspace
        for program in perl python3 node npm; do
            command -v $program > /dev/null || { echo "no $program"; continue; }
            case $program in
            perl) perl -MSocket -e 'socket(my $s, PF_INET, SOCK_STREAM, 6) or die; print "perl ok\n"' ;;
            python3) python3 -c '
import multiprocessing, socket, subprocess, tempfile, unittest
def double(x): return 2 * x
class One(unittest.TestCase):
    def test_pool(self):
        with multiprocessing.Pool(2) as pool: self.assertEqual(pool.map(double, [1, 2]), [2, 4])
    def test_rest(self):
        socket.getaddrinfo("localhost", 80); subprocess.check_call(["true"]); tempfile.TemporaryFile()
unittest.main(argv=["x"], exit=False)
' 2>&1 | grep -q '^OK' && echo "python3 ok" ;;
            node) printf 'const test = require("node:test"); const assert = require("node:assert"); const { Worker } = require("worker_threads"); const os = require("os");
test("works", async () => { os.networkInterfaces(); await new Promise((done) => new Worker("1", { eval: true }).on("exit", done)); assert.ok(1); });' > a.test.js
                  node --test a.test.js | grep -q 'pass 1' && echo "node ok" ;;
            npm) printf '{"name":"one","version":"1.0.0","scripts":{"test":"node -e 1"}}' > package.json
                 npm test --silent > /dev/null && echo "npm ok" ;;
            esac
        done
    "#;
    let said = world.inside(script).await;
    for program in ["perl", "python3", "node", "npm"] {
        assert!(
            said.contains(&format!("{program} ok")) || said.contains(&format!("no {program}\n")),
            "{program}: {said}"
        );
    }
}
