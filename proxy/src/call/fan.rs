//! A request that goes to several endpoints at once, each at its own pace.

use std::cell::RefCell;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;

use crate::call::pump::{Broken, Pump, Source};
use crate::call::queue::{RUN_BYTES_MAX, SMALL};
use crate::call::replay::Replay;
use crate::metrics::counter::Counter;

/// What has come of the request so far. The sender's window opens again as the first of the endpoints takes it.
pub(crate) struct Fan<'a> {
    pump: &'a mut Pump,
    count: &'a Counter,
    chunks: Vec<Bytes>,
    /// Bytes in `chunks`, and how many of them the furthest endpoint has taken.
    bytes: usize,
    furthest: usize,
    /// Present while all of it is kept, so that one more endpoint can begin with the first byte.
    replay: Option<Replay>,
    /// One endpoint is left, and what it has taken is needed no more.
    forgets: bool,
}

/// Where one endpoint is in it.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The chunk that is next, and how much of it is gone already.
    chunk: usize,
    offset: usize,
    /// Bytes before that.
    handed: usize,
    /// END_STREAM has been handed on.
    finished: bool,
}

/// One endpoint's view of a request that others take as well.
pub(crate) struct Share<'f, 'a> {
    pub(crate) fan: &'f RefCell<Fan<'a>>,
    pub(crate) cursor: Cursor,
}

impl<'a> Fan<'a> {
    pub(crate) fn new(pump: &'a mut Pump, count: &'a Counter) -> Self {
        let replay = pump.stop_keeping();
        Self { pump, count, chunks: Vec::new(), bytes: 0, furthest: 0, replay, forgets: false }
    }

    /// Takes in what has come; ready only when the request can go on no more.
    pub(crate) fn poll_take_in(&mut self, cx: &mut TaskContext<'_>) -> Poll<Broken> {
        if let Err(broken) = self.pump.take_in(cx, self.count) {
            return Poll::Ready(broken);
        }
        while let Some(chunk) = self.pump.take_chunk() {
            self.bytes += chunk.len();
            match &mut self.replay {
                None => {}
                Some(replay) if replay.has_room(chunk.len()) => replay.note(chunk.len()),
                replay => *replay = None,
            }
            // A small one is cut from what was read for many calls, and would keep all of it.
            self.chunks.push(if chunk.len() < SMALL { Bytes::copy_from_slice(&chunk) } else { chunk });
        }
        self.pump.poll_stalled(cx, self.furthest < self.bytes)
    }

    /// Whether one more endpoint could begin with the first byte.
    pub(crate) fn is_kept(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether the request is over without a byte of DATA.
    pub(crate) fn is_bare(&self) -> bool {
        self.bytes == 0 && self.pump.is_over()
    }

    pub(crate) fn moved(&self) -> u64 {
        self.pump.moved()
    }

    /// Keeps no more what is handed on: there is only one endpoint left.
    pub(crate) fn forget_handed(&mut self) {
        self.forgets = true;
    }

    /// The next bytes at a cursor, `max` at most. Small chunks go together: a peer that is built on h2 counts small frames
    /// against the connection.
    fn next(&self, cursor: &Cursor, max: usize) -> Option<Bytes> {
        let chunk = self.chunks.get(cursor.chunk)?;
        let first = chunk.slice(cursor.offset..);
        let is_alone = first.len() >= SMALL || cursor.chunk + 1 == self.chunks.len();
        if is_alone || first.len() >= max {
            return Some(first.slice(..first.len().min(max)));
        }
        let max = max.min(RUN_BYTES_MAX);
        let mut run = BytesMut::from(&first[..]);
        for chunk in self.chunks[cursor.chunk + 1..].iter().take_while(|chunk| chunk.len() < SMALL) {
            let room = max - run.len();
            run.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if run.len() == max {
                break;
            }
        }
        Some(run.freeze())
    }

    /// Moves a cursor on.
    fn advance(&self, cursor: &mut Cursor, mut bytes: usize) {
        cursor.handed += bytes;
        while let Some(chunk) = self.chunks.get(cursor.chunk) {
            let left = chunk.len() - cursor.offset;
            if bytes < left {
                cursor.offset += bytes;
                return;
            }
            bytes -= left;
            (cursor.chunk, cursor.offset) = (cursor.chunk + 1, 0);
        }
    }

    /// Hands the rest to the one endpoint that is left; the pump goes on from there.
    pub(crate) fn commit(&mut self, cursor: &Cursor) {
        let mut rest = self.chunks.split_off(cursor.chunk.min(self.chunks.len()));
        if let Some(first) = rest.first_mut() {
            *first = first.slice(cursor.offset..);
        }
        let given_back = self.furthest - cursor.handed;
        self.pump.go_on(rest, given_back, cursor.handed as u64, cursor.finished);
        (self.bytes, self.furthest) = (0, 0);
        self.chunks.clear();
        self.replay = None;
    }
}

impl Drop for Fan<'_> {
    fn drop(&mut self) {
        // h2 gives back the window of a stream that is gone.
        self.pump.forget(self.bytes - self.furthest);
    }
}

impl Cursor {
    /// At the beginning; `finished`: END_STREAM goes out with the head.
    pub(crate) fn new(finished: bool) -> Self {
        Self { finished, ..Self::default() }
    }

    pub(crate) fn handed(&self) -> usize {
        self.handed
    }
}

impl Source for Share<'_, '_> {
    fn poll_request(
        &mut self,
        cx: &mut TaskContext<'_>,
        to: &mut SendStream<Bytes>,
        _count: &Counter,
    ) -> Poll<Result<(), Broken>> {
        let (fan, cursor) = (&mut *self.fan.borrow_mut(), &mut self.cursor);
        while !cursor.finished {
            if cursor.chunk == fan.chunks.len() {
                let Some(trailers) = fan.pump.over() else { return Poll::Pending };
                cursor.finished = true;
                let sent = match trailers {
                    Some(trailers) => to.send_trailers(trailers),
                    None => to.send_data(Bytes::new(), true),
                };
                return Poll::Ready(sent.map_err(|_| Broken::Sink));
            }
            to.reserve_capacity(fan.bytes - cursor.handed);
            let capacity = match to.capacity() {
                0 => match ready!(to.poll_capacity(cx)) {
                    Some(Ok(capacity)) => capacity,
                    _ => return Poll::Ready(Err(Broken::Sink)),
                },
                capacity => capacity,
            };
            let Some(part) = fan.next(cursor, capacity).filter(|part| !part.is_empty()) else { continue };
            fan.advance(cursor, part.len());
            let end = cursor.chunk == fan.chunks.len() && matches!(fan.pump.over(), Some(None));
            let sent = to.send_data(part, end);
            if cursor.handed > fan.furthest {
                fan.pump.release(cursor.handed - fan.furthest);
                fan.furthest = cursor.handed;
            }
            if fan.forgets {
                fan.chunks.drain(..cursor.chunk);
                cursor.chunk = 0;
            }
            if sent.is_err() {
                return Poll::Ready(Err(Broken::Sink));
            }
            cursor.finished = end;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_take_in(&mut self, cx: &mut TaskContext<'_>, _count: &Counter) -> Poll<Broken> {
        self.fan.borrow_mut().poll_take_in(cx)
    }

    fn is_held_up(&self) -> bool {
        self.cursor.handed < self.fan.borrow().bytes
    }

    fn handed(&self) -> u64 {
        self.cursor.handed as u64
    }
}
