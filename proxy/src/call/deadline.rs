//! How long a call may take.

use std::time::Duration;

use config::model::Deadline;
use http::HeaderMap;
use tokio::time::Instant;

use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::inherited::Entered;
use crate::local::Local;
use crate::metrics::calls::Direction;
use crate::metrics::events::Limit;
use crate::metrics::median::Weight;
use crate::trace::context::Incoming;

/// What a call is given: what it asks for or else the route's default, and never more than the cap. `None`:
/// as long as it likes.
pub(crate) fn granted(asked: Option<Duration>, policy: Deadline) -> Option<Duration> {
    let wanted = asked.or(policy.default)?;
    Some(policy.max.map_or(wanted, |max| wanted.min(max)))
}

/// What is left at `now` of the deadline of the inbound call that a call is made for, as far as its trace tells.
pub(crate) fn inherited(context: &Context, headers: &HeaderMap, now: Instant) -> Option<Duration> {
    let latest = context.shared.inherited.latest(trace_of(headers)?)?;
    Some(latest.saturating_duration_since(now))
}

/// Keeps the deadline of an inbound call for what the app calls on its behalf, where anything inherits one.
pub(crate) fn keep<'a>(
    context: &'a Context,
    local: &Local,
    direction: Direction,
    headers: &HeaderMap,
    deadline: Option<Instant>,
) -> Option<Entered<'a>> {
    if direction == Direction::Outbound || !local.tables.inherits {
        return None;
    }
    let entered = context.shared.inherited.enter(trace_of(headers)?, deadline);
    if entered.is_none() {
        context.refuse(Limit::InheritedDeadlines);
    }
    entered
}

fn trace_of(headers: &HeaderMap) -> Option<u128> {
    Incoming::read(headers).parent.map(|parent| parent.trace)
}

/// Refuses a call that has less time left than half of the calls of its route took lately, unless it is to `probe`.
pub(crate) fn shed(
    left: Option<Duration>,
    median: Option<Duration>,
    probe: impl FnOnce() -> bool,
) -> Result<Weight, Failure> {
    match (left, median) {
        (Some(left), Some(median)) if left < median => {
            if probe() {
                return Ok(Weight::Probe);
            }
            let message = format!(
                "the call has {left:?} left, and half of such calls took {median:?} or longer in the last seconds"
            );
            Err(Failure::new(Reason::ShedBelowMedian, Code::DeadlineExceeded, message))
        }
        _ => Ok(Weight::One),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_for_calls_that_bring_none_and_the_cap_for_all_that_have_one() {
        let second = Duration::from_secs(1);
        let policy = Deadline { default: Some(second), max: Some(2 * second), ..Deadline::default() };
        assert_eq!(granted(None, policy), Some(second));
        assert_eq!(granted(Some(second / 2), policy), Some(second / 2));
        assert_eq!(granted(Some(9 * second), policy), Some(2 * second));
        let capped = Deadline { max: Some(second), ..Deadline::default() };
        assert_eq!(granted(None, capped), None, "a stream without a deadline is not touched by the cap");
        assert_eq!(granted(Some(9 * second), Deadline::default()), Some(9 * second));
    }

    #[test]
    fn only_a_call_that_has_less_time_than_the_known_median_is_shed() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (left, median, is_shed) in [
            (ms(9), ms(10), true),
            (ms(10), ms(10), false),
            (ms(11), ms(10), false),
            (None, ms(10), false),
            (ms(0), None, false),
        ] {
            assert_eq!(shed(left, median, || false).is_err(), is_shed, "{left:?} of {median:?}");
        }
    }
}
