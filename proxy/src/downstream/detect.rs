//! What a connection speaks, by its first bytes.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::io::Wire;
use crate::metrics::events::HandshakeFailure;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A TLS record that carries a handshake (RFC 8446, 5.1).
    Tls,
    /// HTTP/2 by prior knowledge (RFC 9113, 3.4).
    Http2,
    /// HTTP/1.1 that asks for a tunnel (RFC 9110, 9.3.6).
    Connect,
    /// Another request of HTTP/1.1.
    Http1,
    /// Anything else.
    Other,
    /// Not a byte for as long as `detection_timeout`: the server may be meant to speak first.
    Nothing,
}

/// First byte of a TLS record that carries a handshake.
pub(crate) const TLS_HANDSHAKE: u8 = 22;
/// As much of the HTTP/2 preface as no other protocol begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const CONNECT: &[u8] = b"CONNECT ";
/// The other methods of HTTP/1.1 (RFC 9110, 9.3; RFC 5789).
const METHODS: [&[u8]; 8] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"TRACE ", b"PATCH "];

/// Judges the first bytes; `None`: it takes more to tell.
fn judge(bytes: &[u8]) -> Option<Spoken> {
    let candidates = [(PREFACE, Spoken::Http2), (CONNECT, Spoken::Connect)]
        .into_iter()
        .chain(METHODS.into_iter().map(|method| (method, Spoken::Http1)));
    let mut undecided = false;
    for (beginning, spoken) in candidates {
        if bytes.starts_with(beginning) {
            return Some(spoken);
        }
        undecided |= beginning.starts_with(bytes);
    }
    match bytes.first() {
        Some(&TLS_HANDSHAKE) => Some(Spoken::Tls),
        _ if undecided => None,
        _ => Some(Spoken::Other),
    }
}

/// A stream that is being looked at. It reads no more than it takes to tell; the caller bounds the time.
pub(crate) struct Sniff {
    wire: Wire,
    seen: BytesMut,
}

impl Sniff {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, seen: BytesMut::with_capacity(PREFACE.len()) }
    }

    /// What is spoken, and the stream as it was before anybody looked. Who says nothing is waited for as long as
    /// `patience`; without it, as long as the caller waits.
    pub(crate) async fn listen(
        mut self,
        patience: Option<Duration>,
    ) -> Result<(Spoken, Wire), HandshakeFailure> {
        let mut patience = patience;
        let spoken = loop {
            let read = self.wire.read_buf(&mut self.seen);
            let read = match patience.take() {
                None => read.await,
                Some(patience) => match timeout(patience, read).await {
                    Ok(read) => read,
                    Err(_) => break Spoken::Nothing,
                },
            };
            match (read, judge(&self.seen)) {
                (Ok(0) | Err(_), _) => return Err(HandshakeFailure::Closed),
                (Ok(_), Some(spoken)) => break spoken,
                (Ok(_), None) => {}
            }
        };
        self.wire.unread(self.seen.freeze());
        Ok((spoken, self.wire))
    }
}

/// The first byte of a connection, which stays where it is: TLS wants the socket itself.
pub(crate) async fn first_byte(tcp: &TcpStream) -> Result<u8, HandshakeFailure> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(seen) if seen > 0 => Ok(first[0]),
        _ => Err(HandshakeFailure::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_is_spoken_as_soon_as_they_can() {
        for (bytes, spoken) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0", None),
            (b"P", None),
            (b"PRIVMSG", Some(Spoken::Other)),
            (b"POST / HTTP/1.1", Some(Spoken::Http1)),
            (b"CONNECT a:1 HTTP/1.1", Some(Spoken::Connect)),
            (b"CONN", None),
            (b"CONNECTED", Some(Spoken::Other)),
            (b"GET /", Some(Spoken::Http1)),
            (b"get /", Some(Spoken::Other)),
            (&[22, 3, 1], Some(Spoken::Tls)),
            (&[0], Some(Spoken::Other)),
        ] {
            assert_eq!(judge(bytes), spoken, "{bytes:?}");
        }
    }
    /// Something like one of the beginnings, perhaps with a fault in it, and more behind it.
    fn beginning(random: &mut fastrand::Rng) -> Vec<u8> {
        let known =
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"CONNECT a:1 HTTP/1.1", b"POST /", &[22, 3, 1]];
        let mut bytes = random.choice(known).map(<[u8]>::to_vec).unwrap_or_default();
        bytes.truncate(random.usize(..=bytes.len()));
        let more = [0, 1, 40][random.usize(..3)];
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(more));
        if random.bool() && !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes
    }

    #[tokio::test]
    async fn however_a_beginning_is_cut_it_says_the_same_and_not_a_byte_is_lost() {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut random = fastrand::Rng::with_seed(24);
        for round in 0..500 {
            let bytes = beginning(&mut random);
            let verdicts: Vec<_> = (1..=bytes.len()).map(|seen| judge(&bytes[..seen])).collect();
            let spoken = verdicts.iter().copied().flatten().next();
            let decided = verdicts.iter().skip_while(|verdict| verdict.is_none());
            assert!({ decided }.all(|verdict| *verdict == spoken), "{round}: {bytes:?}: {verdicts:?}");

            let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (mut near, far) = (near.unwrap(), far.unwrap().0);
            near.set_nodelay(true).unwrap();
            let mut rest = &bytes[..];
            let write = async {
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(random.usize(1..=rest.len()));
                    near.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = more;
                }
                near.shutdown().await.unwrap();
            };
            match (tokio::join!(Sniff::new(Wire::plain(far)).listen(None), write).0, spoken) {
                (Ok((heard, mut wire)), Some(spoken)) => {
                    assert_eq!(heard, spoken, "{round}: {bytes:?}");
                    let mut read = Vec::new();
                    wire.read_to_end(&mut read).await.unwrap();
                    assert_eq!(read, bytes, "{round}");
                }
                (Err(HandshakeFailure::Closed), None) => {}
                (heard, _) => panic!("{round}: {bytes:?}: {:?}", heard.map(|(heard, _)| heard)),
            }
        }
    }
}
