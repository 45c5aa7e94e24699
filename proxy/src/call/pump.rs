//! Moves one direction of a call: takes DATA out of h2 as soon as it is there, hands it on as the other
//! side's window allows, and only then gives the sender its window back. What one call holds in one
//! direction is thus bounded by the stream window, whatever its length.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::call::barrier::Barrier;
use crate::call::queue::Queue;
use crate::call::replay::Replay;
use crate::call::still::Still;
use crate::call::trail::Tally;
use crate::grpc::messages::Messages;
use crate::grpc::status::Code;
use crate::held::Held;
use crate::metrics::counter::Counter;

/// One direction of a call.
#[derive(Debug)]
pub(crate) struct Pump {
    from: RecvStream,
    queue: Queue,
    source: State,
    /// END_STREAM has been handed on.
    finished: bool,
    messages: Messages,
    /// What has been handed to an attempt, kept until a response commits the call.
    replay: Option<Replay>,
    /// Bytes at the front of the queue whose window was given back when they were handed on before.
    replayed: usize,
    /// Bytes taken in and bytes handed on since the start; tell whether anything moves.
    taken: u64,
    handed: u64,
    /// What all streams of the sender's connection hold.
    held: Rc<Held>,
    still: Still,
    /// Where it is noted what passes, if somebody wants to know.
    tally: Option<Rc<Tally>>,
    /// What is done to it on purpose.
    barrier: Option<Box<Barrier>>,
}

#[derive(Debug)]
enum State {
    Open,
    /// DATA is over; trailers may follow.
    DataOver,
    Over(Option<HeaderMap>),
    /// What comes after is cut off on purpose, and the call ends with this status.
    Cut(Code),
}

/// A request as one attempt sees it.
pub(crate) trait Source {
    /// Moves the request on, END_STREAM with its last bytes; ready once all of it has been handed on.
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        count: &Counter,
    ) -> Poll<Result<(), Broken>>;

    /// Takes a request in while there is nobody to hand it to, because DATA that is left inside h2 costs far
    /// more than its bytes; ready only when it can go on no more.
    fn poll_take_in(&mut self, cx: &mut Context<'_>, count: &Counter) -> Poll<Broken>;

    /// Whether something has been taken in that waits for the receiver.
    fn is_held_up(&self) -> bool;

    /// Bytes handed on since the start.
    fn handed(&self) -> u64;
}

/// Why a direction cannot go on.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The side that sends.
    Source(h2::Error),
    /// The side that receives wants no more; what it has sent or will send still counts.
    Sink,
    /// It ends here on purpose, with this status.
    Cut(Code),
    /// The side that receives fetches nothing, and other streams wait for the window that this takes up.
    Stalled,
}

impl Pump {
    /// Keeps what is handed on, so that it can begin again, until [`Pump::commit`].
    pub(crate) fn keeping(mut self, replay: Option<Replay>) -> Self {
        self.replay = replay;
        self
    }

    /// `held` is that of the connection which `from` belongs to.
    pub(crate) fn new(from: RecvStream, held: Rc<Held>) -> Self {
        Self {
            from,
            queue: Queue::default(),
            source: State::Open,
            finished: false,
            messages: Messages::default(),
            replay: None,
            replayed: 0,
            taken: 0,
            handed: 0,
            held,
            still: Still::default(),
            tally: None,
            barrier: None,
        }
    }

    /// Notes what passes.
    pub(crate) fn noted(mut self, tally: Option<Rc<Tally>>) -> Self {
        self.tally = tally;
        self
    }

    /// Puts a fault on purpose in the way of a response, before anything of it has been taken in.
    pub(crate) fn behind(mut self, barrier: Option<Box<Barrier>>) -> Self {
        self.barrier = barrier;
        self.look_for_cut();
        self
    }

    /// Whether the sender has ended without a byte that still waits here.
    pub(crate) fn is_over(&self) -> bool {
        self.queue.is_empty() && (self.from.is_end_stream() || matches!(self.source, State::Over(None)))
    }

    /// Notes that END_STREAM went out by other means (with the head).
    pub(crate) fn set_finished(&mut self) {
        self.finished = true;
    }

    pub(crate) fn moved(&self) -> u64 {
        self.taken + self.handed
    }

    /// Whether the last byte taken in ended a message.
    pub(crate) fn at_boundary(&self) -> bool {
        self.messages.at_boundary()
    }

    /// Takes in a chunk that was taken out of h2 already, before any other.
    pub(crate) fn begin_with(&mut self, chunk: Bytes, count: &Counter) {
        if !chunk.is_empty() {
            self.keep(chunk, count);
        }
    }

