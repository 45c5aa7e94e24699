//! Reads how a cluster balances: the first policy of its list that we know, as every client does; without a list, the older
//! fields.
#![allow(deprecated, reason = "they are to be refused where they say something")]

use std::time::Duration;

use config::health::SlowStart;
use config::model::{Balancing, BalancingPolicy};
use prost::Name;

use crate::decode::at::{At, understood};
use crate::decode::upkeep::{self, in_range};
use crate::marks::{PEAK_EWMA, RANDOM};
use crate::pb::cluster::LoadBalancingPolicy;
use crate::pb::cluster::cluster;
use crate::pb::cluster::cluster::common_lb_config::LocalityConfigSpecifier;
use crate::pb::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig,
};
use crate::pb::core::RuntimeDouble;
use crate::pb::lb_common::SlowStartConfig;
use crate::pb::lb_least_request::LeastRequest;
use crate::pb::lb_least_request::least_request::SelectionMethod;
use crate::pb::lb_random::Random;
use crate::pb::lb_round_robin::RoundRobin;
use crate::pb::lb_wrr_locality::WrrLocality;
use crate::pb::percent::Percent;
use crate::pb::protobuf::{self, Any, UInt32Value};
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::wire;

/// Lists in each other: a policy for localities has one for their endpoints.
const DEPTH_MAX: u32 = 8;

/// The range of `balancing.slow_start.aggression`.
const AGGRESSION: std::ops::RangeInclusive<f64> = 0.1..=100.0;

/// What slow start begins with, where nothing is said.
const MIN_WEIGHT_PPM: u32 = 100_000;

type Read = (BalancingPolicy, Option<SlowStart>);

/// Reads the list; without one, `lb_policy` and its settings.
pub(crate) fn read(
    list: Option<&LoadBalancingPolicy>,
    older: i32,
    settings: Option<&LbConfig>,
    at: &At<'_>,
) -> Result<Balancing, Refusal> {
    let (policy, slow_start) = match list {
        Some(list) => {
            let at = at.field("load_balancing_policy");
            match first_known(list, DEPTH_MAX, &at)? {
                Some(read) => read,
                None => return Err(at.refuse(NONE_KNOWN)),
            }
        }
        None => self::older(older, settings, at)?,
    };
    Ok(Balancing { policy, slow_start, ..Balancing::default() })
}

const NONE_KNOWN: &str =
    "no policy of the list is known; add `RoundRobin`, `LeastRequest` or `Random` at its end";

fn first_known(list: &LoadBalancingPolicy, depth: u32, at: &At<'_>) -> Result<Option<Read>, Refusal> {
    for (i, policy) in list.policies.iter().enumerate() {
        let at = at.item("policies", i);
        let at = at.field("typed_extension_config");
        let config =
            policy.typed_extension_config.as_ref().and_then(|extension| extension.typed_config.as_ref());
        let Some(config) = config else { return Err(at.field("typed_config").refuse("there is none")) };
        if let Some(read) = known(config, depth, &at.field("typed_config"))? {
            return Ok(Some(read));
        }
    }
    Ok(None)
}

fn known(config: &Any, depth: u32, at: &At<'_>) -> Result<Option<Read>, Refusal> {
    if let Some(private) = Reader::of_any(config, PEAK_EWMA, *at)? {
        return Ok(Some((BalancingPolicy::PeakEwma, self::private(private, at)?)));
    }
    if let Some(private) = Reader::of_any(config, RANDOM, *at)? {
        return Ok(Some((BalancingPolicy::Random, self::private(private, at)?)));
    }
    // The weights of localities are looked at where they stand, at the endpoints.
    if let Some(policy) = wire::unpack::<RoundRobin>(config, at)? {
        understood! { &policy => RoundRobin, at; take { slow_start_config } ignore { locality_lb_config } }
        let slow = slow_start_config.as_ref();
        return Ok(Some((
            BalancingPolicy::RoundRobin,
            new_slow_start(slow, &at.field("slow_start_config"))?,
        )));
    }
    if wire::unpack::<Random>(config, at)?.is_some() {
        return Ok(Some((BalancingPolicy::Random, None)));
    }
    if let Some(policy) = wire::unpack::<LeastRequest>(config, at)? {
        return least_request(&policy, at).map(Some);
    }
    if config.type_url == WrrLocality::type_url() && depth > 0 {
        let within =
            wire::unpack::<WrrLocality>(config, at)?.and_then(|policy| policy.endpoint_picking_policy);
        let at = at.field("endpoint_picking_policy");
        return within.map_or(Ok(None), |list| first_known(&list, depth - 1, &at));
    }
    Ok(None)
}

fn private(mut said: Reader<'_>, at: &At<'_>) -> Result<Option<SlowStart>, Refusal> {
    let at = at.field("slow_start");
    let slow = said.within("slow_start", |slow| {
        let window = slow.duration("window")?.unwrap_or_default();
        let aggression = slow.number("aggression")?.unwrap_or(1.0);
        let min_weight_ppm = slow.small("min_weight_ppm")?.unwrap_or(MIN_WEIGHT_PPM);
        checked(window, aggression, min_weight_ppm, &at)
    })?;
    said.finish()?;
    Ok(slow)
}

fn least_request(policy: &LeastRequest, at: &At<'_>) -> Result<Read, Refusal> {
    understood! { policy => LeastRequest, at;
        take { choice_count, active_request_bias, slow_start_config, enable_full_scan, selection_method }
        ignore { locality_lb_config }
    }
    let full = enable_full_scan.is_some_and(|scan| scan.value);
    if full || *selection_method != i32::from(SelectionMethod::NChoices) {
        return Err(at.field("selection_method").refuse(TWO_CHOICES));
    }
    choices(*choice_count, at)?;
    bias(active_request_bias.as_ref(), at)?;
    let slow = new_slow_start(slow_start_config.as_ref(), &at.field("slow_start_config"))?;
    Ok((BalancingPolicy::LeastRequest, slow))
}

