//! Reads how connections and endpoints are kept: HTTP/2, checks, outliers, retry budget.
#![allow(deprecated, reason = "they are to be refused where they say something")]

use std::collections::HashMap;
use std::time::Duration;

use config::code::{CODES, Codes};
use config::health::{Check, FailurePercentage, Health, Outliers, SuccessRate};
use config::model::Upstream;
use config::repeats::{RetryBudget, RetryThrottling};
use prost::Name;

use crate::decode::at::{At, understood};
use crate::marks::NO_LIMIT;
use crate::pb::cluster::circuit_breakers::Thresholds;
use crate::pb::cluster::circuit_breakers::thresholds;
use crate::pb::cluster::{CircuitBreakers, OutlierDetection};
use crate::pb::core::health_check::{GrpcHealthCheck, HealthChecker, TcpHealthCheck};
use crate::pb::core::{
    HealthCheck, Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings, RoutingPriority,
    UpstreamHttpProtocolOptions,
};
use crate::pb::percent::Percent;
use crate::pb::protobuf::{self, Any, UInt32Value};
use crate::pb::upstream_http;
use crate::pb::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use crate::pb::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::share::{self, ALL, PERCENT};
use crate::wire::{self, DURATION_MAX};

/// The most of `upstream.connections`, as in `mesh.yaml`.
pub(crate) const CONNECTIONS_MAX: u64 = 1_024;

/// The most of `upstream.max_calls`, as in `mesh.yaml`.
const CALLS_MAX: u32 = 1 << 30;

/// The most of counts, as in `mesh.yaml`.
const COUNT_MAX: u32 = 1_000_000;

/// The shortest time, as in `mesh.yaml`: with less a clock would do nothing else.
const TIME_MIN: Duration = Duration::from_millis(1);

/// The range of `outliers.success_rate.stdev_factor`.
const FACTOR_MAX: f64 = 100.0;

/// The range of `retry_throttling.token_ratio`.
const RATIO: std::ops::RangeInclusive<f64> = 0.001..=1_000.0;

/// The most of `retry_throttling.max_tokens`.
const TOKENS_MAX: u32 = 1_000;

/// Envoy's defaults where an outlier detection does not say something (`envoy.config.cluster.v3.OutlierDetection`).
mod envoy {
    use std::time::Duration;

    pub(super) const CONSECUTIVE: u32 = 5;
    pub(super) const INTERVAL: Duration = Duration::from_secs(10);
    pub(super) const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
    pub(super) const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
    pub(super) const MAX_EJECTED_PERCENT: u32 = 10;
    pub(super) const MINIMUM_HOSTS: u32 = 5;
    pub(super) const SUCCESS_VOLUME: u32 = 100;
    pub(super) const STDEV_THOUSANDTHS: u32 = 1_900;
    pub(super) const FAILURE_PERCENT: u32 = 85;
    pub(super) const FAILURE_VOLUME: u32 = 50;
    pub(super) const RETRY_CONCURRENCY: u32 = 3;
}

/// A time of a millisecond to a year.
pub(crate) fn some_time(time: &protobuf::Duration, at: &At<'_>) -> Result<Duration, Refusal> {
    in_range(wire::read_duration(time, at)?, at)
}

/// Holds a time to a millisecond to a year.
pub(crate) fn in_range(time: Duration, at: &At<'_>) -> Result<Duration, Refusal> {
    match (TIME_MIN..=DURATION_MAX).contains(&time) {
        true => Ok(time),
        false => Err(at.refuse(format!("{time:?} is out of range; write 0.001s to 31536000s"))),
    }
}

/// A percentage as parts per million.
pub(crate) fn percent(percent: Option<&Percent>, at: &At<'_>) -> Result<Option<u32>, Refusal> {
    let Some(Percent { value }) = percent else { return Ok(None) };
    match share::ppm(*value) {
        Some(ppm) => Ok(Some(ppm)),
        None => Err(at.refuse(format!("{value} is not a percentage; write 0 to 100"))),
    }
}

/// Holds parts per million to all.
pub(crate) fn checked_share(ppm: u32, at: &At<'_>) -> Result<u32, Refusal> {
    match ppm <= ALL {
        true => Ok(ppm),
        false => Err(at.refuse(format!("{ppm} parts per million are more than all"))),
    }
}

