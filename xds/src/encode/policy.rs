//! What holds for a route's calls: `Policy` as the fields of Route and RouteAction.

use std::time::Duration;

use config::injection::Injection;
use config::model::{Deadline, HeaderChanges, Policy};
use config::repeats::{Commit, Hedging, REPLAY_LIMIT, Repeats, Retries};

use crate::audience::Client;
use crate::filters::FAULT;
use crate::pb::core::header_value_option::HeaderAppendAction;
use crate::pb::core::{HeaderValue, HeaderValueOption};
use crate::pb::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
use crate::pb::fault_common::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::pb::percent::{FractionalPercent, fractional_percent::DenominatorType};
use crate::pb::protobuf::UInt64Value;
use crate::pb::route::route_action::MaxStreamDuration;
use crate::pb::route::{HedgePolicy, Route, RouteAction};
use crate::private::Fields;
use crate::retry_on::{self, MULTIPLIER};
use crate::wire::{duration, number, pack};

/// Writes all of a policy; what the public part cannot say goes to `private`.
pub(crate) fn write(
    policy: &Policy,
    client: &Client,
    route: &mut Route,
    action: &mut RouteAction,
    private: &mut Fields,
) {
    // Envoy's own default, 15 s for a whole call, would cut streams.
    action.timeout = Some(duration(Duration::ZERO));
    deadline(&policy.deadline, action, private);
    action.idle_timeout = policy.stream.idle.map(duration);
    (route.request_headers_to_add, route.request_headers_to_remove) = changes(&policy.headers.request);
    (route.response_headers_to_add, route.response_headers_to_remove) = changes(&policy.headers.response);
    repeats(&policy.repeats, client, route, action, private);
    injection(&policy.injection, route, private);
}

/// Both fields are always written: 0 is "no limit", and for the second "what the caller asks for".
fn deadline(deadline: &Deadline, action: &mut RouteAction, private: &mut Fields) {
    action.max_stream_duration = Some(MaxStreamDuration {
        max_stream_duration: Some(duration(deadline.default.unwrap_or_default())),
        grpc_timeout_header_max: Some(duration(deadline.max.unwrap_or_default())),
        grpc_timeout_header_offset: None,
    });
    private.flag("shed_below_median", deadline.shed_below_median);
    private.flag("inherit", deadline.inherit);
}

fn changes(changes: &HeaderChanges) -> (Vec<HeaderValueOption>, Vec<String>) {
    let option = |(name, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        // Envoy replaces what stands between two `%`.
        header: Some(HeaderValue {
            key: name.clone(),
            value: value.replace('%', "%%"),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        ..HeaderValueOption::default()
    };
    let set = changes.set.iter().map(|pair| option(pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().map(|pair| option(pair, HeaderAppendAction::AppendIfExistsOrAdd));
    (set.chain(add).collect(), changes.remove.clone())
}

fn repeats(
    repeats: &Repeats,
    client: &Client,
    route: &mut Route,
    action: &mut RouteAction,
    private: &mut Fields,
) {
    let replay_limit = match repeats {
        Repeats::Unprocessed => {
            action.retry_policy = retry_on::unprocessed(client);
            return;
        }
        Repeats::Retries(rule) => {
            retries(rule, client, action, private);
            rule.replay_limit
        }
        Repeats::Hedging(rule) => {
            hedging(rule, client, action, private);
            rule.replay_limit
        }
    };
    if replay_limit != REPLAY_LIMIT {
        route.request_body_buffer_limit = Some(UInt64Value { value: replay_limit as u64 });
    }
}

fn retries(rule: &Retries, client: &Client, action: &mut RouteAction, private: &mut Fields) {
    action.retry_policy = retry_on::policy(rule.max_attempts, rule.codes, client).map(|mut policy| {
        policy.per_try_timeout = rule.per_attempt_timeout.map(duration);
        policy.retry_back_off = Some(retry_on::back_off(rule.backoff.initial, rule.backoff.max));
        policy
    });
    if rule.backoff.multiplier != MULTIPLIER {
        private.number("backoff_multiplier", rule.backoff.multiplier);
    }
    if let Commit::FirstMessage { hold } = rule.commit {
        private.duration("header_hold", hold);
    }
}

/// Envoy's way: an attempt that has found no answer after a time goes on, and another one begins.
fn hedging(rule: &Hedging, client: &Client, action: &mut RouteAction, private: &mut Fields) {
    let none = rule.delay.is_zero();
    action.retry_policy = retry_on::policy(rule.max_attempts, rule.non_fatal, client).map(|mut policy| {
        policy.per_try_timeout = Some(duration(if none { Duration::from_millis(1) } else { rule.delay }));
        policy
    });
    action.hedge_policy = Some(HedgePolicy {
        initial_requests: Some(number(1)),
        hedge_on_per_try_timeout: true,
        ..HedgePolicy::default()
    });
    private.flag("hedged_at_once", none);
}

fn injection(injection: &Injection, route: &mut Route, private: &mut Fields) {
    let percentage =
        |ppm: u32| Some(FractionalPercent { numerator: ppm, denominator: DenominatorType::Million.into() });
    if injection.delay.is_some() || injection.abort.is_some() {
        let fault = HttpFault {
            delay: injection.delay.map(|delay| FaultDelay {
                percentage: percentage(delay.share_ppm),
                fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.duration))),
            }),
            abort: injection.abort.map(|abort| FaultAbort {
                percentage: percentage(abort.share_ppm),
                error_type: Some(ErrorType::GrpcStatus(u32::from(abort.code))),
                ..FaultAbort::default()
            }),
            ..HttpFault::default()
        };
        route.typed_per_filter_config.insert(FAULT.to_owned(), pack(&fault));
    }
    if let Some(seed) = injection.seed {
        private.whole("fault_seed", seed);
    }
    if let Some(stall) = injection.stream_stall {
        let mut fields = Fields::default();
        fields.number("share_ppm", stall.share_ppm);
        fields.whole("after_messages", stall.after_messages);
        fields.duration("duration", stall.duration);
        private.fields("stream_stall", fields);
    }
    if let Some(abort) = injection.stream_abort {
        let mut fields = Fields::default();
        fields.number("share_ppm", abort.share_ppm);
        fields.whole("after_messages", abort.after_messages);
        fields.number("code", abort.code);
        private.fields("stream_abort", fields);
    }
}
