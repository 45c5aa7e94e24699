//! The life of a call.
//!
//! ```text
//! identify -> admit -> [ pick -> connection -> request -> head of the response ]* -> relay -> status
//! ```
//!
//! [`serve`] is the whole of it; the other modules are its steps.

pub(crate) mod answer;
pub(crate) mod attempt;
pub(crate) mod barrier;
pub(crate) mod deadline;
pub(crate) mod exchange;
pub(crate) mod fan;
pub(crate) mod head;
pub(crate) mod hedge;
pub(crate) mod inject;
pub(crate) mod learn;
pub(crate) mod leave;
pub(crate) mod origin;
pub(crate) mod placement;
pub(crate) mod plan;
pub(crate) mod pump;
pub(crate) mod queue;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod respond;
pub(crate) mod retry;
pub(crate) mod standing;
pub(crate) mod still;
pub(crate) mod trail;
pub(crate) mod verdict;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, StatusCode};
use tokio::time::Instant;

use crate::call::exchange::Exchange;
use crate::call::head::Refusal;
use crate::call::learn::Waiting;
use crate::call::leave::Leave;
use crate::call::origin::{Origin, Way};
use crate::call::plan::{Arrival, Called, Callee, Unidentified};
use crate::call::pump::Pump;
use crate::call::replay::Replay;
use crate::call::respond::{Caller, Place};
use crate::call::trail::Trail;
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::local::Local;
use crate::metrics::calls::{Direction, Series};
use crate::metrics::events::{Events, Limit};

/// Serves one call from its head to its status.
pub(crate) async fn serve(
    context: Rc<Context>,
    mut local: Rc<Local>,
    origin: Rc<Origin>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let began = Instant::now();
    let direction = origin.direction();
    let (mut parts, body) = request.into_parts();
    let grpc = head::is_grpc(&parts);
    let mut caller = Caller::new(respond, origin.link.clone(), grpc, &parts.method);
    let trail = Trail::begin(&context, &origin, &parts, grpc, began);
    if let Some(Refusal { status, reason, message }) =
        head::refusal(&parts, context.shared.limits.header_list)
    {
        context.events().fail(direction, reason);
        if !grpc {
            context.events().count_http(direction, Some(status));
        }
        trail.refused(status, reason, message);
        return caller.refuse(status);
    }
    let nowhere = Place::default();
    let identified = head::settle_authority(&mut parts)
        .map_err(Unidentified::Failed)
        .and_then(|()| plan::identify(&local.tables, &origin, &parts, grpc));
    let identified = match identified {
        Ok(called) => Ok(called),
        // Boxed, so that calls that are known at once are not larger for it.
        Err(unidentified) => {
            let waiting = Waiting { context: &context, caller: &mut caller, direction, grpc, began };
            Box::pin(waiting.place(&mut local, &origin, &parts, unidentified)).await
        }
    };
    let called = match identified {
        Ok(called) => called,
        Err(None) => return trail.end(Code::Cancelled, None),
        Err(Some(failure)) => {
            trail.failed(&failure);
            let code = caller.fail(&context, direction, &failure, &nowhere, None).await;
            if !grpc {
                context.events().count_http(direction, caller.status());
            }
            return trail.end(code, caller.status());
        }
    };
    trail.called(called.callee.name(&local));
    let request = Arrival { headers: &parts.headers, grpc, began, trail: &trail };
    let plan = plan::admit(&context, &local, &origin, &called, request);
    if plan.is_ok() && direction == Direction::Inbound {
        let path = parts.uri.path_and_query();
        let given = |cx: &mut TaskContext<'_>| {
            Poll::Ready(Leave::given(&origin, &local, path, &parts.headers, grpc, cx.waker()))
        };
        caller.leave = poll_fn(given).await;
    }
    let series = match grpc {
        true => series(&context, &local, &origin, &called, plan.is_ok()),
        false => context.unshown.clone(),
    };
    let mut observed = Observed::begin(&context, direction, series, began, grpc);
    observed.code = match observed.within_limit().and(plan) {
        Ok(plan) => {
            head::prepare(&mut parts, &origin, plan.headers);
            trail::trace(&trail, &mut parts.headers, &context);
            if let Some(route) = plan.route {
                trail.routed(route);
            }
            let deadline = plan.granted.map(|granted| began + granted);
            let _kept = deadline::keep(&context, &local, direction, &parts.headers, deadline);
            let held = origin.link.held.clone();
            let mut exchange = Exchange {
                context: &context,
                direction,
                series: &observed.series,
                deadline,
                plan: &plan,
                trail: &trail,
                caller: &mut caller,
                // Nothing else is repeated: by inbound sidecars nothing, of requests that are not gRPC nothing.
                request: Pump::new(body, held)
                    .keeping(
                        (direction == Direction::Outbound && grpc)
                            .then(|| Replay::new(context.clone(), plan.repeats)),
                    )
                    .noted(trail.tallies().map(|(request, _)| request)),
                grpc,
                is_late: false,
                barrier: None,
            };
            // Boxed, so that calls to which nothing is done are not larger for it.
            let ended = match plan.faults.filter(|_| grpc) {
                Some(faults) => Box::pin(exchange.inject(faults, &origin)).await,
                None => None,
            };
            let code = match ended {
                Some(code) => code,
                None => exchange.run(&mut parts, &origin).await,
            };
            if let Some((median, weight)) = plan.median.filter(|_| code == Code::Ok) {
                median.observe(context.index, began.elapsed(), weight);
            }
            code
        }
        Err(failure) => {
            trail.failed(&failure);
            caller.fail(&context, direction, &failure, &nowhere, None).await
        }
    };
    observed.status = caller.status();
    trail.end(observed.code, caller.status());
}

