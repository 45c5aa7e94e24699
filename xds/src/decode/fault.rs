//! Faults on purpose: HTTPFault as `Injection`.

use std::collections::HashMap;

use config::injection::{Abort, Delay, Injection, Stall, StreamAbort};

use crate::decode::at::{At, understood};
use crate::filters::FAULT;
use crate::pb::fault::fault_abort::ErrorType;
use crate::pb::fault::{FaultAbort, HttpFault};
use crate::pb::fault_common::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::pb::percent::FractionalPercent;
use crate::pb::percent::fractional_percent::DenominatorType;
use crate::pb::protobuf::Any;
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::wire::{read_limit, unpack};

const MILLION: u64 = 1_000_000;

/// Reads the filter configuration of a route, and what is said beside it.
pub(crate) fn read(
    filters: &HashMap<String, Any>,
    private: &mut Reader<'_>,
    at: &At<'_>,
) -> Result<Injection, Refusal> {
    let mut injection = Injection { seed: private.whole("fault_seed")?, ..Injection::default() };
    injection.stream_stall = private.within("stream_stall", |private| {
        Ok(Stall {
            share_ppm: share(private)?,
            after_messages: private.whole("after_messages")?.unwrap_or_default(),
            duration: private.duration("duration")?.unwrap_or_default(),
        })
    })?;
    injection.stream_abort = private.within("stream_abort", |private| {
        Ok(StreamAbort {
            share_ppm: share(private)?,
            after_messages: private.whole("after_messages")?.unwrap_or_default(),
            code: private.integer("code", 16)?.and_then(|code| u8::try_from(code).ok()).unwrap_or(2),
        })
    })?;
    for (name, config) in filters {
        let at = at.entry("typed_per_filter_config", name);
        match unpack::<HttpFault>(config, &at)? {
            Some(fault) if name == FAULT => {
                (injection.delay, injection.abort) = public(&fault, &at)?;
            }
            _ => {
                return Err(
                    at.refuse(format!("of the filters of a route only `{FAULT}` (HTTPFault) is known"))
                );
            }
        }
    }
    Ok(injection)
}

fn share(private: &mut Reader<'_>) -> Result<u32, Refusal> {
    Ok(private.integer("share_ppm", MILLION)?.and_then(|ppm| u32::try_from(ppm).ok()).unwrap_or_default())
}

/// Delay and abort of a filter.
pub(crate) fn public(fault: &HttpFault, at: &At<'_>) -> Result<(Option<Delay>, Option<Abort>), Refusal> {
    understood! {
        fault => HttpFault, at;
        take { delay, abort }
        // Names of flags in Envoy's runtime, which change nothing where there is none, and of statistics.
        ignore {
            delay_percent_runtime, abort_percent_runtime, delay_duration_runtime, abort_http_status_runtime,
            max_active_faults_runtime, response_rate_limit_percent_runtime, abort_grpc_status_runtime,
            disable_downstream_cluster_stats, filter_metadata
        }
        refuse "a fault is for all calls of its route; write a route for those that are meant" {
            upstream_cluster, headers, downstream_nodes
        }
        refuse "faults are not counted while they last" { max_active_faults }
        refuse "responses are not slowed down" { response_rate_limit }
    }
    let delay = delay.as_ref().map(|delay| self::delay(delay, &at.field("delay"))).transpose()?;
    let abort = abort.as_ref().map(|abort| self::abort(abort, &at.field("abort"))).transpose()?;
    Ok((delay, abort))
}

fn delay(delay: &FaultDelay, at: &At<'_>) -> Result<Delay, Refusal> {
    let FaultDelay { percentage, fault_delay_secifier } = delay;
    let duration = match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(duration)) => {
            read_limit(Some(duration), &at.field("fixed_delay"))?
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            return Err(at.field("header_delay").refuse("callers do not say what fails; write fixed_delay"));
        }
        None => None,
    };
    let Some(duration) = duration else {
        return Err(at.field("fixed_delay").refuse("a delay takes some time"));
    };
    Ok(Delay { share_ppm: ppm(percentage.as_ref(), &at.field("percentage"))?, duration })
}

fn abort(abort: &FaultAbort, at: &At<'_>) -> Result<Abort, Refusal> {
    understood! {
        abort => FaultAbort, at;
        take { percentage, error_type }
        ignore {}
        refuse "an abort has a status and no body" { response_body }
    }
    let code = match error_type {
        Some(ErrorType::GrpcStatus(status)) => match u8::try_from(*status) {
            Ok(code @ 1..=16) => code,
            _ => return Err(at.field("grpc_status").refuse("the number of a failure is 1 to 16")),
        },
        Some(ErrorType::HttpStatus(status)) => of_http(*status),
        Some(ErrorType::HeaderAbort(_)) => {
            return Err(at.field("header_abort").refuse("callers do not say what fails; write grpc_status"));
        }
        None => return Err(at.field("grpc_status").refuse("an abort has a status")),
    };
    Ok(Abort { share_ppm: ppm(percentage.as_ref(), &at.field("percentage"))?, code })
}

/// What an HTTP status is to gRPC (gRPC core, `http-grpc-status-mapping.md`).
fn of_http(status: u32) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// A share in parts per million; none is 0.
fn ppm(percentage: Option<&FractionalPercent>, at: &At<'_>) -> Result<u32, Refusal> {
    let Some(FractionalPercent { numerator, denominator }) = percentage else { return Ok(0) };
    let of = match DenominatorType::try_from(*denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(at.field("denominator").refuse("write HUNDRED, TEN_THOUSAND or MILLION")),
    };
    // More than all is all, as Envoy and gRPC have it.
    Ok(u32::try_from((u64::from(*numerator) * of).min(MILLION)).unwrap_or_default())
}
