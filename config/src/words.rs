//! The model in the words of the file: what `outrigger explain`, `/routes` and `outrigger diff` show.
//!
//! Each function gives a block as it would stand in `mesh.yaml`, with the values that are in force: what the file leaves
//! out stands here with its default, and what is off is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::code::CODES;
use crate::health::{Check, Health, Outliers};
use crate::injection::Injection;
use crate::model::{
    Answer, Authorization, Backend, Balancing, Caller, CoveredMethods, Deadline, Endpoint, EndpointTls,
    HeaderChanges, HeaderMatch, HeaderRules, HeaderValueMatch, Match, Mesh, Method, MethodMatch, Policy,
    Rule, Stream, Unmatched, Upstream,
};
use crate::repeats::{Commit, Repeats, RetryBudget, RetryThrottling};

/// A duration: `250ms`, `90s`.
pub fn duration(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (seconds, 0) => format!("{seconds}s"),
        (_, nanos) if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        _ => format!("{duration:?}"),
    }
}

/// A share: `20%`, `0.5%`.
pub fn share(ppm: u32) -> String {
    match ppm % 10_000 {
        0 => format!("{}%", ppm / 10_000),
        _ => format!("{}%", f64::from(ppm) / 1e4),
    }
}

/// Bytes: `256KiB`.
pub fn size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// `deadline`.
pub fn deadline(block: &Deadline) -> Value {
    let mut told = Told::default();
    told.maybe("default", block.default.map(duration));
    told.maybe("max", block.max.map(duration));
    told.flag("shed_below_median", block.shed_below_median);
    told.flag("inherit", block.inherit);
    told.value()
}

/// `stream`.
pub fn stream(block: &Stream) -> Value {
    let mut told = Told::default();
    told.maybe("idle", block.idle.map(duration));
    told.value()
}

/// `headers`.
pub fn headers(block: &HeaderRules) -> Value {
    let mut told = Told::default();
    for (key, changes) in [("request", &block.request), ("response", &block.response)] {
        told.maybe(key, (!changes.is_empty()).then(|| header_changes(changes)));
    }
    told.value()
}

fn header_changes(changes: &HeaderChanges) -> Value {
    let mut told = Told::default();
    told.maybe("remove", (!changes.remove.is_empty()).then(|| json!(changes.remove)));
    for (key, list) in [("set", &changes.set), ("add", &changes.add)] {
        // A mapping has each name once; so do those of the file.
        let pairs: BTreeMap<&str, &str> =
            list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        told.maybe(key, (!pairs.is_empty()).then(|| json!(pairs)));
    }
    told.value()
}

/// The word and the block of `retries` or `hedging`; `None`: only what was not processed goes out again.
pub fn repeats(rule: &Repeats) -> Option<(&'static str, Value)> {
    match rule {
        Repeats::Unprocessed => None,
        Repeats::Retries(rule) => {
            let mut told = Told::default();
            told.put("max_attempts", rule.max_attempts);
            told.put("retryable_status_codes", rule.codes.names().collect::<Vec<_>>());
            told.put("initial_backoff", duration(rule.backoff.initial));
            told.put("max_backoff", duration(rule.backoff.max));
            told.put("backoff_multiplier", rule.backoff.multiplier);
            told.maybe("per_attempt_timeout", rule.per_attempt_timeout.map(duration));
            if let Commit::FirstMessage { hold } = rule.commit {
                told.put("commit", "first_message");
                told.put("header_hold", duration(hold));
            }
            told.put("replay_limit", size(rule.replay_limit));
            Some(("retries", told.value()))
        }
        Repeats::Hedging(rule) => {
            let mut told = Told::default();
            told.put("max_attempts", rule.max_attempts);
            told.put("hedging_delay", duration(rule.delay));
            told.put("non_fatal_status_codes", rule.non_fatal.names().collect::<Vec<_>>());
            told.put("replay_limit", size(rule.replay_limit));
            Some(("hedging", told.value()))
        }
    }
}

