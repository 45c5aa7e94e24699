//! `balancing` as Envoy's list of load-balancing policies: each client takes the first that it knows.

use config::health::SlowStart;
use config::model::{Balancing, BalancingPolicy};
use prost::Name;

use crate::marks::{PEAK_EWMA, RANDOM};
use crate::pb::cluster::LoadBalancingPolicy;
use crate::pb::cluster::cluster::CommonLbConfig;
use crate::pb::cluster::load_balancing_policy::Policy;
use crate::pb::core::{RuntimeDouble, TypedExtensionConfig};
use crate::pb::lb_common::SlowStartConfig;
use crate::pb::lb_least_request::LeastRequest;
use crate::pb::lb_random::Random;
use crate::pb::lb_round_robin::RoundRobin;
use crate::pb::lb_wrr_locality::WrrLocality;
use crate::pb::protobuf::Any;
use crate::private::Fields;
use crate::share;
use crate::wire;

/// Envoy wants a name for what its operators may change as it runs; nobody does.
const AGGRESSION: &str = "outrigger.slow_start.aggression";

/// The policy as we say it if Envoy cannot, as Envoy does, and last what gRPC falls back on: C-core knows no other.
pub(crate) fn list(balancing: &Balancing) -> LoadBalancingPolicy {
    let slow = balancing.slow_start.as_ref();
    let least_request = || {
        let choice_count = Some(wire::number(2));
        LeastRequest { choice_count, slow_start_config: slow.map(slow_start), ..LeastRequest::default() }
    };
    let mut policies = Vec::new();
    match balancing.policy {
        BalancingPolicy::RoundRobin => {
            policies.push(named(&RoundRobin {
                slow_start_config: slow.map(slow_start),
                ..RoundRobin::default()
            }));
        }
        BalancingPolicy::Random => {
            policies.extend(slow.map(|slow| policy(RANDOM, private(Some(slow)).any(RANDOM))));
            policies.push(named(&Random::default()));
        }
        BalancingPolicy::LeastRequest => policies.push(named(&least_request())),
        BalancingPolicy::PeakEwma => {
            policies.push(policy(PEAK_EWMA, private(slow).any(PEAK_EWMA)));
            policies.push(named(&least_request()));
        }
    }
    let last = LoadBalancingPolicy { policies: vec![named(&RoundRobin::default())] };
    policies.push(named(&WrrLocality { endpoint_picking_policy: Some(last) }));
    LoadBalancingPolicy { policies }
}

/// What holds for all policies.
pub(crate) fn common(balancing: &Balancing) -> CommonLbConfig {
    CommonLbConfig {
        healthy_panic_threshold: Some(share::percent(balancing.panic_ppm)),
        ..CommonLbConfig::default()
    }
}

fn slow_start(slow: &SlowStart) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(wire::duration(slow.window)),
        aggression: Some(RuntimeDouble {
            default_value: slow.aggression,
            runtime_key: AGGRESSION.to_owned(),
        }),
        min_weight_percent: Some(share::percent(slow.min_weight_ppm)),
    }
}

fn private(slow: Option<&SlowStart>) -> Fields {
    let mut fields = Fields::default();
    if let Some(slow) = slow {
        let mut said = Fields::default();
        said.duration("window", slow.window);
        said.number("aggression", slow.aggression);
        said.number("min_weight_ppm", slow.min_weight_ppm);
        fields.fields("slow_start", said);
    }
    fields
}

fn named<T: Name>(message: &T) -> Policy {
    policy(T::NAME, wire::pack(message))
}

fn policy(name: &str, config: Any) -> Policy {
    let extension = TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) };
    Policy { typed_extension_config: Some(extension) }
}
