//! Faults on purpose: what is done to a call that its rule has drawn.
//!
//! ```text
//! delay -> abort                       before the call goes out: nothing of it reaches an endpoint
//! head -> N messages -> stall -> cut   on the way of its response to the caller
//! ```

use std::pin::pin;

use tokio::time::sleep_until;

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
            self.is_late = true;
            let timer = pin!(self.deadline.map(sleep_until));
            if let Err(stop) = self.wait(duration, timer).await {
                return Some(self.stopped(stop, &Place::default(), origin, None).await);
            }
        }
        let code = code(drawn.abort?);
        self.context.events().inject(Fault::Abort);
        let message = "fault on purpose: the call has not gone out";
        let failure = Failure::new(Reason::FaultInjected, code, message);
        Some(self.fail(&failure, &Place::default(), None).await)
    }
}
