//! What of a stream has been read and not yet sent.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Chunks below this are copied together behind others, for two reasons. A peer that is built on h2 counts
/// small frames against the connection. And a chunk is a slice of what was read from the socket, and keeps
/// all of it: without the copy, one call's window of small messages could hold many times its size of what
/// came for others.
pub(crate) const SMALL: usize = 4 << 10;
/// A run of small chunks is no longer than this, which is HTTP/2's smallest maximum frame.
pub(crate) const RUN_BYTES_MAX: usize = 16 << 10;

/// A queue of bytes in order. Bounded by the receive window: nothing in it has been released to the sender.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The usual case, one chunk, needs no allocation.
    front: Option<Bytes>,
    rest: VecDeque<Bytes>,
    run: BytesMut,
    bytes: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a chunk that is not empty.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.bytes == 0 {
            self.bytes = chunk.len();
            self.front = Some(chunk);
            return;
        }
        self.bytes += chunk.len();
        if chunk.len() < SMALL {
            if self.run.len() + chunk.len() > RUN_BYTES_MAX {
                self.close_run();
            }
            self.run.extend_from_slice(&chunk);
        } else {
            self.close_run();
            self.rest.push_back(chunk);
        }
    }

    /// Takes the first bytes out, at most `max` and at most one chunk.
    pub(crate) fn take(&mut self, max: usize) -> Option<Bytes> {
        if self.front.is_none() {
            if self.rest.is_empty() {
                self.close_run();
            }
            self.front = self.rest.pop_front();
        }
        let mut chunk = self.front.take()?;
        if chunk.len() > max {
            let rest = chunk.split_off(max);
            self.front = Some(rest);
        }
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Puts chunks that were taken before in front again, in their order.
    pub(crate) fn put_back(&mut self, chunks: impl DoubleEndedIterator<Item = Bytes>) {
        if let Some(front) = self.front.take() {
            self.rest.push_front(front);
        }
        for chunk in chunks.rev() {
            self.bytes += chunk.len();
            self.rest.push_front(chunk);
        }
    }

    fn close_run(&mut self) {
        if !self.run.is_empty() {
            self.rest.push_back(self.run.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue, max: usize) -> (Vec<u8>, usize) {
        let (mut all, mut chunks) = (Vec::new(), 0);
        while let Some(chunk) = queue.take(max) {
            assert!(!chunk.is_empty() && chunk.len() <= max);
            all.extend_from_slice(&chunk);
            chunks += 1;
        }
        assert_eq!(queue.len(), 0);
        (all, chunks)
    }

    #[test]
    fn bytes_come_out_in_the_order_they_went_in_however_they_are_cut() {
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..200 {
            let (mut queue, mut expected) = (Queue::default(), Vec::new());
            for _ in 0..random.usize(1..60) {
                let chunk: Vec<u8> = (0..random.usize(1..2 * SMALL)).map(|_| random.u8(..)).collect();
                expected.extend_from_slice(&chunk);
                queue.push(chunk.into());
                if random.u8(..) < 40 {
                    let taken = queue.take(random.usize(1..SMALL)).unwrap();
                    assert_eq!(taken, expected[..taken.len()]);
                    expected.drain(..taken.len());
                }
            }
            assert_eq!(queue.len(), expected.len());
            assert_eq!(drain(&mut queue, random.usize(1..3 * SMALL)).0, expected);
        }
    }

    #[test]
    fn a_crowd_of_tiny_chunks_leaves_in_few_frames() {
        let mut queue = Queue::default();
        for _ in 0..10_000 {
            queue.push(Bytes::from_static(b"1234567"));
        }
        let (all, chunks) = drain(&mut queue, usize::MAX);
        assert_eq!(all.len(), 70_000);
        assert!(chunks <= 6, "{chunks}");
    }

    #[test]
    fn a_small_chunk_that_waits_keeps_nothing_of_what_it_was_cut_from() {
        let mut queue = Queue::default();
        queue.push(Bytes::from_static(b"first"));
        let mut read = Bytes::from(vec![0; 16_384]);
        queue.push(read.split_to(SMALL - 1));
        assert!(read.is_unique(), "the rest of what was read can be freed");
        assert_eq!(drain(&mut queue, usize::MAX).0.len(), 5 + SMALL - 1);
    }

    #[test]
    fn what_was_put_back_comes_first() {
        let mut queue = Queue::default();
        for chunk in ["a", "b", "c", "d"] {
            queue.push(Bytes::from_static(chunk.as_bytes()));
        }
        let first = queue.take(1).unwrap();
        let second = queue.take(2).unwrap();
        queue.put_back([first, second].into_iter());
        assert_eq!(drain(&mut queue, 100).0, b"abcd");
    }
}
