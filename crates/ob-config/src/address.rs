//! Listen addresses as people write them.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::Mistake;
use crate::settings::ServerSettings;

/// The allowed forms, for messages.
const FORMS: &str = "allowed: `localhost:8080` (this machine only), `127.0.0.1:8080`, `[::1]:8080`, \
                     or `:8080` (every interface)";

/// Where to listen.
///
/// `localhost:P` is both loopback addresses. `:P` is `[::]:P`, to be bound dual stack. With port 0 each address gets a
/// port of its own unless the caller takes the first one's for the others. A machine may lack one of the two families:
/// what cannot be bound because its family is missing may be left out if another address was bound.
pub fn bind_addresses(server: &ServerSettings) -> Result<Vec<SocketAddr>, Mistake> {
    parse(&server.address).map_err(|what| Mistake::new("server.address", what))
}

/// Reads an address into what to bind.
pub(crate) fn parse(text: &str) -> Result<Vec<SocketAddr>, String> {
    let wrong = || format!("`{}` is no listen address; {FORMS}", text.chars().take(80).collect::<String>());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let addresses: Vec<IpAddr> = if host.eq_ignore_ascii_case("localhost") {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else if host.is_empty() || host == "*" {
        vec![Ipv6Addr::UNSPECIFIED.into()]
    } else if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        vec![inner.parse::<Ipv6Addr>().map_err(|_| wrong())?.into()]
    } else {
        vec![host.parse::<Ipv4Addr>().map_err(|_| wrong())?.into()]
    };
    Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// True if others than this machine can reach one of these.
pub(crate) fn is_exposed(addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(|address| !address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, expected) in [
            ("localhost:8080", "127.0.0.1:8080 [::1]:8080"),
            ("LOCALHOST:1", "127.0.0.1:1 [::1]:1"),
            (":8080", "[::]:8080"),
            ("*:8080", "[::]:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[fe80::1]:443", "[fe80::1]:443"),
        ] {
            let server = ServerSettings { address: text.to_owned() };
            let bound = bind_addresses(&server).expect(text);
            let shown: Vec<String> = bound.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join(" "), expected, "{text}");
            assert_eq!(
                is_exposed(&bound),
                !expected.contains("127.0.0.1") && !expected.contains("::1]:8080")
            );
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        for text in [
            "",
            ":",
            "8080",
            "localhost",
            "localhost:",
            "localhost:99999",
            "localhost:+1",
            "example.org:80",
            "::1:8080",
            "[::1]",
            "[127.0.0.1]:80",
            "http://localhost:8080",
            "unix:/tmp/x",
        ] {
            let server = ServerSettings { address: text.to_owned() };
            let mistake = bind_addresses(&server).expect_err(text);
            assert_eq!(mistake.place, "server.address");
            assert!(mistake.what.contains("allowed: `localhost:8080`"), "{mistake}");
        }
    }
}
