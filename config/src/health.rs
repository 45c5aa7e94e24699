//! Which endpoints of a service are used: checks, outliers, slow start, panic.

use std::time::Duration;

use crate::code::{Codes, codes};
use crate::fault::{Sink, Wrong};
use crate::walk::Fields;

/// `health`: each endpoint is asked now and then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// From one check to the next, a tenth more or less.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row after which an endpoint is unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row after which it is healthy again.
    pub healthy_threshold: u32,
}

/// What a check is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `grpc.health.v1.Health/Check` of a service; empty: of the server as a whole.
    Grpc {
        /// The `service` of the request.
        service: String,
    },
    /// A connection of TCP.
    Tcp,
}

/// `outliers`: endpoints that fail more than they should are left alone for a while (Envoy; gRFC A50).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outliers {
    /// The statuses that count as errors, besides attempts that found no answer.
    pub codes: Codes,
    /// Errors in a row after which an endpoint is ejected; 0: however many.
    pub consecutive_errors: u32,
    /// How often the rates are looked at.
    pub interval: Duration,
    /// The first ejection lasts this long, the next twice it, and so on.
    pub base_ejection_time: Duration,
    /// The longest ejection; what is below `base_ejection_time` counts as that.
    pub max_ejection_time: Duration,
    /// At most this share of the endpoints is ejected at a time, but one may always be; in parts per million.
    pub max_ejected_ppm: u32,
    /// Ejects those whose share of successes is far below that of the others.
    pub success_rate: Option<SuccessRate>,
    /// Ejects those that fail more often than this.
    pub failure_percentage: Option<FailurePercentage>,
}

/// `outliers.success_rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuccessRate {
    /// An outlier is below the mean by more than so many standard deviations.
    pub stdev_factor: f64,
    /// The share of outliers that are ejected, in parts per million.
    pub enforcement_ppm: u32,
    /// Nothing is done where fewer endpoints had `request_volume`.
    pub minimum_hosts: u32,
    /// An endpoint with fewer calls in the interval is not looked at.
    pub request_volume: u32,
}

/// `outliers.failure_percentage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The share of failures at which an endpoint is an outlier, in parts per million.
    pub threshold_ppm: u32,
    /// The share of outliers that are ejected, in parts per million.
    pub enforcement_ppm: u32,
    /// Nothing is done where fewer endpoints had `request_volume`.
    pub minimum_hosts: u32,
    /// An endpoint with fewer calls in the interval is not looked at.
    pub request_volume: u32,
}

/// `balancing.slow_start` (Envoy): a new endpoint begins with a part of its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes to the whole of it.
    pub window: Duration,
    /// 1: in a straight line; more: faster at the beginning; less: slower.
    pub aggression: f64,
    /// The part that it begins with, in parts per million.
    pub min_weight_ppm: u32,
}

const MILLION: u32 = 1_000_000;

pub(crate) fn health(fields: &Fields, sink: &mut Sink) -> Option<Health> {
    let block = fields.fields("health")?;
    let check = match block.text("check") {
        Some("tcp") => {
            if let Some(item) = block.item("service") {
                let wrong = Wrong::new("a check of TCP asks for no service");
                sink.add(item.place, &item.path, wrong.hint("write `check: grpc`, or leave the key out"));
            }
            Check::Tcp
        }
        _ => Check::Grpc { service: block.text("service").unwrap_or_default().to_owned() },
    };
    Some(Health {
        check,
        interval: block.duration("interval").unwrap_or(Duration::from_secs(10)),
        timeout: block.duration("timeout").unwrap_or(Duration::from_secs(1)),
        unhealthy_threshold: block.small("unhealthy_threshold").unwrap_or(3),
        healthy_threshold: block.small("healthy_threshold").unwrap_or(2),
    })
}

pub(crate) fn outliers(fields: &Fields) -> Option<Outliers> {
    let block = fields.fields("outliers")?;
    Some(Outliers {
        codes: codes(block, "error_codes").unwrap_or(Codes::TROUBLE),
        consecutive_errors: block.small("consecutive_errors").unwrap_or(5),
        interval: block.duration("interval").unwrap_or(Duration::from_secs(10)),
        base_ejection_time: block.duration("base_ejection_time").unwrap_or(Duration::from_secs(30)),
        max_ejection_time: block.duration("max_ejection_time").unwrap_or(Duration::from_secs(300)),
        max_ejected_ppm: block.ppm("max_ejection_percent").unwrap_or(MILLION / 10),
        success_rate: block.fields("success_rate").map(|block| SuccessRate {
            stdev_factor: block.number("stdev_factor").unwrap_or(1.9),
            enforcement_ppm: block.ppm("enforcement_percentage").unwrap_or(MILLION),
            minimum_hosts: block.small("minimum_hosts").unwrap_or(5),
            request_volume: block.small("request_volume").unwrap_or(100),
        }),
        failure_percentage: block.fields("failure_percentage").map(|block| FailurePercentage {
            threshold_ppm: block.ppm("threshold").unwrap_or(MILLION / 100 * 85),
            enforcement_ppm: block.ppm("enforcement_percentage").unwrap_or(MILLION),
            minimum_hosts: block.small("minimum_hosts").unwrap_or(5),
            request_volume: block.small("request_volume").unwrap_or(50),
        }),
    })
}

pub(crate) fn slow_start(fields: &Fields) -> Option<SlowStart> {
    let block = fields.fields("slow_start")?;
    Some(SlowStart {
        window: block.duration("window").unwrap_or_default(),
        aggression: block.number("aggression").unwrap_or(1.0),
        min_weight_ppm: block.ppm("min_weight").unwrap_or(MILLION / 10),
    })
}
