//! What an attempt has come to, and whether there may be another one.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::call::answer::{Answer, Answered, Stop};
use crate::call::attempt::Attempt;
use crate::call::plan::Plan;
use crate::call::respond::{Caller, Place};
use crate::call::retry::{Failed, Pushback};
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::metrics::events::{Cause, Limit};

/// How often a call that waits between attempts looks whether the sidecar must go: nothing else would tell it.
pub(crate) const LOOK: Duration = Duration::from_millis(250);

/// What a call has come to before anything of a response has gone on.
#[expect(clippy::large_enum_variant, reason = "moved once, in the one case that is frequent")]
pub(crate) enum Settled {
    /// It is committed to this attempt.
    Answered(Attempt, Answered),
    Stopped(Stop),
    Failed(Failure),
}

/// What an attempt makes of its call when there is no other one.
pub(crate) fn settle(mut attempt: Attempt, answer: Answer, place: &mut Place) -> Settled {
    let settled = match answer {
        Answer::Response(answered) => return Settled::Answered(attempt, answered),
        Answer::Stopped(stop) => Settled::Stopped(stop),
        Answer::Refused(failure) | Answer::Broken(failure) => Settled::Failed(failure),
        Answer::TimedOut(limit) => Settled::Failed(overtime(limit)),
    };
    place.endpoint = Some(attempt.endpoint().name.clone());
    attempt.cancel();
    settled
}

/// The end of a call whose last attempt was too slow.
fn overtime(limit: Duration) -> Failure {
    let message = format!("the endpoint has not answered within the {limit:?} of an attempt");
    Failure::new(Reason::AttemptTimeout, Code::DeadlineExceeded, message)
}

/// What a call's attempts are judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) context: &'a Context,
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) grpc: bool,
    pub(crate) deadline: Option<Instant>,
    /// It was delayed on purpose.
    pub(crate) is_late: bool,
}

impl Judge<'_> {
    /// How an attempt failed before the call was committed to it; what it tells of its endpoint is taken in.
    pub(crate) fn failed(&self, attempt: &Attempt, answer: &Answer) -> Option<Failed> {
        let cluster = self.plan.target.cluster;
        let (failed, told) = match answer {
            Answer::Response(answered) if !self.grpc => {
                let code =
                    if answered.response.status().is_server_error() { Code::Unavailable } else { Code::Ok };
                attempt.report(cluster, Some(code));
                return None;
            }
            Answer::Response(answered) => {
                let (code, said) = answered.failure()?;
                if said == Pushback::Never && !self.is_mendable(code) {
                    self.spend();
                }
                (Failed::Status(code, said), Some(code))
            }
            Answer::Refused(_) => {
                attempt.endpoint().cooling.fail(self.context.now(), self.context.draw());
                attempt.report(cluster, None);
                return Some(Failed::Unprocessed);
            }
            Answer::Broken(failure) => (Failed::Broken(failure.code), None),
            Answer::TimedOut(_) => {
                attempt.ran_out_of_time();
                (Failed::TimedOut, None)
            }
            Answer::Stopped(stop) => {
                self.stopped(attempt, *stop);
                return None;
            }
        };
        self.learn(attempt, told);
        Some(failed)
    }

    /// Takes in how an attempt ended: with a status of the endpoint's, or without an answer.
    pub(crate) fn learn(&self, attempt: &Attempt, told: Option<Code>) {
        if !attempt.report(self.plan.target.cluster, told) {
            return;
        }
        match told {
            Some(Code::Ok) => {
                if let Some(throttle) = &self.plan.target.cluster.throttle {
                    throttle.succeed();
                }
            }
            Some(code) if !self.is_mendable(code) => {}
            _ => self.spend(),
        }
    }

    /// Whether another attempt may mend it that one ended with this status.
    fn is_mendable(&self, code: Code) -> bool {
        self.plan.repeats.codes().contains(code.number())
    }

    /// Takes a token.
    fn spend(&self) {
        if let Some(throttle) = &self.plan.target.cluster.throttle {
            throttle.fail();
        }
    }

    /// Whether the throttle and the budget allow one more attempt, and the request is still here from its first byte.
    pub(crate) fn grants(&self, is_kept: bool, cause: Cause) -> bool {
        let cluster = self.plan.target.cluster;
        let throttled = || cluster.throttle.as_ref().is_some_and(|throttle| !throttle.allows());
        let limit = if !is_kept {
            Limit::ReplayBuffer
        } else if cause != Cause::Unprocessed && throttled() {
            Limit::RetryThrottling
        } else if !cluster.purse.take(&cluster.retry_budget, self.context.now()) {
            Limit::RetryBudget
        } else {
            cluster.attempts[self.context.index].repeat(cause);
            return true;
        };
        self.context.refuse(limit);
        false
    }

    /// Takes in that an attempt ended before its endpoint had answered.
    pub(crate) fn stopped(&self, attempt: &Attempt, stop: Stop) {
        // What was delayed on purpose may have had no time from the start.
        if !self.is_late {
            attempt.report_stop(self.plan.target.cluster, stop, self.is_out_of_time());
        }
    }

    pub(crate) fn is_out_of_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// Ready when the deadline has passed, the caller is gone or may not call any more.
pub(crate) fn poll_stop(
    cx: &mut TaskContext<'_>,
    timer: Pin<&mut Option<Sleep>>,
    caller: &mut Caller,
) -> Poll<Stop> {
    if let Some(why) = caller.revoked() {
        return Poll::Ready(Stop::Revoked(why));
    }
    if let Some(timer) = timer.as_pin_mut()
        && timer.poll(cx).is_ready()
    {
        return Poll::Ready(Stop::Deadline);
    }
    caller.poll_gone(cx).map(|()| Stop::CallerGone)
}