    /// Moves a response on; ready with the trailers, if there are any, once all DATA has been handed on.
    /// Ending the stream is left to the caller.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        count: &Counter,
    ) -> Poll<Result<Option<HeaderMap>, Broken>> {
        loop {
            self.take_in(cx, count)?;
            let moved = self.hand_on(cx, to, false)?;
            if let Some(barrier) = &mut self.barrier
                && ready!(barrier.poll_stall(cx, self.handed))
            {
                continue;
            }
            match &mut self.source {
                State::Over(trailers) if self.queue.is_empty() => return Poll::Ready(Ok(trailers.take())),
                State::Cut(code) if self.queue.is_empty() => return Poll::Ready(Err(Broken::Cut(*code))),
                _ if !moved => return self.poll_stalled(cx, !self.queue.is_empty()).map(Err),
                _ => {}
            }
        }
    }

    /// Ready when the receiver of what `waits` has stood still for too long and others wait for it.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>, waits: bool) -> Poll<Broken> {
        while waits && self.held.is_filling() {
            ready!(self.still.poll(cx, self.taken + self.handed, self.held.stall_timeout()));
            if self.held.is_stalled() {
                return Poll::Ready(Broken::Stalled);
            }
            self.still.begin_again();
        }
        Poll::Pending
    }

    /// Hands on what has been taken in, and asks for no more; ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut SendStream<Bytes>) -> Poll<()> {
        if let Some(barrier) = &mut self.barrier {
            barrier.lift();
        }
        loop {
            match self.hand_on(cx, to, false) {
                Ok(_) if self.queue.is_empty() => return Poll::Ready(()),
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Leaves it to somebody else to keep what is handed on.
    pub(crate) fn stop_keeping(&mut self) -> Option<Replay> {
        self.replay.take()
    }

    /// Takes out what has been taken in, for somebody else to hand on: see [`Pump::release`].
    pub(crate) fn take_chunk(&mut self) -> Option<Bytes> {
        self.queue.take(usize::MAX)
    }

    /// The sender's trailers, if any, once it has ended.
    pub(crate) fn over(&self) -> Option<Option<HeaderMap>> {
        match &self.source {
            State::Over(trailers) => Some(trailers.clone()),
            State::Open | State::DataOver | State::Cut(_) => None,
        }
    }

    /// Gives the sender its window back for what somebody else has handed on.
    pub(crate) fn release(&mut self, bytes: usize) {
        let _ = self.from.flow_control().release_capacity(bytes);
        self.held.sub(bytes);
        self.handed += bytes as u64;
    }

    /// Takes bytes out of the account that will never be handed on.
    pub(crate) fn forget(&mut self, bytes: usize) {
        self.held.sub(bytes);
    }

    /// Goes on where somebody else has left off: with `rest`, of which the window of the first bytes was given back, after
    /// so many bytes.
    pub(crate) fn go_on(&mut self, rest: Vec<Bytes>, given_back: usize, handed: u64, finished: bool) {
        self.replayed = given_back;
        rest.into_iter().for_each(|chunk| self.queue.push(chunk));
        (self.handed, self.finished) = (handed, finished);
    }

    /// Forgets what was kept for another attempt.
    pub(crate) fn commit(&mut self) {
        self.replay = None;
    }

    /// Whether all that was handed on is still here.
    pub(crate) fn is_kept(&self) -> bool {
        self.replay.is_some()
    }

    /// Begins again from the first byte, for another attempt, if [`Pump::is_kept`].
    pub(crate) fn rewind(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        let mut kept = replay.take();
        self.replayed += kept.len();
        let chunks: Vec<Bytes> = std::iter::from_fn(|| kept.take(usize::MAX)).collect();
        self.queue.put_back(chunks.into_iter());
        self.finished = false;
    }

    /// Notes that the source has ended, with these trailers.
    pub(crate) fn end_with(&mut self, trailers: Option<HeaderMap>) {
        if !matches!(self.source, State::Cut(_)) {
            self.source = State::Over(trailers);
        }
    }

    /// Takes everything out of h2 that is there. An error comes only after all bytes before it.
    pub(crate) fn take_in(&mut self, cx: &mut Context<'_>, count: &Counter) -> Result<(), Broken> {
        while matches!(self.source, State::Open) {
            match self.from.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {
                    self.source = if self.from.is_end_stream() { State::Over(None) } else { State::Open };
                }
                Poll::Ready(Some(Ok(chunk))) => {
                    self.keep(chunk, count);
                    if matches!(self.source, State::Open) && self.from.is_end_stream() {
                        self.source = State::Over(None);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(Broken::Source(error)),
                Poll::Ready(None) => self.source = State::DataOver,
                Poll::Pending => return Ok(()),
            }
        }
        // What comes behind a cut, while the response stands still before it, is nobody's.
        while matches!(self.source, State::Cut(_))
            && let Poll::Ready(Some(Ok(chunk))) = self.from.poll_data(cx)
        {
            let _ = self.from.flow_control().release_capacity(chunk.len());
        }
        if matches!(self.source, State::DataOver) {
            match self.from.poll_trailers(cx) {
                Poll::Ready(Ok(trailers)) => self.source = State::Over(trailers),
                Poll::Ready(Err(error)) => return Err(Broken::Source(error)),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    fn look_for_cut(&mut self) {
        if let Some(code) = self.barrier.as_ref().and_then(|barrier| barrier.cuts()) {
            self.source = State::Cut(code);
        }
    }

    fn keep(&mut self, mut chunk: Bytes, count: &Counter) {
        if let Some(barrier) = &mut self.barrier {
            let whole = chunk.len();
            barrier.take(&mut chunk);
            let _ = self.from.flow_control().release_capacity(whole - chunk.len());
            self.look_for_cut();
            if chunk.is_empty() {
                return;
            }
        }
        self.taken += chunk.len() as u64;
        self.held.add(chunk.len());
        let complete = self.messages.take(&chunk);
        if complete > 0 {
            count.add(complete);
        }
        if let Some(tally) = &self.tally {
            tally.add(chunk.len(), complete);
        }
        self.queue.push(chunk);
    }

    /// Hands on what the receiver's window takes; tells whether anything moved.
    fn hand_on(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        end_with_data: bool,
    ) -> Result<bool, Broken> {
        let mut moved = false;
        while !self.queue.is_empty() {
            let room = self.barrier.as_ref().map_or(usize::MAX, |barrier| barrier.room(self.handed));
            let wanted = self.queue.len().min(room);
            if wanted == 0 {
                return Ok(moved);
            }
            to.reserve_capacity(wanted);
            let mut capacity = to.capacity();
            if capacity == 0 {
                match to.poll_capacity(cx) {
                    Poll::Pending => return Ok(moved),
                    Poll::Ready(Some(Ok(more))) => capacity = more,
                    Poll::Ready(_) => return Err(Broken::Sink),
                }
            }
            if capacity == 0 {
                continue;
            }
            let Some(chunk) = self.queue.take(capacity.min(room)) else { break };
            let length = chunk.len();
            match &mut self.replay {
                None => {}
                Some(replay) if replay.has_room(length) => replay.push(chunk.clone()),
                replay => *replay = None,
            }
            let end = end_with_data && self.queue.is_empty() && matches!(self.source, State::Over(None));
            let sent = to.send_data(chunk, end);
            // The sender's window opens again only now. A stream that is gone needs no window.
            let again = length.min(self.replayed);
            self.replayed -= again;
            let _ = self.from.flow_control().release_capacity(length - again);
            self.held.sub(length - again);
            sent.map_err(|_| Broken::Sink)?;
            self.finished |= end;
            self.handed += length as u64;
            moved = true;
        }
        Ok(moved)
    }
}

impl Source for Pump {
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        count: &Counter,
    ) -> Poll<Result<(), Broken>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        loop {
            self.take_in(cx, count)?;
            let moved = self.hand_on(cx, to, true)?;
            match &mut self.source {
                _ if self.finished => return Poll::Ready(Ok(())),
                State::Over(trailers) if self.queue.is_empty() => {
                    let trailers = if self.replay.is_some() { trailers.clone() } else { trailers.take() };
                    let sent = match trailers {
                        Some(trailers) => to.send_trailers(trailers),
                        None => to.send_data(Bytes::new(), true),
                    };
                    self.finished = true;
                    return Poll::Ready(sent.map_err(|_| Broken::Sink));
                }
                _ if !moved => return self.poll_stalled(cx, !self.queue.is_empty()).map(Err),
                _ => {}
            }
        }
    }

    fn poll_take_in(&mut self, cx: &mut Context<'_>, count: &Counter) -> Poll<Broken> {
        match self.take_in(cx, count) {
            Ok(()) => self.poll_stalled(cx, !self.queue.is_empty()),
            Err(broken) => Poll::Ready(broken),
        }
    }

    fn is_held_up(&self) -> bool {
        !self.queue.is_empty()
    }

    fn handed(&self) -> u64 {
        self.handed
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        // h2 gives back the window of a stream that is gone.
        self.held.sub(self.queue.len() - self.replayed);
    }
}
