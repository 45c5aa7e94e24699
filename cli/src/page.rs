//! Reads one page of a sidecar or a control plane.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

/// How long connecting may take, and each wait for more of the answer.
const WAIT: Duration = Duration::from_secs(5);

/// Bytes of one answer.
const ANSWER_MAX: u64 = 256 << 20;

/// A page's answer.
struct Answer {
    status: u16,
    body: String,
}

/// The JSON of `path` at `at`: `HOST:PORT`, or `http://HOST:PORT`.
///
/// # Errors
/// The page cannot be reached, answers with another status than 200, or with no JSON; in words, with what would be right.
pub(crate) fn json(at: &str, path: &str) -> Result<Value, String> {
    let host = host(at)?;
    let Answer { status, body } =
        get(host, path).map_err(|error| format!("http://{host} cannot be reached: {}", reason(&error)))?;
    if status != 200 {
        return Err(format!("http://{host}{path} answered {status}: {}", body.trim()));
    }
    serde_json::from_str(&body).map_err(|error| format!("http://{host}{path} did not answer JSON: {error}"))
}

/// `HOST:PORT` of an address or a URL.
fn host(at: &str) -> Result<&str, String> {
    let host = at.strip_prefix("http://").unwrap_or(at).trim_end_matches('/');
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) if !host.contains('/') => Ok(host),
        _ => Err(format!("{at:?} is not HOST:PORT or http://HOST:PORT")),
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("there was no answer within {} s", WAIT.as_secs())
        }
        _ => error.to_string(),
    }
}

/// HTTP/1.0, so that the body is what comes before the end.
fn get(host: &str, path: &str) -> io::Result<Answer> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs()? {
        let mut socket = match TcpStream::connect_timeout(&address, WAIT) {
            Ok(socket) => socket,
            Err(error) => {
                last = error;
                continue;
            }
        };
        socket.set_read_timeout(Some(WAIT))?;
        socket.set_write_timeout(Some(WAIT))?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\nhost: {host}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        socket.take(ANSWER_MAX).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.strip_prefix("HTTP/1.").and_then(|head| head.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("what listens there does not speak HTTP"))?;
        return Ok(Answer { status, body: body.to_owned() });
    }
    Err(last)
}

/// A value as it stands in a query: whatever is no letter, digit, `-`, `.`, `_` or `~` is encoded (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_stand_with_a_scheme() {
        for at in ["127.0.0.1:15000", "http://127.0.0.1:15000", "http://127.0.0.1:15000/"] {
            assert_eq!(host(at), Ok("127.0.0.1:15000"));
        }
        for at in ["127.0.0.1", "https://a:1/b", "http://a:1/b", "a:b"] {
            assert!(host(at).is_err(), "{at}");
        }
    }

    #[test]
    fn a_value_is_encoded() {
        assert_eq!(encode("a.B/C x:1+%é"), "a.B%2FC%20x%3A1%2B%25%C3%A9");
    }
}