/// `faults`.
pub fn faults(block: &Injection) -> Value {
    let code = |number: u8| CODES.get(usize::from(number)).copied().unwrap_or("UNKNOWN");
    let mut told = Told::default();
    told.maybe("seed", block.seed);
    told.maybe(
        "delay",
        block.delay.map(|it| json!({"percentage": share(it.share_ppm), "duration": duration(it.duration)})),
    );
    told.maybe(
        "abort",
        block.abort.map(|it| json!({"percentage": share(it.share_ppm), "code": code(it.code)})),
    );
    told.maybe(
        "stream_stall",
        block.stream_stall.map(|it| {
            let (percentage, duration) = (share(it.share_ppm), duration(it.duration));
            json!({"percentage": percentage, "after_messages": it.after_messages, "duration": duration})
        }),
    );
    told.maybe(
        "stream_abort",
        block.stream_abort.map(|it| {
            let (percentage, code) = (share(it.share_ppm), code(it.code));
            json!({"percentage": percentage, "after_messages": it.after_messages, "code": code})
        }),
    );
    told.value()
}

/// The blocks of a level, by their keys; those that say nothing are left out.
pub fn policy(policy: &Policy) -> Map<String, Value> {
    let mut told = Told::default();
    let is_off = |block: &Value| block.as_object().is_some_and(Map::is_empty);
    for (key, block) in [
        ("deadline", deadline(&policy.deadline)),
        ("stream", stream(&policy.stream)),
        ("headers", headers(&policy.headers)),
        ("faults", faults(&policy.injection)),
    ] {
        told.maybe(key, (!is_off(&block)).then_some(block));
    }
    if let Some((key, block)) = repeats(&policy.repeats) {
        told.put(key, block);
    }
    told.0
}

/// One entry of `methods`.
pub fn method(method: &Method) -> Value {
    let mut told = Told::default();
    told.maybe("type", method.kind.map(|kind| kind.as_str()));
    told.maybe("idempotent", (!method.idempotent).then_some(false));
    told.maybe("deadline", method.deadline.as_ref().map(deadline));
    told.maybe("stream", method.stream.as_ref().map(stream));
    told.maybe("headers", method.headers.as_ref().map(headers));
    if let Some((key, block)) = method.repeats.as_ref().and_then(repeats) {
        told.put(key, block);
    }
    told.maybe("faults", method.injection.as_ref().map(faults));
    told.value()
}

/// `match`.
pub fn matches(matches: &Match) -> Value {
    let mut told = Told::default();
    told.maybe("host", matches.host.clone());
    told.maybe("service", matches.service.clone());
    told.maybe("method", matches.method.as_ref().map(method_match));
    let headers: Vec<Value> = matches.headers.iter().map(header_match).collect();
    told.maybe("headers", (!headers.is_empty()).then_some(headers));
    told.value()
}

fn method_match(method: &MethodMatch) -> Value {
    match method {
        MethodMatch::Exact(text) => json!(text),
        MethodMatch::Prefix(text) => json!({"prefix": text}),
        MethodMatch::Regex(regex) => json!({"regex": unanchored(regex.as_str())}),
    }
}

fn header_match(header: &HeaderMatch) -> Value {
    let mut told = Told::default();
    told.put("name", header.name.clone());
    match &header.value {
        HeaderValueMatch::Exact(text) => told.put("exact", text.clone()),
        HeaderValueMatch::Prefix(text) => told.put("prefix", text.clone()),
        HeaderValueMatch::Regex(regex) => told.put("regex", unanchored(regex.as_str())),
        HeaderValueMatch::Present(present) => told.put("present", *present),
    }
    told.flag("invert", header.invert);
    told.value()
}

/// A regular expression as the file has it, without the anchors that the parser put around it.
fn unanchored(text: &str) -> &str {
    text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)
}

/// What a match asks for, as a sentence has it; an empty match takes every call.
pub fn matches_in_words(matches: &Match) -> String {
    let mut said = Vec::new();
    said.extend(matches.host.as_ref().map(|host| format!("host {host}")));
    said.extend(matches.service.as_ref().map(|service| format!("service {service}")));
    said.extend(matches.method.as_ref().map(|method| format!("method {}", method_in_words(method))));
    said.extend(matches.headers.iter().map(header_in_words));
    match said.is_empty() {
        true => "every call".to_owned(),
        false => said.join(", "),
    }
}

