//! Faults on purpose on the way of a response to its caller: it stands still, or is cut.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Sleep, sleep};

use crate::context::{Context, Shared};
use crate::failure::{Failure, Reason};
use crate::grpc::messages::Messages;
use crate::grpc::status::{ALL, Code};
use crate::metrics::events::Fault;
use crate::tables::faults::Drawn;

/// What stands in the way of a response.
#[derive(Debug)]
pub(crate) struct Barrier {
    stall: Option<Stall>,
    cut: Option<(Milestone, Code)>,
    /// Where a fault is counted when it takes effect.
    shared: Arc<Shared>,
    worker: usize,
}

/// The response stands still here.
#[derive(Debug)]
struct Stall {
    milestone: Milestone,
    duration: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The byte of a response behind which so many messages have ended.
#[derive(Debug)]
struct Milestone {
    /// Messages still to come.
    left: u64,
    messages: Messages,
    /// Bytes up to there, as far as they have come.
    bytes: u64,
}

impl Barrier {
    /// What has been drawn for the response, if anything.
    pub(crate) fn of(context: &Context, drawn: &Drawn) -> Option<Box<Self>> {
        let stall = drawn.stall.map(|stall| Stall {
            milestone: Milestone::new(stall.after_messages),
            duration: stall.duration,
            timer: None,
        });
        let cut = drawn.cut.map(|cut| (Milestone::new(cut.after_messages), code(cut.code)));
        let any = stall.is_some() || cut.is_some();
        any.then(|| Box::new(Self { stall, cut, shared: context.shared.clone(), worker: context.index }))
    }

    /// Looks at the next bytes of the response and leaves of them what may still go on.
    pub(crate) fn take(&mut self, chunk: &mut Bytes) {
        if let Some((milestone, _)) = &mut self.cut {
            let taken = milestone.take(chunk);
            if milestone.left == 0 {
                chunk.truncate(taken);
            }
        }
        if let Some(stall) = &mut self.stall {
            stall.milestone.take(chunk);
        }
    }

    /// The status that the response ends with, once all is here that goes before it.
    pub(crate) fn cuts(&self) -> Option<Code> {
        self.cut.as_ref().filter(|(milestone, _)| milestone.left == 0).map(|(_, code)| *code)
    }

    /// How many bytes may be handed on now, after `handed`.
    pub(crate) fn room(&self, handed: u64) -> usize {
        let until = self.stall.as_ref().filter(|stall| stall.milestone.left == 0);
        until.map_or(usize::MAX, |stall| stall.milestone.bytes.saturating_sub(handed) as usize)
    }

    /// Pending while the response stands still after `handed` bytes; `true`: it did, and goes on now.
    pub(crate) fn poll_stall(&mut self, cx: &mut TaskContext<'_>, handed: u64) -> Poll<bool> {
        let Some(stall) = &mut self.stall else { return Poll::Ready(false) };
        if stall.milestone.left > 0 || handed < stall.milestone.bytes {
            return Poll::Ready(false);
        }
        let (shared, worker) = (&self.shared, self.worker);
        let timer = stall.timer.get_or_insert_with(|| {
            shared.events[worker].inject(Fault::StreamStall);
            Box::pin(sleep(stall.duration))
        });
        ready!(timer.as_mut().poll(cx));
        self.stall = None;
        Poll::Ready(true)
    }

    /// The response stands still no more: the call has ended, and what is left of it is let go.
    pub(crate) fn lift(&mut self) {
        self.stall = None;
    }
}

impl Milestone {
    fn new(messages: u64) -> Self {
        Self { left: messages, messages: Messages::default(), bytes: 0 }
    }

    /// Takes the next bytes as far as they come before it; tells how many these are.
    fn take(&mut self, chunk: &[u8]) -> usize {
        let (taken, complete) = self.messages.take_some(chunk, self.left);
        self.left -= complete;
        self.bytes += taken as u64;
        taken
    }
}

/// Why a call ends in the middle of its response.
pub(crate) fn cut(code: Code) -> Failure {
    let message = "fault on purpose: the response ends here";
    Failure::new(Reason::FaultInjected, code, message)
}

/// The code of that number.
pub(crate) fn code(number: u8) -> Code {
    // The parser takes no other number.
    ALL.get(usize::from(number)).copied().unwrap_or(Code::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_milestone_is_the_byte_behind_its_messages_however_they_come() {
        let one: &[u8] = b"\0\0\0\0\x03abc";
        let all = one.repeat(10);
        for messages in 0..12 {
            for cut in [1, 3, 8, 11, 80] {
                let mut milestone = Milestone::new(messages);
                let taken: usize = all.chunks(cut).map(|chunk| milestone.take(chunk)).sum();
                assert_eq!(taken as u64, 8 * messages.min(10), "{messages} messages, cut {cut}");
                assert_eq!((milestone.bytes, milestone.left), (taken as u64, messages.saturating_sub(10)));
            }
        }
    }
}