/// Connections of one worker to one endpoint.
pub(crate) fn connections(count: u64, at: &At<'_>) -> Result<usize, Refusal> {
    match usize::try_from(count) {
        Ok(count @ 1..) => Ok(count),
        _ => Err(at.refuse(format!("{count} is out of range; write 1 to {CONNECTIONS_MAX}"))),
    }
}

/// 0 is no limit to Envoy.
pub(crate) fn max_calls(most: u32) -> u32 {
    match most {
        0 => CALLS_MAX,
        most => most.min(CALLS_MAX),
    }
}

fn count(value: Option<UInt32Value>, default: u32, least: u32, at: &At<'_>) -> Result<u32, Refusal> {
    let value = value.map_or(default, |value| value.value);
    match (least..=COUNT_MAX).contains(&value) {
        true => Ok(value),
        false => Err(at.refuse(format!("{value} is out of range; write {least} to {COUNT_MAX}"))),
    }
}

/// The options of HTTP that stand among those of extensions; no others are known.
pub(crate) fn upstream(options: &HashMap<String, Any>, at: &At<'_>) -> Result<Upstream, Refusal> {
    let mut upstream = Upstream::default();
    let known = upstream_http::HttpProtocolOptions::full_name();
    // In an order of their own, so that the same resource is always refused for the same reason.
    let mut names: Vec<&String> = options.keys().collect();
    names.sort_unstable();
    for name in names {
        let at = at.entry("typed_extension_protocol_options", name);
        if *name != known {
            return Err(at.refuse(format!("these options are not known; `{known}` is")));
        }
        match wire::unpack::<upstream_http::HttpProtocolOptions>(&options[name], &at)? {
            Some(options) => http(&options, &mut upstream, &at)?,
            None => return Err(at.refuse(format!("it is not of the type `{known}`"))),
        }
    }
    Ok(upstream)
}

fn http(
    options: &upstream_http::HttpProtocolOptions,
    upstream: &mut Upstream,
    at: &At<'_>,
) -> Result<(), Refusal> {
    understood! { options => upstream_http::HttpProtocolOptions, at;
        take { common_http_protocol_options, upstream_http_protocol_options, upstream_protocol_options }
        ignore {}
        refuse "there are no filters on this way" { http_filters, header_validation_config }
        refuse "which statuses are errors cannot be said this way" { outlier_detection }
        refuse "say it at the route" { request_mirror_policies, hash_policy, retry_policy }
    }
    if let Some(common) = common_http_protocol_options {
        self::common(common, upstream, &at.field("common_http_protocol_options"))?;
    }
    deny_sni_checks(upstream_http_protocol_options.as_ref(), &at.field("upstream_http_protocol_options"))?;
    let http2 = match upstream_protocol_options {
        None => None,
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => Some(http2),
            _ => {
                return Err(at
                    .field("explicit_http_config")
                    .refuse("write `http2_protocol_options`: calls are HTTP/2"));
            }
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(same)) => {
            same.http2_protocol_options.as_ref()
        }
        Some(UpstreamProtocolOptions::AutoConfig(auto)) => auto.http2_protocol_options.as_ref(),
    };
    http2.map_or(Ok(()), |http2| self::http2(http2, upstream, &at.field("http2_protocol_options")))
}

/// Options that all versions of HTTP share.
pub(crate) fn common(
    options: &HttpProtocolOptions,
    upstream: &mut Upstream,
    at: &At<'_>,
) -> Result<(), Refusal> {
    // The sidecar's own limits hold for headers.
    understood! { options => HttpProtocolOptions, at;
        take { idle_timeout, max_connection_duration, max_stream_duration, max_requests_per_connection }
        ignore {
            max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
            headers_with_underscores_action,
        }
    }
    if wire::read_limit(max_stream_duration.as_ref(), &at.field("max_stream_duration"))?.is_some() {
        return Err(at.field("max_stream_duration").refuse("say it at the route"));
    }
    // To Envoy a time of 0 means never.
    let or_never = |time: &protobuf::Duration, at: &At<'_>| match wire::read_duration(time, at)? {
        Duration::ZERO => Ok(DURATION_MAX),
        time => in_range(time, at),
    };
    if let Some(time) = idle_timeout {
        upstream.idle_timeout = or_never(time, &at.field("idle_timeout"))?;
    }
    if let Some(time) = max_connection_duration {
        upstream.max_age = or_never(time, &at.field("max_connection_duration"))?;
    }
    if let Some(most) = max_requests_per_connection {
        upstream.max_calls = max_calls(most.value);
    }
    Ok(())
}

