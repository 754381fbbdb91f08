//! The socket: who may connect, how many, links, and what stays behind.

use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use ob_core::link::UPGRADE;
use ob_core::link::UPGRADE_PATH;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::world::Connection;
use super::world::DEADLINE;
use super::world::World;
use super::world::get;
use super::world::hello;
use crate::SOCKET;

fn upgrade(to: &str) -> Request<Full<Bytes>> {
    let mut request = get(UPGRADE_PATH);
    request.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
    request.headers_mut().insert("upgrade", to.parse().expect("a value"));
    request
}

async fn echoes_over_a_link(connection: &mut Connection) {
    let response = connection.send(upgrade(UPGRADE)).await.expect("an answer");
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"));
    io.write_all(b"both ways").await.expect("written");
    let mut back = [0; 9];
    tokio::time::timeout(DEADLINE, io.read_exact(&mut back)).await.expect("in time").expect("read");
    assert_eq!(&back, b"both ways");
}

#[tokio::test]
async fn a_link_is_a_connection_that_turns_round() {
    let world = World::new().await;
    echoes_over_a_link(&mut world.connect().await).await;
    for wrong in [get(UPGRADE_PATH), upgrade("websocket")] {
        let answered = world.connect().await.read(wrong).await;
        assert_eq!((answered.status, answered.code().as_str()), (426, "upgrade_required"));
        assert!(answered.message().contains(UPGRADE));
    }
}

#[tokio::test]
async fn a_closing_gate_ends_its_links() {
    let mut world = World::new().await;
    let mut connection = world.connect().await;
    let response = connection.send(upgrade(UPGRADE)).await.expect("an answer");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"));
    world.close().await;
    let ended = tokio::time::timeout(DEADLINE, io.read(&mut [0; 1])).await.expect("in time");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_stranger_is_turned_away() {
    let mut world = World::new().await;
    assert_eq!(world.chat(&hello()).await.status, 200, "the positive control");
    world.close().await;
    world.session.peer_uid += 1;
    world.gate = Some(world.open(&world.gate_dir()).await);
    let mut stream = UnixStream::connect(world.gate_dir().join(SOCKET)).await.expect("anyone may knock");
    drop(stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n").await);
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time");
    assert!(answer.is_empty(), "{read:?}: {}", String::from_utf8_lossy(&answer));
    assert_eq!(world.provider.requests().len(), 1);
}

#[tokio::test]
async fn an_agent_that_takes_all_connections_cannot_keep_its_guest_from_dialling() {
    let world = World::new().await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut connection = world.connect().await;
        assert_eq!(connection.read(get("/v1/models")).await.status, 200);
        held.push(connection);
    }
    let mut over = world.connect().await;
    let answered = over.read(get("/v1/models")).await;
    assert_eq!((answered.status, answered.code().as_str()), (503, "too_many_connections"));
    drop(over);
    echoes_over_a_link(&mut world.connect().await).await;
    drop(held);
}

#[tokio::test]
async fn the_socket_replaces_a_stale_one_and_removes_only_itself() {
    let world = World::new().await;
    let path = world.gate_dir().join(SOCKET);
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o666);
    // A later gate at the same place, as after a crash; then the earlier one goes.
    let later = world.open(&world.gate_dir()).await;
    let mut world = world;
    drop(world.gate.take());
    assert_eq!(world.chat(&hello()).await.status, 200, "the later gate answers");
    later.close().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let world = World::new().await;
    let dir = world.dir.path().join("other");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(dir.join(SOCKET), "precious").expect("written");
    let shared = std::sync::Arc::clone(&world.gates.shared);
    let refused =
        crate::listen::open(shared, &dir, world.session.clone(), std::sync::Arc::new(super::world::Echo))
            .await;
    let error = refused.err().expect("refused").to_string();
    assert!(error.contains(SOCKET), "{error}");
    assert_eq!(std::fs::read_to_string(dir.join(SOCKET)).expect("still there"), "precious");
}

#[tokio::test]
async fn garbage_on_the_socket_ends_that_connection_and_no_other() {
    let world = World::new().await;
    for garbage in [&b"\x00\x01\x02\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", &[b'a'; 100_000]] {
        let mut stream = UnixStream::connect(world.gate_dir().join(SOCKET)).await.expect("it listens");
        drop(stream.write_all(garbage).await);
        let mut answer = Vec::new();
        drop(tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it is closed"));
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }
    assert_eq!(world.chat(&hello()).await.status, 200);
}
