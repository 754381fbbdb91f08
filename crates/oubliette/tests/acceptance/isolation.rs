//! What a session's sandbox cannot do, through the whole program, each with a positive control: the same thing done where
//! it is allowed. The backend's own tests try more.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;

/// A session in which commands can be run, one for each message.
pub(crate) struct Inside<'a> {
    home: &'a Home,
    model: &'a ModelServer,
    pub(crate) session: String,
    marks: std::cell::Cell<usize>,
}

impl<'a> Inside<'a> {
    pub(crate) fn new(home: &'a Home, model: &'a ModelServer, source: &Path) -> Self {
        model.push(Answer::text("Ready."));
        let session = home.spawn(source, "Get ready.");
        until("the session to be ready", || home.state(&session) == "idle");
        Self { home, model, session, marks: std::cell::Cell::new(0) }
    }

    /// Runs a command in the sandbox, as the agent would; what it printed, with its exit code.
    pub(crate) fn sh(&self, command: &str) -> String {
        let mark = self.marks.get() + 1;
        self.marks.set(mark);
        self.model.push(Answer::tool(
            "run",
            json!({ "command": format!("{command}\necho end-$((1000 + {mark}))") }),
        ));
        self.model.push(Answer::text("Done."));
        self.home.ok(["session", "message", &self.session, "Run it."]);
        let end = format!("end-{}", 1000 + mark);
        let mut said = String::new();
        until("the command to end", || {
            let results = self.home.events(&self.session);
            let result = results
                .iter()
                .find(|event| event["type"] == "tool_result" && event.to_string().contains(&end));
            if let Some(result) = result {
                said = result.to_string();
            }
            result.is_some()
        });
        until("the turn to end", || self.home.state(&self.session) == "idle");
        said
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        let view = self.home.json(&["session", "get", &self.session]);
        let (project, workspace) =
            (view["project_id"].as_str().unwrap(), view["workspace_id"].as_str().unwrap());
        self.home.root().join("data/projects").join(project).join("workspaces").join(workspace)
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t0\t")
}

pub(crate) fn home_with(model: &ModelServer) -> (Home, PathBuf) {
    let home = Home::new(model);
    home.start();
    let source = home.repository("thing", &[("a.txt", "one\n")]);
    (home, source)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setuid_file_made_in_the_workspace_gives_no_one_root_outside() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let (home, source) = home_with(&model);
        let inside = Inside::new(&home, &model, &source);
        inside.sh("cp /usr/bin/id thief; chmod 4755 thief; chmod 6755 thief; install -m 4755 /usr/bin/id other; ls -l");

        let thief = inside.workspace().join("thief");
        let meta = thief.metadata().expect("the positive control: the file itself was made");
        assert_eq!(meta.mode() & 0o6000, 0, "no set-id bit: {:o}", meta.mode());
        assert_ne!(meta.uid(), 0, "nothing inside is owned by root outside");
        if is_root() {
            // As the attack would go on: somebody without rights runs it.
            let output = Command::new("setpriv")
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .arg(&thief)
                .output()
                .unwrap();
            assert!(!String::from_utf8_lossy(&output.stdout).contains("euid=0"));
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_network_but_the_gate() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let (home, source) = home_with(&model);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answerer = std::thread::spawn(move || {
            // The positive control's connection, and any that should not come.
            let mut count = 0;
            for stream in listener.incoming().take(1) {
                let mut byte = [0];
                count += stream.unwrap().read(&mut byte).unwrap();
            }
            (count, listener.set_nonblocking(true).is_ok() && listener.accept().is_ok())
        });
        let inside = Inside::new(&home, &model, &source);
        let dial = format!("(echo x > /dev/tcp/127.0.0.1/{port}) 2>&1 && echo got-out || echo held");
        let said = inside.sh(&format!("bash -c '{dial}'; ls /sys/class/net 2>/dev/null; cat /proc/net/dev"));
        assert!(said.contains("held") && !said.contains("got-out"), "{said}");
        assert!(!said.contains("eth0"), "{said}");

        let control = Command::new("bash").args(["-c", &dial]).output().unwrap();
        assert!(String::from_utf8_lossy(&control.stdout).contains("got-out"), "the positive control");
        assert_eq!(answerer.join().unwrap(), (1, false), "only the control came");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_secrets_and_processes_of_the_host_are_not_there() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        home.set("ACCEPTANCE_CANARY", "canary-in-the-environment");
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let secret = home.user("secret.txt");
        std::fs::write(&secret, "canary-in-a-file").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
        let inside = Inside::new(&home, &model, &source);

        let said = inside.sh(&format!(
            "cat {} {}/data/auth.db /etc/shadow /root/.bashrc; env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; \
             ls /; ls /proc | grep -c '^[0-9]'; cat /proc/self/status; mount 2>&1; unshare -U true 2>&1 && echo escaped-$((40 + 2)); \
             mount -t tmpfs x /tmp 2>&1 && echo escaped-$((40 + 2)); id -u",
            secret.display(),
            home.root().display()
        ));

        assert!(!said.contains("canary"), "{said}");
        assert!(!said.contains("SQLite format"), "{said}");
        assert!(!said.contains("escaped-42"), "{said}");
        assert!(said.contains("CapEff:\\t0000000000000000"), "{said}");
        assert!(said.contains("NoNewPrivs:\\t1") && said.contains("Seccomp:\\t2"), "{said}");
        assert!(!said.contains("oubliette-server"), "no process of the host: {said}");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "canary-in-a-file", "the positive control");
        let environ = std::fs::read(format!("/proc/{}/environ", home.pid())).unwrap();
        assert!(String::from_utf8_lossy(&environ).contains("canary-in-the-environment"), "the positive control");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_session_is_out_of_reach() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let (home, source) = home_with(&model);
        let one = Inside::new(&home, &model, &source);
        let other = Inside::new(&home, &model, &source);
        let mark = "canary-of-the-other-session";
        let control = other.sh(&format!(
            "echo {mark} > /tmp/mark; echo {mark} > $HOME/mark; echo {mark} > /workspace/mark; \
             (exec -a {mark} sleep 1000) >/dev/null 2>&1 & cat /tmp/mark; ps ax -o args | head -50; grep -l canary-of /proc/*/cmdline | wc -l"
        ));
        assert!(control.contains(mark), "the positive control: {control}");

        let said = one.sh(
            "grep -rs canary-of /tmp $HOME /workspace /run /dev/shm /home 2>/dev/null; \
             cat /proc/*/cmdline | tr '\\0' ' '; ls /run/gate; ls -d /run/*; cat /proc/net/unix; find / -name mark 2>/dev/null",
        );
        assert!(!said.contains("canary-of-the"), "{said}");
        assert!(!said.contains("/mark"), "{said}");
    })
    .await
    .unwrap();
}

/// An operator's `pgrep -f oubliette` finds servers and nothing of their sandboxes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_line_of_a_sandbox_names_the_product() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let (home, source) = home_with(&model);
        let inside = Inside::new(&home, &model, &source);
        inside.sh("sleep 1000 >/dev/null 2>&1 & true");
        let server = home.pid();
        let children = descendants(server);
        assert!(children.len() >= 3, "launcher, bubblewrap, guest, agent: {children:?}");
        for pid in children {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            assert!(!line.contains("oubliette"), "{pid}: {line}");
        }
        let own = std::fs::read(format!("/proc/{server}/cmdline")).unwrap();
        assert!(String::from_utf8_lossy(&own).starts_with("oubliette-server"), "the positive control");
    })
    .await
    .unwrap();
}

pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let parent: u32 = fields.nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
        parents.push((pid, parent));
    }
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}