const TWO_CHOICES: &str = "the better of two is taken; leave it out";

fn choices(count: Option<UInt32Value>, at: &At<'_>) -> Result<(), Refusal> {
    match count.map_or(2, |count| count.value) {
        2 => Ok(()),
        _ => Err(at.field("choice_count").refuse(TWO_CHOICES)),
    }
}

fn bias(bias: Option<&RuntimeDouble>, at: &At<'_>) -> Result<(), Refusal> {
    match bias.map_or(1.0, |bias| bias.default_value) {
        1.0 => Ok(()),
        _ => Err(at.field("active_request_bias").refuse("calls in flight always count as they are: 1.0")),
    }
}

fn older(policy: i32, settings: Option<&LbConfig>, at: &At<'_>) -> Result<Read, Refusal> {
    let read = match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => BalancingPolicy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => BalancingPolicy::LeastRequest,
        Ok(LbPolicy::Random) => BalancingPolicy::Random,
        Ok(other) => {
            let why = format!(
                "{} is not supported; write ROUND_ROBIN, LEAST_REQUEST or RANDOM",
                other.as_str_name()
            );
            return Err(at.field("lb_policy").refuse(why));
        }
        Err(_) => return Err(at.field("lb_policy").refuse(format!("{policy} is no policy"))),
    };
    let slow = match (read, settings) {
        (BalancingPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let at = at.field("round_robin_lb_config");
            understood! { config => RoundRobinLbConfig, &at; take { slow_start_config } ignore {} }
            older_slow_start(slow_start_config.as_ref(), &at.field("slow_start_config"))?
        }
        (BalancingPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let at = at.field("least_request_lb_config");
            understood! { config => LeastRequestLbConfig, &at;
                take { choice_count, active_request_bias, slow_start_config }
                ignore {}
            }
            choices(*choice_count, &at)?;
            bias(active_request_bias.as_ref(), &at)?;
            older_slow_start(slow_start_config.as_ref(), &at.field("slow_start_config"))?
        }
        // The settings of a policy that is not chosen say nothing.
        _ => None,
    };
    Ok((read, slow))
}

fn new_slow_start(slow: Option<&SlowStartConfig>, at: &At<'_>) -> Result<Option<SlowStart>, Refusal> {
    let Some(slow) = slow else { return Ok(None) };
    understood! { slow => SlowStartConfig, at;
        take { slow_start_window, aggression, min_weight_percent }
        ignore {}
    }
    slow_start(slow_start_window.as_ref(), aggression.as_ref(), min_weight_percent.as_ref(), at)
}

fn older_slow_start(
    slow: Option<&cluster::SlowStartConfig>,
    at: &At<'_>,
) -> Result<Option<SlowStart>, Refusal> {
    let Some(slow) = slow else { return Ok(None) };
    understood! { slow => cluster::SlowStartConfig, at;
        take { slow_start_window, aggression, min_weight_percent }
        ignore {}
    }
    slow_start(slow_start_window.as_ref(), aggression.as_ref(), min_weight_percent.as_ref(), at)
}

fn slow_start(
    window: Option<&protobuf::Duration>,
    aggression: Option<&RuntimeDouble>,
    min_weight: Option<&Percent>,
    at: &At<'_>,
) -> Result<Option<SlowStart>, Refusal> {
    // A window of nothing is no slow start.
    let Some(window) = wire::read_limit(window, &at.field("slow_start_window"))? else { return Ok(None) };
    let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
    let min_weight_ppm =
        upkeep::percent(min_weight, &at.field("min_weight_percent"))?.unwrap_or(MIN_WEIGHT_PPM);
    checked(window, aggression, min_weight_ppm, at).map(Some)
}

fn checked(
    window: Duration,
    aggression: f64,
    min_weight_ppm: u32,
    at: &At<'_>,
) -> Result<SlowStart, Refusal> {
    let window = in_range(window, &at.field("slow_start_window"))?;
    if !AGGRESSION.contains(&aggression) {
        let why =
            format!("{aggression} is out of range; write {} to {}", AGGRESSION.start(), AGGRESSION.end());
        return Err(at.field("aggression").refuse(why));
    }
    let min_weight_ppm = upkeep::checked_share(min_weight_ppm, &at.field("min_weight_percent"))?;
    Ok(SlowStart { window, aggression, min_weight_ppm })
}

/// What holds for all policies.
pub(crate) fn common(common: &CommonLbConfig, balancing: &mut Balancing, at: &At<'_>) -> Result<(), Refusal> {
    // Updates take effect as they come; sessions and hashes are not looked at.
    understood! { common => CommonLbConfig, at;
        take { healthy_panic_threshold, locality_config_specifier }
        ignore { update_merge_window, consistent_hashing_lb_config, override_host_status }
        refuse "a new endpoint is used until its first check says otherwise" { ignore_new_hosts_until_first_hc }
        refuse "calls that go on end where they are" { close_connections_on_host_set_change }
    }
    if let Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) = locality_config_specifier
        && zones.fail_traffic_on_panic
    {
        let at = at.field("zone_aware_lb_config");
        return Err(at
            .field("fail_traffic_on_panic")
            .refuse("in a panic the unfit are used; see `panic_threshold`"));
    }
    if let Some(panic) =
        upkeep::percent(healthy_panic_threshold.as_ref(), &at.field("healthy_panic_threshold"))?
    {
        balancing.panic_ppm = panic;
    }
    Ok(())
}
