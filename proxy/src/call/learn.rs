//! What a call waits for that nobody here can place: the first mesh, and the control plane's word on a host that no
//! service of the snapshot has.
//!
//! ```text
//! no mesh yet, or no certificate -> wait for it, 5 s at most -> still none: `no config yet`, `no identity yet`
//! no service has the host -> the control plane may know it? ask, 5 s at most -> look again
//!                            else: as if there were no control plane
//! ```

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use http::request::Parts;
use tokio::time::{Instant, sleep, sleep_until};

use crate::call::head::TIMEOUT;
use crate::call::origin::Origin;
use crate::call::plan::{Called, Unidentified, elsewhere, identify, not_begun};
use crate::call::respond::Caller;
use crate::context::Context;
use crate::demand::PATIENCE;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::grpc::timeout;
use crate::local::Local;
use crate::metrics::calls::Direction;
use crate::metrics::counter::Counter;
use crate::metrics::events::{Events, Limit};

/// How often a call that waits looks whether the sidecar has no more time.
const LOOK: Duration = Duration::from_millis(50);

/// A call that waits to be placed.
pub(crate) struct Waiting<'w> {
    pub(crate) context: &'w Rc<Context>,
    pub(crate) caller: &'w mut Caller,
    pub(crate) direction: Direction,
    pub(crate) grpc: bool,
    pub(crate) began: Instant,
}

impl Waiting<'_> {
    /// Places the call, once what it waits for is here; `local` becomes the view that it goes by. `Err(None)`: its caller
    /// has gone.
    pub(crate) async fn place<'a, 'o: 'a>(
        mut self,
        local: &mut Rc<Local>,
        origin: &'o Origin,
        parts: &'a Parts,
        mut unidentified: Unidentified<'o>,
    ) -> Result<Called<'a, 'o>, Option<Failure>> {
        let shared = &self.context.shared;
        let mut asked = false;
        loop {
            match unidentified {
                Unidentified::Failed(failure) => return Err(Some(failure)),
                Unidentified::NoMesh => {
                    self.wait(&parts.headers, async {
                        let _ = shared.has_mesh().await;
                    })
                    .await?;
                    if !shared.tables.load().has_mesh {
                        return Err(Some(not_begun(shared)));
                    }
                }
                Unidentified::Host { host, otherwise } => {
                    if asked || !shared.demand.may_be_known(&host, Instant::now()) {
                        if !asked {
                            shared.demand.unasked();
                        }
                        return match otherwise {
                            Ok(passage) => Ok(elsewhere(parts, passage)),
                            Err(failure) => Err(Some(failure)),
                        };
                    }
                    self.wait(&parts.headers, shared.demand.ask(&host)).await?;
                    asked = true;
                }
            }
            *local = origin.locals.current(self.context);
            match identify(&local.tables, origin, parts, self.grpc) {
                Ok(called) => return Ok(called),
                Err(still) => unidentified = still,
            }
        }
    }

    /// Waits for `event`, but not longer than the call has time. It counts as a call in flight meanwhile.
    async fn wait(
        &mut self,
        headers: &HeaderMap,
        event: impl Future<Output = ()>,
    ) -> Result<(), Option<Failure>> {
        let shared = &self.context.shared;
        let in_flight = &self.context.events().calls_in_flight[self.direction as usize];
        in_flight.add(1);
        let _counted = Counted(in_flight);
        let limit = shared.limits.calls;
        if shared.is_full(limit + 1, Events::calls) {
            self.context.refuse(Limit::Calls);
            let message = format!("{limit} calls are in flight, which is the limit `calls`");
            return Err(Some(Failure::unprocessed(Reason::TooManyCalls, message)));
        }
        let asked = headers.get(TIMEOUT).filter(|_| self.grpc);
        let deadline = asked.and_then(|value| timeout::parse(value.as_bytes()).ok());
        // One that is faulty or further away than the wait decides nothing here.
        let deadline = self.began + deadline.unwrap_or(PATIENCE * 3).min(PATIENCE * 3);
        let caller = &mut *self.caller;
        let gone_or_ending = async {
            loop {
                tokio::select! {
                    () = poll_fn(|cx| caller.poll_gone(cx)) => return None,
                    () = sleep(LOOK) => {}
                }
                if caller.is_ending() {
                    return Some(Failure::unprocessed(Reason::Draining, "the sidecar is shutting down"));
                }
            }
        };
        tokio::select! {
            biased;
            () = event => Ok(()),
            end = gone_or_ending => Err(end),
            () = sleep_until(deadline) => {
                let message = "the deadline passed before it was known where the call goes";
                Err(Some(Failure::new(Reason::DeadlineExceeded, Code::DeadlineExceeded, message)))
            }
        }
    }
}

/// A call in flight, until it is dropped.
struct Counted<'a>(&'a Counter);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}
