//! The demonstration model as a program.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

fn start(arguments: &[&str]) -> (Child, u16) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_oubliette-demo-model"))
        .args(["--port", "0", "--pace-ms", "0"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut line).expect("a line");
    let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let port = told["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    (child, port)
}

fn models(port: u16) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    connection.write_all(b"GET /v1/models HTTP/1.0\r\nhost: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn it_tells_its_port_and_ends_with_its_parent() {
    let (mut child, port) = start(&["--with-parent"]);
    assert!(models(port).contains("demo-repairer"));
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_signal_ends_it_although_its_input_is_open() {
    for arguments in [&["--with-parent"][..], &[]] {
        let (mut child, port) = start(arguments);
        assert!(models(port).contains("demo-repairer"));
        let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill is installed");
        assert!(killed.success());
        assert!(child.wait().expect("it ends").success());
    }
}