/// The counters of a call. One that was refused makes no new series: it may name any method it likes.
fn series(
    context: &Context,
    local: &Local,
    origin: &Origin,
    called: &Called<'_, '_>,
    admitted: bool,
) -> Arc<Series> {
    let cache = match (&origin.way, called.callee) {
        (Way::Inbound { series, .. }, _) => series,
        (Way::Outbound(_), Callee::Service(service)) => local.outbound(service),
        (Way::Outbound(_), Callee::Elsewhere(passage)) => &passage.series,
    };
    let methods = called.callee.methods(local);
    if admitted {
        cache.find(context, methods, called.method)
    } else {
        cache.find_known(context, methods, called.method)
    }
}

/// A call in the metrics: begun when made, ended once.
struct Observed<'a> {
    context: &'a Context,
    direction: Direction,
    series: Arc<Series>,
    began: Instant,
    grpc: bool,
    code: Code,
    /// The HTTP status that the caller was told, if any.
    status: Option<StatusCode>,
}

impl<'a> Observed<'a> {
    fn begin(
        context: &'a Context,
        direction: Direction,
        series: Arc<Series>,
        began: Instant,
        grpc: bool,
    ) -> Self {
        series.started.add(1);
        context.events().calls_in_flight[direction as usize].add(1);
        // A task that is dropped before its end is a call that was cut off.
        Self { context, direction, series, began, grpc, code: Code::Cancelled, status: None }
    }

    fn within_limit(&self) -> Result<(), Failure> {
        let limit = self.context.shared.limits.calls;
        if !self.context.shared.is_full(limit + 1, Events::calls) {
            return Ok(());
        }
        self.context.refuse(Limit::Calls);
        let message = format!("{limit} calls are in flight, which is the limit `calls`");
        Err(Failure::unprocessed(Reason::TooManyCalls, message))
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        let events = self.context.events();
        if self.grpc {
            self.series.end(self.code, self.began.elapsed());
        } else {
            events.count_http(self.direction, self.status);
        }
        // Last: whoever waits until none is in flight finds their ends counted.
        events.calls_in_flight[self.direction as usize].sub(1);
    }
}

#[cfg(test)]
mod tests {
    fn bytes<A, B, C, D, E, R>(_: impl Fn(A, B, C, D, E) -> R) -> usize {
        size_of::<R>()
    }

    /// Streams that are open for hours are many, and each holds its task.
    #[test]
    fn a_call_under_way_takes_less_than_five_kib_besides_its_buffers() {
        let bytes = bytes(super::serve);
        assert!(bytes < 5 << 10, "{bytes}");
    }
}
