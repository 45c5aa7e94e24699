//! Faults on purpose.

use std::time::Duration;

use crate::code::{UNAVAILABLE, code};
use crate::fault::{Sink, Wrong};
use crate::walk::Fields;

/// `faults`: what the caller's sidecar does to some calls on purpose. Each is drawn for by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// Where the draws begin; `None`: anywhere.
    pub seed: Option<u64>,
    /// The call waits before it goes out.
    pub delay: Option<Delay>,
    /// The call ends before it goes out; after the delay, if both are drawn.
    pub abort: Option<Abort>,
    /// The response stands still for a while.
    pub stream_stall: Option<Stall>,
    /// The call ends in the middle of the response.
    pub stream_abort: Option<StreamAbort>,
}

/// `faults.delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The share of calls, in parts per million.
    pub share_ppm: u32,
    /// How long.
    pub duration: Duration,
}

/// `faults.abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The share of calls, in parts per million.
    pub share_ppm: u32,
    /// The number of the status code.
    pub code: u8,
}

/// `faults.stream_stall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The share of calls, in parts per million.
    pub share_ppm: u32,
    /// Once so many messages of the response have gone on.
    pub after_messages: u64,
    /// How long.
    pub duration: Duration,
}

/// `faults.stream_abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// The share of calls, in parts per million.
    pub share_ppm: u32,
    /// Once so many messages of the response have gone on.
    pub after_messages: u64,
    /// The number of the status code.
    pub code: u8,
}

const ALL: u32 = 1_000_000;

pub(crate) fn injection(fields: &Fields, sink: &mut Sink) -> Option<Injection> {
    let block = fields.fields("faults")?;
    let share = |block: &Fields| block.ppm("percentage").unwrap_or(ALL);
    let status = |block: &Fields| code(block, "code").unwrap_or(UNAVAILABLE);
    let after = |block: &Fields| block.integer("after_messages").unwrap_or_default();
    let injection = Injection {
        seed: block.integer("seed"),
        delay: block.fields("delay").map(|block| Delay {
            share_ppm: share(block),
            duration: block.duration("duration").unwrap_or_default(),
        }),
        abort: block.fields("abort").map(|block| Abort { share_ppm: share(block), code: status(block) }),
        stream_stall: block.fields("stream_stall").map(|block| Stall {
            share_ppm: share(block),
            after_messages: after(block),
            duration: block.duration("duration").unwrap_or_default(),
        }),
        stream_abort: block.fields("stream_abort").map(|block| StreamAbort {
            share_ppm: share(block),
            after_messages: after(block),
            code: status(block),
        }),
    };
    if block.whole
        && injection == (Injection { seed: injection.seed, ..Injection::default() })
        && injection.seed.is_some()
    {
        let wrong = Wrong::new("a seed, and no fault");
        let hint = "write `abort`, `delay`, `stream_abort` or `stream_stall` beside it";
        sink.add(block.place, &block.path, wrong.hint(hint));
    }
    Some(injection)
}
