//! gRPC's framing of messages: one flag byte, four bytes of length, the message (gRPC over HTTP/2).

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of a message's prefix.
pub const PREFIX: usize = 5;

/// The most one message may hold before [`Deframer`] gives up on the peer.
pub const MESSAGE_MAX: usize = 64 << 20;

/// Names of the status codes, by their numbers (gRPC core, `statuscodes.md`). Written out here, so that tests do not take the
/// sidecar's word for them.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// One uncompressed message with its prefix.
pub fn message(payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + payload.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(payload.len()).expect("a message is below 4 GiB"));
    framed.put_slice(payload);
    framed.freeze()
}

/// Puts messages together from DATA in any cut.
#[derive(Debug, Default)]
pub struct Deframer {
    held: BytesMut,
}

impl Deframer {
    /// Adds what one DATA frame carried.
    pub fn push(&mut self, data: &[u8]) {
        self.held.extend_from_slice(data);
    }

    /// The next whole message.
    ///
    /// # Panics
    /// When a prefix announces more than [`MESSAGE_MAX`]: the stream is corrupt and a test must see it.
    pub fn next_message(&mut self) -> Option<Bytes> {
        let length = u32::from_be_bytes(self.held.get(1..PREFIX)?.try_into().ok()?) as usize;
        assert!(length <= MESSAGE_MAX, "a prefix announces {length} bytes; the stream is corrupt");
        if self.held.len() < PREFIX + length {
            return None;
        }
        self.held.advance(PREFIX);
        Some(self.held.split_to(length).freeze())
    }

    /// Whether it holds the beginning of a message that has not ended.
    pub fn in_mid_message(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_every_cut() {
        let mut wire = message(b"first").to_vec();
        wire.extend_from_slice(&message(b""));
        wire.extend_from_slice(&message(b"third"));
        for cut in 1..wire.len() {
            let mut deframer = Deframer::default();
            let mut got = Vec::new();
            for piece in wire.chunks(cut) {
                deframer.push(piece);
                while let Some(message) = deframer.next_message() {
                    got.push(message);
                }
            }
            assert_eq!(got, [&b"first"[..], b"", b"third"], "cut into pieces of {cut}");
            assert!(!deframer.in_mid_message());
        }
    }

    #[test]
    fn half_a_message_is_told_apart_from_none() {
        let mut deframer = Deframer::default();
        deframer.push(&message(b"whole")[..7]);
        assert_eq!(deframer.next_message(), None);
        assert!(deframer.in_mid_message());
    }
}