/// Options of HTTP/2, of which PINGs are those that an operator of ours has too.
pub(crate) fn http2(
    options: &Http2ProtocolOptions,
    upstream: &mut Upstream,
    at: &At<'_>,
) -> Result<(), Refusal> {
    // Tables, windows and what is done about odd peers: the sidecar has `limits` of its own.
    understood! { options => Http2ProtocolOptions, at;
        take { connection_keepalive }
        ignore {
            hpack_table_size, max_concurrent_streams, initial_stream_window_size, initial_connection_window_size,
            max_outbound_frames, max_outbound_control_frames, max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream, max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message,
            use_oghttp2_codec, max_metadata_size, enable_huffman_encoding, max_header_field_size_kb,
            disallow_obs_text, stream_reset_burst, stream_reset_rate, allow_connect,
        }
        refuse "there is no METADATA" { allow_metadata }
        refuse "the sidecar sends its own SETTINGS" { custom_settings_parameters }
    }
    let Some(keepalive) = connection_keepalive else { return Ok(()) };
    let at = at.field("connection_keepalive");
    understood! { keepalive => KeepaliveSettings, &at;
        take { interval, timeout }
        ignore { interval_jitter }
        refuse "PINGs are sent while calls are open" { connection_idle_interval }
    }
    if let Some(interval) = interval {
        upstream.keepalive.interval = some_time(interval, &at.field("interval"))?;
    }
    if let Some(timeout) = timeout {
        upstream.keepalive.timeout = some_time(timeout, &at.field("timeout"))?;
    }
    Ok(())
}

/// Without SNI nothing can be held against it; who the peer is, its SPIFFE id says.
pub(crate) fn deny_sni_checks(
    options: Option<&UpstreamHttpProtocolOptions>,
    at: &At<'_>,
) -> Result<(), Refusal> {
    let Some(options) = options else { return Ok(()) };
    understood! { options => UpstreamHttpProtocolOptions, at;
        take {}
        ignore { auto_sni, override_auto_sni_header }
        refuse "list the SPIFFE ids of the servers in the transport socket" { auto_san_validation }
    }
    Ok(())
}

/// The retry budget of the calls that are there; limits on what else is under way are not known.
pub(crate) fn retry_budget(breakers: Option<&CircuitBreakers>, at: &At<'_>) -> Result<RetryBudget, Refusal> {
    let mut budget = RetryBudget::default();
    let Some(breakers) = breakers else { return Ok(budget) };
    understood! { breakers => CircuitBreakers, at;
        take { thresholds }
        ignore {}
        refuse "there are no circuit breakers" { per_host_thresholds }
    }
    for (i, limits) in thresholds.iter().enumerate() {
        // No call of ours has a high priority.
        if limits.priority != i32::from(RoutingPriority::Default) {
            continue;
        }
        let at = at.item("thresholds", i);
        understood! { limits => Thresholds, &at;
            take { max_connections, max_pending_requests, max_requests, max_retries, max_connection_pools, retry_budget }
            ignore { priority, track_remaining }
        }
        let mut limits = vec![
            ("max_connections", max_connections),
            ("max_pending_requests", max_pending_requests),
            ("max_requests", max_requests),
            ("max_connection_pools", max_connection_pools),
        ];
        // Beside a budget it says nothing.
        if retry_budget.is_none() {
            limits.push(("max_retries", max_retries));
        }
        for (name, limit) in limits {
            if limit.is_some_and(|limit| limit.value != NO_LIMIT) {
                let why =
                    format!("there are no circuit breakers; leave it out, or write {NO_LIMIT} for no limit");
                return Err(at.field(name).refuse(why));
            }
        }
        if let Some(said) = retry_budget {
            let at = at.field("retry_budget");
            understood! { said => thresholds::RetryBudget, &at;
                take { budget_percent, min_retry_concurrency }
                // The budget is one of the calls of the last ten seconds, always.
                ignore { budget_interval }
            }
            if let Some(share) = percent(budget_percent.as_ref(), &at.field("budget_percent"))? {
                budget.share_ppm = share;
            }
            let at = at.field("min_retry_concurrency");
            budget.min_per_second = count(*min_retry_concurrency, envoy::RETRY_CONCURRENCY, 0, &at)?;
        }
    }
    Ok(budget)
}