/// What a method must be.
pub fn method_in_words(method: &MethodMatch) -> String {
    match method {
        MethodMatch::Exact(text) => text.clone(),
        MethodMatch::Prefix(text) => format!("that begins with {text}"),
        MethodMatch::Regex(regex) => format!("like /{}/", unanchored(regex.as_str())),
    }
}

/// What a header must be.
pub fn header_in_words(header: &HeaderMatch) -> String {
    let name = &header.name;
    let not = if header.invert { "not " } else { "" };
    match &header.value {
        HeaderValueMatch::Exact(text) => format!("header {name} {not}{text:?}"),
        HeaderValueMatch::Prefix(text) => format!("header {name} {not}beginning with {text:?}"),
        HeaderValueMatch::Regex(regex) => format!("header {name} {not}like /{}/", unanchored(regex.as_str())),
        HeaderValueMatch::Present(present) if *present != header.invert => format!("header {name} present"),
        HeaderValueMatch::Present(_) => format!("header {name} absent"),
    }
}

/// One entry of `backends`.
pub fn backend(backend: &Backend, mesh: &Mesh) -> Value {
    let mut told = Told::default();
    told.put("service", mesh.services.get(backend.service).map(|service| service.full_name()));
    told.maybe("labels", (!backend.labels.is_empty()).then(|| json!(backend.labels)));
    told.put("weight", backend.weight);
    told.value()
}

/// One entry of `endpoints`.
pub fn endpoint(endpoint: &Endpoint) -> Value {
    let mut told = Told::default();
    told.put("address", endpoint.target.to_string());
    told.maybe("tls", endpoint.tls.map(endpoint_tls));
    told.put("weight", endpoint.weight);
    told.maybe("labels", (!endpoint.labels.is_empty()).then(|| json!(endpoint.labels)));
    told.value()
}

/// The word of an endpoint's `tls`.
pub fn endpoint_tls(tls: EndpointTls) -> &'static str {
    match tls {
        EndpointTls::Mesh => "mesh",
        EndpointTls::None => "none",
    }
}

/// `inbound`: the rules, and what holds where none decides.
pub fn inbound(authorization: &Authorization) -> Value {
    let rules: Vec<Value> = authorization.rules.iter().map(rule).collect();
    json!({"authorization": rules, "authorization_default": answer(authorization.default)})
}

/// The word of `authorization_default`.
pub fn answer(answer: Answer) -> &'static str {
    match answer {
        Answer::Allow => "allow",
        Answer::Deny => "deny",
    }
}

/// One entry of `authorization`.
pub fn rule(rule: &Rule) -> Value {
    let from = rule.from.iter().map(|caller| match caller {
        Caller::AnyAuthenticated => "*".to_owned(),
        Caller::Id(id) => id.to_string(),
        Caller::Prefix(prefix) => format!("{prefix}*"),
    });
    let methods = rule.methods.iter().map(|methods| match methods {
        CoveredMethods::Method(name) => name.clone(),
        CoveredMethods::Service(prefix) => format!("{prefix}*"),
    });
    let mut covered = Told::default();
    covered.maybe("from", (!rule.from.is_empty()).then(|| from.collect::<Vec<_>>()));
    covered.maybe("methods", (!rule.methods.is_empty()).then(|| methods.collect::<Vec<_>>()));
    let headers: Vec<Value> = rule.headers.iter().map(header_match).collect();
    covered.maybe("headers", (!headers.is_empty()).then_some(headers));
    let mut told = Told::default();
    told.maybe("name", rule.name.clone());
    told.put(rule.action.as_str(), covered.value());
    told.value()
}

