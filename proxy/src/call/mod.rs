//! The life of a call.
//!
//! ```text
//! identify -> admit -> [ pick -> connection -> request -> head of the response ]* -> relay -> status
//! ```
//!
//! [`serve`] is the whole of it; the other modules are its steps.

pub(crate) mod attempt;
pub(crate) mod deadline;
pub(crate) mod exchange;
pub(crate) mod head;
pub(crate) mod origin;
pub(crate) mod plan;
pub(crate) mod pump;
pub(crate) mod queue;
pub(crate) mod respond;
pub(crate) mod still;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, StatusCode};
use tokio::time::Instant;

use crate::call::exchange::Exchange;
use crate::call::origin::{Origin, Way};
use crate::call::plan::Called;
use crate::call::pump::Pump;
use crate::call::respond::{Caller, Place};
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::local::Local;
use crate::metrics::calls::{Direction, Series};
use crate::metrics::events::{Events, Limit};

/// Serves one call from its head to its status.
pub(crate) async fn serve(
    context: Rc<Context>,
    local: Rc<Local>,
    origin: Rc<Origin>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let began = Instant::now();
    let direction = origin.direction();
    let (mut parts, body) = request.into_parts();
    let mut caller = Caller::new(respond, origin.link.clone());
    if !head::is_grpc(&parts) {
        context.events().fail(direction, Reason::NotGrpc);
        return caller.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    if head::is_too_long(&parts, context.shared.limits.header_list) {
        return caller.refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let nowhere = Place::default();
    let called = match head::settle_authority(&mut parts)
        .and_then(|()| plan::identify(&local.tables, &origin, &parts))
    {
        Ok(called) => called,
        Err(failure) => {
            caller.fail(&context, direction, &failure, &nowhere, None).await;
            return;
        }
    };
    let plan = plan::admit(&context, &local.tables, &origin, &called, &parts.headers);
    let series = series(&context, &local, &origin, &called, plan.is_ok());
    let observed = Observed::begin(&context, direction, series, began);
    let code = match observed.within_limit().and(plan) {
        Ok(plan) => {
            head::prepare(&mut parts, &origin, plan.headers, &mut context.random.borrow_mut());
            let held = origin.link.held.clone();
            let mut exchange = Exchange {
                context: &context,
                direction,
                series: &observed.series,
                deadline: plan.granted.map(|granted| began + granted),
                plan: &plan,
                caller,
                request: match direction {
                    // An inbound sidecar repeats nothing.
                    Direction::Inbound => Pump::new(body, held),
                    Direction::Outbound => Pump::replayable(body, held),
                },
            };
            exchange.run(&local, &mut parts, &origin).await
        }
        Err(failure) => caller.fail(&context, direction, &failure, &nowhere, None).await,
    };
    observed.end(code);
}

/// The counters of a call. One that was refused makes no new series: it may name any method it likes.
fn series(
    context: &Context,
    local: &Local,
    origin: &Origin,
    called: &Called<'_>,
    admitted: bool,
) -> Arc<Series> {
    let service = &local.tables.services[called.service];
    let cache = match &origin.way {
        Way::Inbound { series, .. } => series,
        Way::Outbound => local.outbound(called.service),
    };
    if admitted {
        cache.find(context, service, called.method)
    } else {
        cache.find_known(context, service, called.method)
    }
}

/// A call in the metrics: begun when made, ended once.
struct Observed<'a> {
    context: &'a Context,
    direction: Direction,
    series: Arc<Series>,
    began: Instant,
    code: Code,
}

impl<'a> Observed<'a> {
    fn begin(context: &'a Context, direction: Direction, series: Arc<Series>, began: Instant) -> Self {
        series.started.add(1);
        context.events().calls_in_flight[direction as usize].add(1);
        // A task that is dropped before its end is a call that was cut off.
        Self { context, direction, series, began, code: Code::Cancelled }
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

    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        self.context.events().calls_in_flight[self.direction as usize].sub(1);
        self.series.end(self.code, self.began.elapsed());
    }
}
