//! Messages out of DATA in any cut, with a limit on their size and on the time they take. Pure: time is an argument.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::Instant;

/// The flag and the length of a message (gRPC over HTTP2, "Length-Prefixed-Message").
const PREFIX: usize = 5;
/// Room that is set aside for a message before its bytes are here.
const ROOM_MAX: usize = 64 << 10;

/// What a message may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Its longest length, in bytes.
    pub(crate) bytes: usize,
    /// The longest time between two pieces of it.
    pub(crate) stall: Duration,
    /// The longest time from its first byte to its last: who sends a byte now and then keeps us from what comes next.
    pub(crate) whole: Duration,
}

/// The message that is coming in.
#[derive(Debug)]
pub(crate) struct Framer {
    bounds: Bounds,
    held: BytesMut,
    /// When its first and its last piece so far came; `None`: nothing of it is here.
    times: Option<(Instant, Instant)>,
}

/// Why a stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unframed {
    /// Longer than its bound.
    TooLarge(String),
    /// Compressed, which nobody asked for.
    Compressed,
}

impl Framer {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, held: BytesMut::new(), times: None }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8], now: Instant) {
        if piece.is_empty() {
            return;
        }
        let began = self.times.map_or(now, |(began, _)| began);
        self.times = Some((began, now));
        if self.held.is_empty() {
            self.held.reserve(piece.len().min(ROOM_MAX));
        }
        self.held.extend_from_slice(piece);
    }

    /// The next whole message. A message that is too long is known by its prefix.
    pub(crate) fn next(&mut self, now: Instant) -> Result<Option<Bytes>, Unframed> {
        let Some(prefix) = self.held.get(..PREFIX) else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(Unframed::Compressed);
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.bounds.bytes {
            let bound = self.bounds.bytes;
            return Err(Unframed::TooLarge(format!(
                "an answer of {length} bytes, but at most {bound} are read"
            )));
        }
        if self.held.len() < PREFIX + length {
            return Ok(None);
        }
        self.held.advance(PREFIX);
        let message = self.held.split_to(length).freeze();
        // What is left belongs to the next one.
        self.times = (!self.held.is_empty()).then_some((now, now));
        if self.held.is_empty() {
            // The buffer would stay as large as the largest message.
            self.held = BytesMut::new();
        }
        Ok(Some(message))
    }

    /// By when more must have come; `None`: nothing is under way.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.times.map(|(began, last)| (began + self.bounds.whole).min(last + self.bounds.stall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds =
        Bounds { bytes: 1_000, stall: Duration::from_secs(20), whole: Duration::from_secs(60) };

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
    }

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let (now, wire) = (Instant::now(), [framed(b"first"), framed(b""), framed(&[7; 1_000])].concat());
        for cut in [1, 2, 5, 6, 7, 500, wire.len()] {
            let (mut framer, mut got) = (Framer::new(BOUNDS), Vec::new());
            for piece in wire.chunks(cut) {
                framer.push(piece, now);
                while let Some(message) = framer.next(now).unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got.iter().map(Bytes::len).collect::<Vec<_>>(), [5, 0, 1_000], "{cut}");
            assert_eq!(framer.due(), None);
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_known_by_its_prefix() {
        let mut framer = Framer::new(BOUNDS);
        framer.push(&[0, 0, 0, 3, 233], Instant::now());
        assert!(matches!(framer.next(Instant::now()), Err(Unframed::TooLarge(why)) if why.contains("1001")));
        let mut framer = Framer::new(BOUNDS);
        framer.push(&[1, 0, 0, 0, 0], Instant::now());
        assert_eq!(framer.next(Instant::now()), Err(Unframed::Compressed));
    }

    #[test]
    fn a_message_must_get_on_and_one_byte_a_second_is_no_way_to_hold_us_for_ever() {
        let (mut framer, began) = (Framer::new(BOUNDS), Instant::now());
        assert_eq!(framer.due(), None);
        framer.push(&framed(&[0; 500])[..6], began);
        assert_eq!(framer.due(), Some(began + 20 * S));
        for second in 1..=59 {
            framer.push(&[0], began + second * S);
            assert_eq!(framer.next(began + second * S), Ok(None));
        }
        assert_eq!(framer.due(), Some(began + 60 * S));
    }

    #[test]
    fn the_next_message_has_its_own_time() {
        let (mut framer, began) = (Framer::new(BOUNDS), Instant::now());
        framer.push(&framed(b"one"), began);
        framer.push(&framed(b"two")[..6], began + 50 * S);
        assert!(framer.next(began + 50 * S).unwrap().is_some());
        assert_eq!(framer.due(), Some(began + 70 * S));
    }
}