/// `retry_throttling`, which is ours alone.
pub(crate) fn retry_throttling(said: &mut Reader<'_>, at: &At<'_>) -> Result<RetryThrottling, Refusal> {
    let max_tokens = said.small("max_tokens")?.unwrap_or_default();
    let token_ratio = said.number("token_ratio")?.unwrap_or_default();
    if !(1..=TOKENS_MAX).contains(&max_tokens) {
        return Err(at
            .field("max_tokens")
            .refuse(format!("{max_tokens} is out of range; write 1 to {TOKENS_MAX}")));
    }
    if !RATIO.contains(&token_ratio) {
        return Err(at
            .field("token_ratio")
            .refuse(format!("{token_ratio} is out of range; write 0.001 to 1000")));
    }
    Ok(RetryThrottling { max_tokens, token_ratio })
}

/// The one check of a cluster.
pub(crate) fn health(checks: &[HealthCheck], at: &At<'_>) -> Result<Option<Health>, Refusal> {
    let check = match checks {
        [] => return Ok(None),
        [check] => check,
        _ => {
            return Err(at.item("health_checks", 1).refuse("endpoints are checked in one way; leave it out"));
        }
    };
    let at = at.item("health_checks", 0);
    // When checks begin and how they jitter is fixed; where they are logged, and that they are rarer without calls, is
    // passed over.
    understood! { check => HealthCheck, &at;
        take { timeout, interval, unhealthy_threshold, healthy_threshold, health_checker }
        ignore {
            initial_jitter, interval_jitter, interval_jitter_percent, reuse_connection, no_traffic_interval,
            no_traffic_healthy_interval, event_log_path, event_logger, event_service,
            always_log_health_check_failures, always_log_health_check_success,
        }
        refuse "checks go to the endpoint's own port" { alt_port }
        refuse "checks have one interval" { unhealthy_interval, unhealthy_edge_interval, healthy_edge_interval }
        refuse "checks connect as calls do" { tls_options, transport_socket_match_criteria }
    }
    let needed = |time: &Option<protobuf::Duration>, name: &str| match time {
        Some(time) => some_time(time, &at.field(name)),
        None => Err(at.field(name).refuse("there is none")),
    };
    Ok(Some(Health {
        check: checker(health_checker.as_ref(), &at)?,
        interval: needed(interval, "interval")?,
        timeout: needed(timeout, "timeout")?,
        unhealthy_threshold: count(*unhealthy_threshold, 1, 1, &at.field("unhealthy_threshold"))?,
        healthy_threshold: count(*healthy_threshold, 1, 1, &at.field("healthy_threshold"))?,
    }))
}

fn checker(checker: Option<&HealthChecker>, at: &At<'_>) -> Result<Check, Refusal> {
    match checker {
        Some(HealthChecker::GrpcHealthCheck(check)) => {
            let at = at.field("grpc_health_check");
            understood! { check => GrpcHealthCheck, &at;
                take { service_name }
                ignore {}
                refuse "checks have no headers of their own" { authority, initial_metadata }
            }
            Ok(Check::Grpc { service: service_name.clone() })
        }
        Some(HealthChecker::TcpHealthCheck(check)) => {
            let at = at.field("tcp_health_check");
            understood! { check => TcpHealthCheck, &at;
                take {}
                ignore {}
                refuse "a check connects, and sends nothing" { send, receive, proxy_protocol_config }
            }
            Ok(Check::Tcp)
        }
        Some(HealthChecker::HttpHealthCheck(_)) => {
            Err(at.field("http_health_check").refuse("write `grpc_health_check` or `tcp_health_check`"))
        }
        Some(HealthChecker::CustomHealthCheck(_)) => {
            Err(at.field("custom_health_check").refuse("write `grpc_health_check` or `tcp_health_check`"))
        }
        None => Err(at.field("grpc_health_check").refuse("there is no check")),
    }
}

