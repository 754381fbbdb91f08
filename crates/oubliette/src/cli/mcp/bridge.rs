//! The server's `/mcp` on standard input and output: one message a line, both ways, whatever they say.
//!
//! It goes over the control socket. With a token in the environment it asks as that token and may do what that may; else
//! as the operator. A server that is not there is started; one that went away and came back is found again.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;

use ob_core::Refusal;
use rmcp::ErrorData;
use rmcp::RoleClient;
use rmcp::RoleServer;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::model::ErrorCode;
use rmcp::model::JsonRpcMessage;
use rmcp::model::RequestId;
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::task::JoinSet;

use super::TOKEN;
use crate::cli::OK;
use crate::cli::failed;
use crate::cli::hub::Hub;
use crate::cli::output::Output;

/// Messages that are on their way to the server at once; further ones wait in the pipe.
const SENDING_MAX: usize = 64;

/// The address that requests over the socket name.
const URI: &str = "http://localhost/mcp";

/// What a client is told whose message did not reach the server.
const UNAVAILABLE: ErrorCode = ErrorCode(-32000);

/// Runs until the client closes standard input.
pub(super) async fn command(hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    hub.ensure(output).await?;
    let socket = hub.loaded.home.control_socket();
    let socket = socket.to_str().ok_or_else(|| {
        Refusal::invalid(format!("the path of the control socket, {}, is not UTF-8", socket.display()))
            .fix("keep the home under another name (`--dir`)")
    })?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(URI);
    config.auth_header = hub.context.var(TOKEN).map(ToOwned::to_owned);
    config.allow_stateless = true;
    config.reinit_on_expired_session = true;
    let server = StreamableHttpClientTransport::from_unix_socket_with_config(socket, config);
    let read = file(std::io::stdin().as_fd())?;
    let write = file(std::io::stdout().as_fd())?;
    run(read, write, server).await?;
    Ok(OK)
}

/// A standard stream as a file, which reads and writes beside the thread that carries messages.
fn file(stream: BorrowedFd<'_>) -> Result<tokio::fs::File, Refusal> {
    let owned = stream.try_clone_to_owned().map_err(|error| failed("use the standard streams", &error))?;
    Ok(tokio::fs::File::from_std(owned.into()))
}

/// Carries messages between a client and a server until one of them closes.
async fn run(
    read: impl AsyncRead + Send + Unpin,
    write: impl AsyncWrite + Send + Unpin + 'static,
    mut server: impl Transport<RoleClient>,
) -> Result<(), Refusal> {
    let mut client = AsyncRwTransport::<RoleServer, _, _>::new(read, write);
    let gone = |error: std::io::Error| {
        Refusal::unavailable(format!("cannot write to the client: {error}"))
            .fix("the client that started this has closed it")
    };
    // Messages on their way to the server; each gives back the request that did not arrive, and why.
    let mut sending: JoinSet<Option<(RequestId, String)>> = JoinSet::new();
    // Requests without an answer so far, by their ids as text.
    let mut open: BTreeMap<String, RequestId> = BTreeMap::new();
    let (mut client_ended, mut server_ended) = (false, false);
    // What was asked is still answered after the client has closed its side; after the server has, nothing more comes.
    while !sending.is_empty() || !(server_ended || client_ended && open.is_empty()) {
        tokio::select! {
            message = client.receive(), if !client_ended && !server_ended && sending.len() < SENDING_MAX => match message {
                Some(message) => {
                    let id = id_of(&message);
                    open.extend(id.clone().map(|id| (id.to_string(), id)));
                    let sent = server.send(message);
                    sending.spawn(async move {
                        let error = sent.await.err()?;
                        Some((id?, error.to_string()))
                    });
                }
                None => client_ended = true,
            },
            message = server.receive(), if !server_ended => match message {
                Some(message) => {
                    open.remove(&answered(&message));
                    client.send(message).await.map_err(gone)?;
                }
                None => server_ended = true,
            },
            Some(sent) = sending.join_next() => {
                if let Ok(Some((id, error))) = sent {
                    open.remove(&id.to_string());
                    client.send(undelivered(id, &error)).await.map_err(gone)?;
                }
            }
        }
    }
    for (_, id) in open {
        client.send(undelivered(id, "it has ended the connection")).await.map_err(gone)?;
    }
    // Ends the session at the server; one that is gone has no session either.
    server.close().await.ok();
    if server_ended {
        return Err(Refusal::unavailable("the server has ended the connection")
            .fix("look at `oubliette status` and at the client's token"));
    }
    Ok(())
}

