//! Faults on purpose: what is done to a call that its rule has drawn.
//!
//! ```text
//! delay -> abort                       before the call goes out: nothing of it reaches an endpoint
//! head -> N messages -> stall -> cut   on the way of its response to the caller
//! ```

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::call::barrier::{Barrier, code};
use crate::call::exchange::Exchange;
use crate::call::origin::Origin;
use crate::call::respond::Place;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::metrics::events::Fault;
use crate::tables::faults::Faults;

impl Exchange<'_> {
    /// Draws for the call, and does what comes before it goes out; `Some`: that was its end.
    pub(crate) async fn inject(&mut self, faults: &Faults, origin: &Origin) -> Option<Code> {
        let drawn = faults.draw(|| self.context.draw());
        self.barrier = Barrier::of(self.context, &drawn);
        if let Some(duration) = drawn.delay {
            self.context.events().inject(Fault::Delay);
            if let Some(code) = self.delay(duration, origin).await {
                return Some(code);
            }
        }
        let code = code(drawn.abort?);
        self.context.events().inject(Fault::Abort);
        let message = "fault on purpose: the call has not gone out";
        let failure = Failure::new(Reason::FaultInjected, code, message);
        Some(self.fail(&failure, &Place::default(), None).await)
    }

    /// Waits; `Some`: the call has ended meanwhile.
    async fn delay(&mut self, duration: Duration, origin: &Origin) -> Option<Code> {
        let over = Instant::now() + duration;
        let mut timer = pin!(self.deadline.map(sleep_until));
        loop {
            let left = over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if let Err(stop) = self.wait(left.min(LOOK), timer.as_mut()).await {
                return Some(self.stopped(stop, &Place::default(), origin, None).await);
            }
            if origin.link.is_ending() {
                let message = "the sidecar has been asked to go, and its time is over";
                let failure = Failure::new(Reason::Draining, Code::Unavailable, message);
                return Some(self.fail(&failure, &Place::default(), None).await);
            }
        }
    }
}

/// How often a call that waits looks whether the sidecar must go: it waits for nothing that would tell it.
const LOOK: Duration = Duration::from_millis(250);
