//! How connections and endpoints are kept: `upstream`, `health`, `outliers` and `retry_budget` in Envoy's words.

use std::collections::HashMap;

use config::code::Codes;
use config::health::{Check, Health, Outliers};
use config::model::Upstream;
use config::repeats::RetryBudget;
use prost::Name;

use crate::audience::{Audience, Client};
use crate::marks::NO_LIMIT;
use crate::pb::cluster::circuit_breakers::Thresholds;
use crate::pb::cluster::circuit_breakers::thresholds;
use crate::pb::cluster::{CircuitBreakers, OutlierDetection};
use crate::pb::core::health_check::{GrpcHealthCheck, HealthChecker, TcpHealthCheck};
use crate::pb::core::{HealthCheck, Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings};
use crate::pb::protobuf::{Any, BoolValue};
use crate::pb::upstream_http;
use crate::pb::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use crate::pb::upstream_http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
use crate::private::Fields;
use crate::share::{self, ALL, PERCENT};
use crate::wire;

/// From one check to the next it is the interval, a tenth more or less; Envoy knows more only.
const JITTER_PERCENT: u32 = 10;

/// `upstream`, as far as Envoy knows it: HTTP/2 always, and when connections end; `tls`: its peers may be sidecars.
pub(crate) fn http_options(upstream: &Upstream, tls: bool, audience: &Audience) -> HashMap<String, Any> {
    let keepalive = KeepaliveSettings {
        interval: Some(wire::duration(upstream.keepalive.interval)),
        timeout: Some(wire::duration(upstream.keepalive.timeout)),
        ..KeepaliveSettings::default()
    };
    // A gRPC server takes frequent PINGs ill, and ends the connection. Our sidecar minds that by itself; others are told of PINGs
    // only where the file asks for them, and never without TLS, where the peer is no sidecar.
    let said = upstream.keepalive != Upstream::default().keepalive;
    let pings = audience.client == Client::Outrigger || tls && said;
    let http2 = Http2ProtocolOptions {
        connection_keepalive: pings.then_some(keepalive),
        ..Http2ProtocolOptions::default()
    };
    let options = upstream_http::HttpProtocolOptions {
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(wire::duration(upstream.idle_timeout)),
            max_connection_duration: Some(wire::duration(upstream.max_age)),
            max_requests_per_connection: Some(wire::number(upstream.max_calls)),
            ..HttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
        })),
        ..upstream_http::HttpProtocolOptions::default()
    };
    // One entry only: a table of several has no order.
    [(upstream_http::HttpProtocolOptions::full_name(), wire::pack(&options))].into_iter().collect()
}

