//! Loopback to the gate: programs that can only speak TCP reach the gate's socket through a port.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Connections at once; more wait in the kernel's queue. Two file descriptors and some 16 KiB each.
const CONNECTIONS: usize = 256;
/// How long a connection waits for a server that restarts.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it tries.
const RETRY: Duration = Duration::from_millis(50);

/// Listens on the port.
pub(super) async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Accepts and forwards for ever.
pub(super) async fn run(listener: TcpListener, socket: &Path) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let socket = socket.to_owned();
                tokio::spawn(async move {
                    // Both ends see the end; there is nobody else to tell.
                    drop(forward(stream, socket).await);
                    drop(slot);
                });
            }
            // Out of descriptors, or the client is gone already.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn forward(mut near: TcpStream, socket: PathBuf) -> io::Result<()> {
    near.set_nodelay(true)?;
    let patience = Instant::now() + PATIENCE;
    let mut far = loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= patience => return Err(error),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