/// The id of the request that a message answers, as text; of none if it answers none.
fn answered(message: &ServerJsonRpcMessage) -> String {
    match message {
        JsonRpcMessage::Response(response) => response.id.to_string(),
        JsonRpcMessage::Error(error) => error.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => String::new(),
    }
}

/// The id of a message that wants an answer.
fn id_of(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    match message {
        JsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    }
}

/// A message that did not reach the server is answered here.
fn undelivered(id: RequestId, error: &str) -> ServerJsonRpcMessage {
    let text = format!(
        "the Oubliette server did not take the message: {error}; look at `oubliette status`, at the token, and try again"
    );
    ServerJsonRpcMessage::error(ErrorData::new(UNAVAILABLE, text, None), Some(id))
}

#[cfg(test)]
mod tests {
    use rmcp::model::ServerResult;
    use serde_json::Value;
    use serde_json::json;
    use tokio::io::AsyncBufReadExt as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::io::BufReader;
    use tokio::sync::mpsc;

    use super::*;

    /// More than the test sends.
    const MESSAGES: usize = 4;

    /// A server that takes what it is sent, or does not, and says what it is told to.
    struct Fake {
        took: mpsc::Sender<ClientJsonRpcMessage>,
        says: mpsc::Receiver<ServerJsonRpcMessage>,
        refuses: bool,
    }

    impl Transport<RoleClient> for Fake {
        type Error = std::io::Error;

        fn send(
            &mut self,
            message: ClientJsonRpcMessage,
        ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
            let (took, refuses) = (self.took.clone(), self.refuses);
            async move {
                if refuses {
                    return Err(std::io::Error::other("HTTP 401"));
                }
                took.send(message).await.map_err(std::io::Error::other)
            }
        }

        async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
            self.says.recv().await
        }

        async fn close(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(std::time::Duration::from_secs(60), future).await.expect("within the deadline")
    }

    #[tokio::test]
    async fn what_was_asked_is_answered_before_the_end_and_what_did_not_arrive_is_told() {
        for refuses in [false, true] {
            let (mut typed, read) = tokio::io::duplex(4096);
            let (write, shown) = tokio::io::duplex(4096);
            let (took, mut taken) = mpsc::channel(MESSAGES);
            let (says, told) = mpsc::channel(MESSAGES);
            let bridge = tokio::spawn(run(read, write, Fake { took, says: told, refuses }));
            typed.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}\n").await.expect("it reads");
            drop(typed);
            if !refuses {
                soon(taken.recv()).await.expect("the server took it");
                // The client has closed its side, and waits for its answer.
                let answer = ServerJsonRpcMessage::response(ServerResult::empty(()), RequestId::Number(7));
                says.send(answer).await.expect("the bridge waits for it");
            }
            let mut lines = BufReader::new(shown).lines();
            let line = soon(lines.next_line()).await.expect("it writes").expect("an answer");
            let answer: Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(answer["id"], 7, "{line}");
            if refuses {
                assert_eq!(answer["error"]["code"], -32000);
                assert!(
                    answer["error"]["message"].as_str().is_some_and(|m| m.contains("HTTP 401")),
                    "{line}"
                );
            } else {
                assert_eq!(answer["result"], json!({}), "{line}");
            }
            soon(bridge).await.expect("no panic").expect("a clean end");
        }
    }
}