/// Outlier detection.
pub(crate) fn outliers(detection: &OutlierDetection, at: &At<'_>) -> Result<Outliers, Refusal> {
    // What is found out by local errors alone counts where they are split off, which they are not. One endpoint may always be
    // ejected; a check that succeeds does not bring back who was ejected.
    understood! { detection => OutlierDetection, at;
        take {
            consecutive_5xx, enforcing_consecutive_5xx, consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure, interval, base_ejection_time, max_ejection_time,
            max_ejection_percent, enforcing_success_rate, success_rate_minimum_hosts, success_rate_request_volume,
            success_rate_stdev_factor, failure_percentage_threshold, enforcing_failure_percentage,
            failure_percentage_minimum_hosts, failure_percentage_request_volume, max_ejection_time_jitter,
        }
        ignore {
            consecutive_local_origin_failure, enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate, enforcing_failure_percentage_local_origin, always_eject_one_host,
            successful_active_health_check_uneject_host,
        }
        refuse "failures to connect count like others" { split_external_local_origin_errors }
        refuse "there are no monitors" { monitors }
        refuse "no endpoint is degraded" { detect_degraded_hosts }
    }
    if wire::read_limit(max_ejection_time_jitter.as_ref(), &at.field("max_ejection_time_jitter"))?.is_some() {
        return Err(at.field("max_ejection_time_jitter").refuse("ejections have no jitter"));
    }
    let time = |time: &Option<protobuf::Duration>, default, name: &str| match time {
        Some(time) => some_time(time, &at.field(name)),
        None => Ok(default),
    };
    let percent =
        |said: &Option<UInt32Value>, default, name: &str| whole_percent(*said, default, &at.field(name));
    let number = |said: &Option<UInt32Value>, default, name: &str| count(*said, default, 1, &at.field(name));

    let enforcement = percent(enforcing_success_rate, 100, "enforcing_success_rate")?;
    let said = [success_rate_minimum_hosts, success_rate_request_volume, success_rate_stdev_factor];
    let success_rate = match enforcement > 0 || said.iter().any(|said| said.is_some()) {
        false => None,
        true => Some(SuccessRate {
            stdev_factor: factor(*success_rate_stdev_factor, &at.field("success_rate_stdev_factor"))?,
            enforcement_ppm: enforcement,
            minimum_hosts: number(
                success_rate_minimum_hosts,
                envoy::MINIMUM_HOSTS,
                "success_rate_minimum_hosts",
            )?,
            request_volume: number(
                success_rate_request_volume,
                envoy::SUCCESS_VOLUME,
                "success_rate_request_volume",
            )?,
        }),
    };
    let enforcement = percent(enforcing_failure_percentage, 0, "enforcing_failure_percentage")?;
    let said =
        [failure_percentage_threshold, failure_percentage_minimum_hosts, failure_percentage_request_volume];
    let failure_percentage = match enforcement > 0 || said.iter().any(|said| said.is_some()) {
        false => None,
        true => Some(FailurePercentage {
            threshold_ppm: percent(
                failure_percentage_threshold,
                envoy::FAILURE_PERCENT,
                "failure_percentage_threshold",
            )?,
            enforcement_ppm: enforcement,
            minimum_hosts: number(
                failure_percentage_minimum_hosts,
                envoy::MINIMUM_HOSTS,
                "failure_percentage_minimum_hosts",
            )?,
            request_volume: number(
                failure_percentage_request_volume,
                envoy::FAILURE_VOLUME,
                "failure_percentage_request_volume",
            )?,
        }),
    };
    let gateway = always_or_never(*enforcing_consecutive_gateway_failure, 0, at, GATEWAY)?;
    let any = always_or_never(*enforcing_consecutive_5xx, 100, at, "enforcing_consecutive_5xx")?;
    let rates = success_rate.is_some() || failure_percentage.is_some();
    let (codes, run) = match (any, gateway) {
        (true, false) => (Codes::TROUBLE, *consecutive_5xx),
        (false, false) => (Codes::TROUBLE, Some(UInt32Value { value: 0 })),
        (false, true) if !rates => (GATEWAY_CODES.into_iter().collect(), *consecutive_gateway_failure),
        _ => {
            let why = "one set of statuses counts; write 0, or 0 at the others and leave the rates out";
            return Err(at.field(GATEWAY).refuse(why));
        }
    };
    Ok(Outliers {
        codes,
        consecutive_errors: count(run, envoy::CONSECUTIVE, 0, &at.field("consecutive_5xx"))?,
        interval: time(interval, envoy::INTERVAL, "interval")?,
        base_ejection_time: time(base_ejection_time, envoy::BASE_EJECTION_TIME, "base_ejection_time")?,
        max_ejection_time: time(max_ejection_time, envoy::MAX_EJECTION_TIME, "max_ejection_time")?,
        max_ejected_ppm: percent(max_ejection_percent, envoy::MAX_EJECTED_PERCENT, "max_ejection_percent")?,
        success_rate,
        failure_percentage,
    })
}