/// `retry_budget`. Envoy counts retries that are under way against calls that are, and knows a number of them that is always
/// granted: the nearest it has to a rate.
pub(crate) fn circuit_breakers(budget: RetryBudget, audience: &Audience) -> CircuitBreakers {
    let no_limit = || (audience.client != Client::Outrigger).then(|| wire::number(NO_LIMIT));
    let thresholds = Thresholds {
        max_connections: no_limit(),
        max_pending_requests: no_limit(),
        max_requests: no_limit(),
        retry_budget: Some(thresholds::RetryBudget {
            budget_percent: Some(share::percent(budget.share_ppm)),
            min_retry_concurrency: Some(wire::number(budget.min_per_second)),
            ..thresholds::RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() }
}

/// `health`.
pub(crate) fn health_check(health: &Health, audience: &Audience) -> HealthCheck {
    let envoy = matches!(audience.client, Client::Envoy { .. });
    let checker = match &health.check {
        Check::Grpc { service } => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.clone(),
            ..GrpcHealthCheck::default()
        }),
        Check::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    HealthCheck {
        timeout: Some(wire::duration(health.timeout)),
        interval: Some(wire::duration(health.interval)),
        interval_jitter_percent: JITTER_PERCENT,
        unhealthy_threshold: Some(wire::number(health.unhealthy_threshold)),
        healthy_threshold: Some(wire::number(health.healthy_threshold)),
        // Else Envoy asks once a minute only, as long as there are no calls.
        no_traffic_interval: envoy.then(|| wire::duration(health.interval)),
        health_checker: Some(checker),
        ..HealthCheck::default()
    }
}

/// `outliers`, with percentages in whole numbers.
pub(crate) fn outlier_detection(outliers: &Outliers) -> OutlierDetection {
    let number = |value| Some(wire::number(value));
    let mut detection = OutlierDetection {
        consecutive_5xx: number(outliers.consecutive_errors),
        enforcing_consecutive_5xx: number(100),
        interval: Some(wire::duration(outliers.interval)),
        base_ejection_time: Some(wire::duration(outliers.base_ejection_time)),
        // Envoy refuses one that is shorter; to us it counts as the other.
        max_ejection_time: Some(wire::duration(outliers.max_ejection_time.max(outliers.base_ejection_time))),
        max_ejection_percent: number(nearest(outliers.max_ejected_ppm)),
        always_eject_one_host: Some(BoolValue { value: true }),
        // Left out it would be 100.
        enforcing_success_rate: number(0),
        ..OutlierDetection::default()
    };
    if let Some(rate) = &outliers.success_rate {
        detection.enforcing_success_rate = number(nearest(rate.enforcement_ppm));
        detection.success_rate_stdev_factor = number(thousandths(rate.stdev_factor));
        detection.success_rate_minimum_hosts = number(rate.minimum_hosts);
        detection.success_rate_request_volume = number(rate.request_volume);
    }
    if let Some(rate) = &outliers.failure_percentage {
        detection.failure_percentage_threshold = number(at_least(rate.threshold_ppm));
        detection.enforcing_failure_percentage = number(nearest(rate.enforcement_ppm));
        detection.failure_percentage_minimum_hosts = number(rate.minimum_hosts);
        detection.failure_percentage_request_volume = number(rate.request_volume);
    }
    detection
}

/// What [`outlier_detection`] had to round or to raise, and the codes, which Envoy does not choose by.
pub(crate) fn private(outliers: &Outliers) -> Fields {
    let mut fields = Fields::default();
    if outliers.codes != Codes::TROUBLE {
        fields.texts("codes", outliers.codes.names());
    }
    if outliers.max_ejection_time < outliers.base_ejection_time {
        fields.duration("max_ejection_time", outliers.max_ejection_time);
    }
    let mut exact = |name: &str, ppm: u32, said: u32| {
        if said * PERCENT != ppm {
            fields.number(name, ppm);
        }
    };
    exact("max_ejected_ppm", outliers.max_ejected_ppm, nearest(outliers.max_ejected_ppm));
    if let Some(rate) = &outliers.failure_percentage {
        exact("failure_threshold_ppm", rate.threshold_ppm, at_least(rate.threshold_ppm));
        exact("failure_enforcement_ppm", rate.enforcement_ppm, nearest(rate.enforcement_ppm));
    }
    if let Some(rate) = &outliers.success_rate {
        exact("success_enforcement_ppm", rate.enforcement_ppm, nearest(rate.enforcement_ppm));
        if f64::from(thousandths(rate.stdev_factor)) / 1_000.0 != rate.stdev_factor {
            fields.number("success_stdev_factor", rate.stdev_factor);
        }
    }
    fields
}

/// Whole percent, to the nearest.
fn nearest(ppm: u32) -> u32 {
    (ppm.min(ALL) + PERCENT / 2) / PERCENT
}

/// Whole percent, upwards: a threshold of 0 would be reached by everybody.
fn at_least(ppm: u32) -> u32 {
    ppm.min(ALL).div_ceil(PERCENT)
}

/// The factor is at most 100.
fn thousandths(factor: f64) -> u32 {
    (factor * 1_000.0).round() as u32
}