/// `balancing`.
pub fn balancing(block: &Balancing) -> Value {
    let mut told = Told::default();
    told.put("policy", block.policy.to_string());
    told.maybe(
        "slow_start",
        block.slow_start.map(|slow| {
            let (window, least) = (duration(slow.window), share(slow.min_weight_ppm));
            json!({"window": window, "aggression": slow.aggression, "min_weight": least})
        }),
    );
    told.put("panic_threshold", share(block.panic_ppm));
    told.value()
}

/// `upstream`.
pub fn upstream(block: &Upstream) -> Value {
    let (interval, timeout) = (duration(block.keepalive.interval), duration(block.keepalive.timeout));
    json!({
        "connect_timeout": duration(block.connect_timeout),
        "connections": block.connections,
        "idle_timeout": duration(block.idle_timeout),
        "max_age": duration(block.max_age),
        "max_calls": block.max_calls,
        "user_timeout": duration(block.user_timeout),
        "keepalive": {"interval": interval, "timeout": timeout},
    })
}

/// `health`.
pub fn health(block: &Health) -> Value {
    let mut told = Told::default();
    match &block.check {
        Check::Tcp => told.put("check", "tcp"),
        Check::Grpc { service } => {
            told.put("check", "grpc");
            told.maybe("service", (!service.is_empty()).then(|| service.clone()));
        }
    }
    told.put("interval", duration(block.interval));
    told.put("timeout", duration(block.timeout));
    told.put("unhealthy_threshold", block.unhealthy_threshold);
    told.put("healthy_threshold", block.healthy_threshold);
    told.value()
}

/// `outliers`.
pub fn outliers(block: &Outliers) -> Value {
    let mut told = Told::default();
    told.put("error_codes", block.codes.names().collect::<Vec<_>>());
    told.put("consecutive_errors", block.consecutive_errors);
    told.put("interval", duration(block.interval));
    told.put("base_ejection_time", duration(block.base_ejection_time));
    told.put("max_ejection_time", duration(block.max_ejection_time));
    told.put("max_ejection_percent", share(block.max_ejected_ppm));
    told.maybe(
        "success_rate",
        block.success_rate.map(|rate| {
            json!({
                "stdev_factor": rate.stdev_factor,
                "enforcement_percentage": share(rate.enforcement_ppm),
                "minimum_hosts": rate.minimum_hosts,
                "request_volume": rate.request_volume,
            })
        }),
    );
    told.maybe(
        "failure_percentage",
        block.failure_percentage.map(|rate| {
            json!({
                "threshold": share(rate.threshold_ppm),
                "enforcement_percentage": share(rate.enforcement_ppm),
                "minimum_hosts": rate.minimum_hosts,
                "request_volume": rate.request_volume,
            })
        }),
    );
    told.value()
}

/// `retry_budget`.
pub fn retry_budget(block: &RetryBudget) -> Value {
    json!({"share": share(block.share_ppm), "min_per_second": block.min_per_second})
}

/// `retry_throttling`.
pub fn retry_throttling(block: &RetryThrottling) -> Value {
    json!({"max_tokens": block.max_tokens, "token_ratio": block.token_ratio})
}

/// `unmatched`.
pub fn unmatched(unmatched: Unmatched) -> &'static str {
    match unmatched {
        Unmatched::Forward => "forward",
        Unmatched::Refuse => "refuse",
    }
}

/// A block in the making.
#[derive(Default)]
struct Told(Map<String, Value>);