const GATEWAY: &str = "enforcing_consecutive_gateway_failure";

/// DEADLINE_EXCEEDED and UNAVAILABLE, which are 504 and 503 to Envoy.
const GATEWAY_CODES: [u8; 2] = [4, 14];

/// Whether something is enforced; a part of it is not possible.
fn always_or_never(
    said: Option<UInt32Value>,
    default: u32,
    at: &At<'_>,
    name: &str,
) -> Result<bool, Refusal> {
    match said.map_or(default, |said| said.value) {
        0 => Ok(false),
        100 => Ok(true),
        part => Err(at.field(name).refuse(format!("{part} % is not possible; write 0 or 100"))),
    }
}

fn whole_percent(said: Option<UInt32Value>, default: u32, at: &At<'_>) -> Result<u32, Refusal> {
    match said.map_or(default, |said| said.value) {
        percent @ 0..=100 => Ok(percent * PERCENT),
        percent => Err(at.refuse(format!("{percent} is not a percentage; write 0 to 100"))),
    }
}

fn factor(thousandths: Option<UInt32Value>, at: &At<'_>) -> Result<f64, Refusal> {
    let thousandths = thousandths.map_or(envoy::STDEV_THOUSANDTHS, |said| said.value);
    checked_factor(f64::from(thousandths) / 1_000.0, at)
}

fn checked_factor(factor: f64, at: &At<'_>) -> Result<f64, Refusal> {
    match (0.0..=FACTOR_MAX).contains(&factor) {
        true => Ok(factor),
        false => Err(at.refuse(format!("{factor} is out of range; write 0 to {FACTOR_MAX}"))),
    }
}

/// What whole percent could not say.
pub(crate) fn exact(said: &mut Reader<'_>, outliers: &mut Outliers, at: &At<'_>) -> Result<(), Refusal> {
    if let Some(time) = said.duration("max_ejection_time")? {
        outliers.max_ejection_time = in_range(time, &at.field("max_ejection_time"))?;
    }
    let mut ppm = |name: &str| said.small(name)?.map(|ppm| checked_share(ppm, &at.field(name))).transpose();
    if let Some(ppm) = ppm("max_ejected_ppm")? {
        outliers.max_ejected_ppm = ppm;
    }
    let threshold = ppm("failure_threshold_ppm")?;
    let failure_enforcement = ppm("failure_enforcement_ppm")?;
    let success_enforcement = ppm("success_enforcement_ppm")?;
    if let Some(rate) = &mut outliers.failure_percentage {
        rate.threshold_ppm = threshold.unwrap_or(rate.threshold_ppm);
        rate.enforcement_ppm = failure_enforcement.unwrap_or(rate.enforcement_ppm);
    }
    let factor = said.number("success_stdev_factor")?;
    if let Some(rate) = &mut outliers.success_rate {
        rate.enforcement_ppm = success_enforcement.unwrap_or(rate.enforcement_ppm);
        if let Some(factor) = factor {
            rate.stdev_factor = checked_factor(factor, &at.field("success_stdev_factor"))?;
        }
    }
    if let Some(names) = said.texts("codes")? {
        outliers.codes = codes(&names, &at.field("codes"))?;
    }
    Ok(())
}

fn codes(names: &[String], at: &At<'_>) -> Result<Codes, Refusal> {
    let numbers = names.iter().map(|name| {
        let number = CODES.iter().position(|code| code == name).and_then(|number| u8::try_from(number).ok());
        number
            .filter(|number| *number != 0)
            .ok_or_else(|| at.refuse(format!("`{name}` is no status of a failure")))
    });
    numbers.collect::<Result<Vec<u8>, _>>().map(|numbers| numbers.into_iter().collect())
}