impl Told {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn maybe(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn flag(&mut self, key: &str, set: bool) {
        self.maybe(key, set.then_some(true));
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, parse_mesh};

    /// Every block that the words are about, each with values that are no defaults.
    const MESH: &str = "
version: 1
services:
  - name: a
    namespace: shop
    endpoints: [{address: '10.0.0.1:1', tls: none, weight: 3, labels: {version: v2}}]
    balancing: {policy: peak_ewma, slow_start: {window: 30s}, panic_threshold: 12.5%}
    health: {check: grpc, service: a.B, interval: 3s}
    outliers: {consecutive_errors: 7, success_rate: {stdev_factor: 2.5}, failure_percentage: {threshold: 40%}}
    retry_budget: {share: 5%, min_per_second: 3}
    retry_throttling: {max_tokens: 10, token_ratio: 0.5}
    upstream: {connections: 3, keepalive: {interval: 20s, timeout: 4s}}
    methods: {a.B/C: {type: unary, idempotent: false, deadline: {max: 3s}, faults: {abort: {percentage: 1%, code: NOT_FOUND}}}}
    routes:
      - match: {host: a.shop, method: {regex: 'a.*'}, headers: [{name: x, prefix: p, invert: true}, {name: x-y, present: false}]}
        backends: [{service: a, labels: {version: v2}, weight: 4}]
        deadline: {default: 250ms, max: 90s, inherit: true}
        stream: {idle: 1m}
        headers: {request: {set: {x-a: '1'}, remove: [x-b]}}
        retries: {max_attempts: 4, retryable_status_codes: [UNAVAILABLE, ABORTED], commit: first_message}
        faults: {seed: 7, delay: {percentage: 0.5%, duration: 10ms}}
      - match: {service: a.B}
        hedging: {max_attempts: 2, hedging_delay: 5ms}
    inbound:
      authorization:
      - {allow: {from: ['*', 'spiffe://cluster.local/ns/shop/sa/x', {service: a}], methods: ['a.B/*', a.C/D]}}
      - {name: guests, deny: {from: [{namespace: guests}], headers: [{name: x-a, prefix: b, invert: true}]}}
      - {audit: {}}
";

    fn told(mesh: &Mesh) -> Value {
        let service = &mesh.services[0];
        let routes: Vec<Value> = service
            .routes
            .iter()
            .map(|route| {
                let mut block = policy(&route.policy);
                block.insert("match".into(), matches(&route.matches));
                let backends = route.backends.iter().map(|it| backend(it, mesh));
                block.insert("backends".into(), backends.collect());
                Value::Object(block)
            })
            .collect();
        json!({
            "version": 1,
            "services": [{
                "name": service.name,
                "namespace": service.namespace,
                "endpoints": service.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
                "balancing": balancing(&service.balancing),
                "health": service.health.as_ref().map(health),
                "outliers": service.outliers.as_ref().map(outliers),
                "retry_budget": retry_budget(&service.retry_budget),
                "retry_throttling": service.retry_throttling.as_ref().map(retry_throttling),
                "upstream": upstream(&service.upstream),
                "methods": service.methods.iter().map(|(path, it)| (path.clone(), method(it))).collect::<Map<_, _>>(),
                "routes": routes,
                "unmatched": unmatched(service.unmatched),
                "inbound": service.authorization.as_ref().map(inbound),
            }]
        })
    }

    /// JSON is YAML: what is told is read again, and says the same.
    #[test]
    fn what_is_told_of_a_mesh_is_a_mesh_file_that_means_the_same() {
        let first = parse_mesh(Source { name: "first", text: MESH }).unwrap();
        let text = format!("{:#}", told(&first));
        let again =
            parse_mesh(Source { name: "again", text: &text }).unwrap_or_else(|f| panic!("{f}\n{text}"));
        assert_eq!(format!("{first:?}"), format!("{again:?}"), "{text}");
    }

    #[test]
    fn a_match_is_told_in_one_line() {
        let mesh = parse_mesh(Source { name: "mesh", text: MESH }).unwrap();
        let routes = &mesh.services[0].routes;
        assert_eq!(
            matches_in_words(&routes[0].matches),
            "host a.shop, method like /a.*/, header x not beginning with \"p\", header x-y absent"
        );
        assert_eq!(matches_in_words(&Match::default()), "every call");
    }

    #[test]
    fn numbers_are_written_as_in_the_file() {
        let ms = Duration::from_millis;
        assert_eq!(
            [duration(ms(250)), duration(ms(90_000)), duration(ms(1_500))],
            ["250ms", "90s", "1500ms"]
        );
        assert_eq!([share(200_000), share(5_000), share(0)], ["20%", "0.5%", "0%"]);
        assert_eq!([size(256 << 10), size(3 << 20), size(1_000)], ["256KiB", "3MiB", "1000"]);
    }
}
