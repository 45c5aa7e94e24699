//! Random mesh files: every key that a mesh file may have comes up, in every place where it may stand. They are read by the
//! parser, so that the meshes are valid, and are as people get them.

use std::collections::BTreeSet;

use config::model::Mesh;
use config::{Source, parse_mesh};
use fastrand::Rng;
use serde_json::{Map, Value, json};

const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const NAMES: [&str; 6] = ["orders", "users", "payments", "a", "pay-ments", "0"];
const NAMESPACES: [&str; 3] = ["shop", "default", "n-1"];
const KEYS: [&str; 5] = ["version", "tier", "a=b;c", "x,y", "%/"];
const TEXTS: [&str; 5] = ["v1", "v2", "gold", "=;,%2C", "~"];
const METHODS: [&str; 5] =
    ["shop.Orders/Place", "shop.Orders/Watch", "shop.v1.Users/Get", "Echo/Say", "Echo/Sing"];
const REGEXES: [&str; 8] = [
    "shop\\.Orders/.*",
    "[a-z]+\\.V[0-9]{1,3}/.*",
    "a|b",
    "(?i)echo/.*",
    "\\w+/\\w+",
    "x*",
    "(a|b)/(c|d)",
    "\\d+",
];
const HEADERS: [&str; 5] = ["x-canary", "x-user", "user-agent", "x-a-bin", "grpc-timeout"];
const CHANGED: [&str; 4] = ["x-canary", "x-user", "user-agent", "x-b"];
const VALUES: [&str; 5] = ["1", "a b", "", "!~", "v1, v2"];

/// The mesh of a seed, and its text.
pub(crate) fn mesh(seed: u64) -> (Mesh, String) {
    let mut file = File { rng: Rng::with_seed(seed) };
    let text = serde_json::to_string_pretty(&file.mesh()).expect("a text");
    match parse_mesh(Source { name: "random.yaml", text: &text }) {
        Ok(mesh) => (mesh, text),
        Err(faults) => panic!("seed {seed} is no mesh:\n{faults}\n{text}"),
    }
}

struct File {
    rng: Rng,
}

/// A block with those of its keys that chance has taken.
struct Block(Map<String, Value>);

impl Block {
    fn put(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }
}

impl File {
    fn mesh(&mut self) -> Value {
        let mut services = self.services();
        let targets: Vec<(String, Vec<Value>)> = services
            .iter()
            .map(|service| {
                let endpoints =
                    service.get("endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
                (full_name(service), endpoints)
            })
            .collect();
        let trust_domain = *self.of(&["cluster.local", "mesh.example"]);
        for service in &mut services {
            self.routes(service, &targets);
            self.identities(service, trust_domain);
        }
        let mut mesh = json!({"version": 1, "trust_domain": trust_domain, "services": services});
        if self.rng.bool() {
            let mut defaults = Block(Map::new());
            self.policies(&mut defaults);
            self.cluster(&mut defaults);
            mesh["defaults"] = Value::Object(defaults.0);
        }
        mesh
    }

    fn services(&mut self) -> Vec<Map<String, Value>> {
        let mut taken = BTreeSet::new();
        let mut services = Vec::new();
        for _ in 0..self.rng.usize(1..6) {
            let (name, namespace) = (*self.of(&NAMES), *self.of(&NAMESPACES));
            if !taken.insert((name, namespace)) {
                continue;
            }
            let mut block = Block(Map::new());
            block.put("name", json!(name));
            block.put("namespace", json!(namespace));
            let place = services.len();
            self.maybe(&mut block, "ports", |rng| {
                let ports: BTreeSet<u16> = (0..rng.usize(0..4)).map(|_| rng.u16(1..)).collect();
                json!(ports)
            });
            self.maybe(&mut block, "hosts", |rng| {
                let hosts: BTreeSet<String> =
                    (0..rng.usize(0..3)).map(|_| format!("h{}.s{place}.example", rng.u8(..))).collect();
                json!(hosts)
            });
            self.endpoints(&mut block);
            self.cluster(&mut block);
            self.policies(&mut block);
            self.methods(&mut block);
            self.maybe(&mut block, "unmatched", |rng| json!(["forward", "refuse"][rng.usize(0..2)]));
            services.push(block.0);
        }
        services
    }

    fn endpoints(&mut self, service: &mut Block) {
        let mut seen = BTreeSet::new();
        let mut endpoints = Vec::new();
        for _ in 0..self.rng.usize(0..5) {
            let (target, is_name) = match self.rng.u8(0..5) {
                0 => (format!("10.0.{}.{}:{}", self.rng.u8(..), self.rng.u8(..), self.rng.u16(1..)), false),
                1 => (format!("[2001:db8::{:x}]:{}", self.rng.u16(1..), self.rng.u16(1..)), false),
                2 => (format!("[fe80::1%{}]:{}", self.rng.u8(1..), self.rng.u16(1..)), false),
                3 => (format!("e{}.example:{}", self.rng.u8(..), self.rng.u16(1..)), true),
                _ => (format!("e{}.example.:{}", self.rng.u8(..), self.rng.u16(1..)), true),
            };
            if !seen.insert(target.clone()) {
                continue;
            }
            if !is_name && self.rng.u8(0..4) == 0 {
                endpoints.push(json!(target));
                continue;
            }
            let mut block = Block(Map::new());
            block.put(if is_name { "dns" } else { "address" }, json!(target));
            self.maybe(&mut block, "tls", |rng| json!(["mesh", "none"][rng.usize(0..2)]));
            self.maybe(&mut block, "weight", |rng| json!([0, 1, 2, 100, 1_000_000][rng.usize(0..5)]));
            self.maybe(&mut block, "labels", labels);
            endpoints.push(Value::Object(block.0));
        }
        if !endpoints.is_empty() || self.rng.bool() {
            service.put("endpoints", json!(endpoints));
        }
    }

    /// What a cluster says.
    fn cluster(&mut self, service: &mut Block) {
        if self.rng.bool() {
            let mut block = Block(Map::new());
            self.maybe(&mut block, "policy", |rng| {
                json!(["round_robin", "random", "least_request", "peak_ewma"][rng.usize(0..4)])
            });
            self.maybe(&mut block, "panic_threshold", percentage);
            if self.rng.bool() {
                let mut slow = Block(Map::new());
                slow.put("window", some_time(&mut self.rng));
                self.maybe(&mut slow, "aggression", |rng| json!(0.1 + f64::from(rng.u16(0..999)) / 10.0));
                self.maybe(&mut slow, "min_weight", percentage);
                block.put("slow_start", Value::Object(slow.0));
            }
            service.put("balancing", Value::Object(block.0));
        }
        if self.rng.bool() {
            let mut block = Block(Map::new());
            for key in ["connect_timeout", "idle_timeout", "max_age", "user_timeout"] {
                self.maybe(&mut block, key, some_time);
            }
            self.maybe(&mut block, "connections", |rng| json!(rng.u16(1..=1_024)));
            self.maybe(&mut block, "max_calls", |rng| json!(rng.u32(1..=1 << 30)));
            self.maybe(
                &mut block,
                "keepalive",
                |rng| json!({"interval": some_time(rng), "timeout": some_time(rng)}),
            );
            service.put("upstream", Value::Object(block.0));
        }
        if self.rng.bool() {
            let mut block = Block(Map::new());
            let check = *self.of(&["grpc", "tcp"]);
            block.put("check", json!(check));
            if check == "grpc" {
                self.maybe(&mut block, "service", |_| json!("shop.Orders"));
            }
            for key in ["interval", "timeout"] {
                self.maybe(&mut block, key, some_time);
            }
            for key in ["unhealthy_threshold", "healthy_threshold"] {
                self.maybe(&mut block, key, count);
            }
            service.put("health", Value::Object(block.0));
        }
        if self.rng.bool() {
            self.outliers(service);
        }
        self.maybe(
            service,
            "retry_budget",
            |rng| json!({"share": percentage(rng), "min_per_second": rng.u32(0..=1_000_000)}),
        );
        self.maybe(service, "retry_throttling", |rng| {
            json!({"max_tokens": rng.u16(1..=1_000), "token_ratio": f64::from(rng.u32(1..1_000_000)) / 1_000.0})
        });
    }

    fn outliers(&mut self, service: &mut Block) {
        let mut block = Block(Map::new());
        self.maybe(&mut block, "error_codes", codes);
        self.maybe(&mut block, "consecutive_errors", |rng| json!(rng.u32(0..=1_000_000)));
        for key in ["interval", "base_ejection_time", "max_ejection_time"] {
            self.maybe(&mut block, key, some_time);
        }
        self.maybe(&mut block, "max_ejection_percent", percentage);
        if self.rng.bool() {
            let mut rate = Block(Map::new());
            self.maybe(&mut rate, "stdev_factor", |rng| json!(f64::from(rng.u32(0..=1_000_000)) / 10_000.0));
            self.rate(&mut rate);
            block.put("success_rate", Value::Object(rate.0));
        }
        if self.rng.bool() {
            let mut rate = Block(Map::new());
            self.maybe(&mut rate, "threshold", percentage);
            self.rate(&mut rate);
            block.put("failure_percentage", Value::Object(rate.0));
        }
        service.put("outliers", Value::Object(block.0));
    }

    fn rate(&mut self, rate: &mut Block) {
        self.maybe(rate, "enforcement_percentage", percentage);
        self.maybe(rate, "minimum_hosts", count);
        self.maybe(rate, "request_volume", count);
    }

    /// The blocks of policies that stand at every level.
    fn policies(&mut self, level: &mut Block) {
        if self.rng.u8(0..3) == 0 {
            let mut block = Block(Map::new());
            let (shorter, longer) = in_order(&mut self.rng);
            self.maybe(&mut block, "default", |_| shorter);
            self.maybe(&mut block, "max", |_| longer);
            for key in ["shed_below_median", "inherit"] {
                self.maybe(&mut block, key, |rng| json!(rng.bool()));
            }
            level.put("deadline", Value::Object(block.0));
        }
        if self.rng.u8(0..3) == 0 {
            let idle = if self.rng.bool() { json!({"idle": some_time(&mut self.rng)}) } else { json!({}) };
            level.put("stream", idle);
        }
        if self.rng.u8(0..3) == 0 {
            let mut block = Block(Map::new());
            for key in ["request", "response"] {
                self.maybe(&mut block, key, changes);
            }
            level.put("headers", Value::Object(block.0));
        }
        match self.rng.u8(0..6) {
            0 => self.retries(level),
            1 => self.hedging(level),
            _ => {}
        }
        if self.rng.u8(0..3) == 0 {
            let mut block = Block(Map::new());
            self.maybe(
                &mut block,
                "delay",
                |rng| json!({"percentage": percentage(rng), "duration": some_time(rng)}),
            );
            self.maybe(&mut block, "abort", |rng| json!({"percentage": percentage(rng), "code": code(rng)}));
            self.maybe(&mut block, "stream_stall", |rng| {
                json!({"percentage": percentage(rng), "after_messages": rng.u32(0..=1_000_000_000), "duration": some_time(rng)})
            });
            self.maybe(&mut block, "stream_abort", |rng| {
                json!({"percentage": percentage(rng), "after_messages": rng.u32(0..9), "code": code(rng)})
            });
            if !block.0.is_empty() {
                self.maybe(&mut block, "seed", |rng| json!(rng.u64(..) >> 1));
            }
            level.put("faults", Value::Object(block.0));
        }
    }

    fn retries(&mut self, level: &mut Block) {
        let mut block = Block(Map::new());
        self.maybe(&mut block, "max_attempts", |rng| json!(rng.u8(1..=10)));
        self.maybe(&mut block, "retryable_status_codes", codes);
        if self.rng.bool() {
            let (initial, max) = in_order(&mut self.rng);
            block.put("initial_backoff", initial);
            block.put("max_backoff", max);
        }
        self.maybe(&mut block, "backoff_multiplier", |rng| json!(1.0 + f64::from(rng.u16(0..9_900)) / 100.0));
        self.maybe(&mut block, "per_attempt_timeout", some_time);
        if self.rng.bool() {
            block.put("commit", json!("first_message"));
            self.maybe(&mut block, "header_hold", some_time);
        }
        self.maybe(&mut block, "replay_limit", |rng| json!(rng.u32(0..=64 << 20)));
        level.put("retries", Value::Object(block.0));
    }

    fn hedging(&mut self, level: &mut Block) {
        let mut block = Block(Map::new());
        self.maybe(&mut block, "max_attempts", |rng| json!(rng.u8(2..=10)));
        let delay = if self.rng.bool() { json!("0s") } else { some_time(&mut self.rng) };
        block.put("hedging_delay", delay);
        self.maybe(&mut block, "non_fatal_status_codes", codes);
        self.maybe(&mut block, "replay_limit", |rng| json!(rng.u32(0..=64 << 20)));
        level.put("hedging", Value::Object(block.0));
    }

    fn methods(&mut self, service: &mut Block) {
        let mut methods = Map::new();
        for method in METHODS {
            if self.rng.u8(0..4) != 0 {
                continue;
            }
            let mut block = Block(Map::new());
            self.maybe(&mut block, "type", |rng| {
                json!(["unary", "client_stream", "server_stream", "bidi_stream"][rng.usize(0..4)])
            });
            self.maybe(&mut block, "idempotent", |rng| json!(rng.bool()));
            self.policies(&mut block);
            methods.insert(method.to_owned(), Value::Object(block.0));
        }
        if !methods.is_empty() {
            service.put("methods", Value::Object(methods));
        }
    }

    fn routes(&mut self, service: &mut Map<String, Value>, targets: &[(String, Vec<Value>)]) {
        let mut said = BTreeSet::new();
        let mut routes = Vec::new();
        for _ in 0..self.rng.usize(0..5) {
            let matches = self.matches(service);
            if !said.insert(plain(&matches)) {
                continue;
            }
            let mut block = Block(Map::new());
            block.put("match", matches);
            self.maybe_backends(&mut block, targets);
            self.policies(&mut block);
            routes.push(Value::Object(block.0));
        }
        if self.rng.bool() {
            let mut last = Block(Map::new());
            self.maybe_backends(&mut last, targets);
            self.policies(&mut last);
            routes.push(Value::Object(last.0));
        }
        if !routes.is_empty() {
            service.insert("routes".to_owned(), json!(routes));
        }
        if self.rng.bool() {
            let rules: Vec<Value> = (0..self.rng.usize(0..4)).map(|place| self.rule(place)).collect();
            let mut block = Block(Map::new());
            self.maybe(&mut block, "authorization", |_| json!(rules));
            self.maybe(&mut block, "authorization_default", |rng| json!(["allow", "deny"][rng.usize(0..2)]));
            service.insert("inbound".to_owned(), Value::Object(block.0));
        }
    }

    /// Never one that takes every call.
    fn matches(&mut self, service: &Map<String, Value>) -> Value {
        let mut block = Block(Map::new());
        let mut hosts = vec![full_name(service), format!("{}.svc", full_name(service))];
        let more = service.get("hosts").and_then(Value::as_array).into_iter().flatten();
        hosts.extend(more.filter_map(|host| host.as_str().map(str::to_owned)));
        self.maybe(&mut block, "host", |rng| json!(hosts[rng.usize(0..hosts.len())]));
        match self.rng.u8(0..7) {
            0 => block.put("service", json!("shop.Orders")),
            1 => block.put("method", json!(self.of(&METHODS))),
            2 => block.put("method", json!({"exact": self.of(&METHODS)})),
            3 => block.put("method", json!({"prefix": self.of(&["shop.", "Echo/S", "s"])})),
            4 => block.put("method", json!({"regex": self.of(&REGEXES)})),
            5 => {
                block.put("service", json!("shop.Orders"));
                let method =
                    [json!("shop.Orders/Place"), json!({"prefix": "shop.O"}), json!({"regex": ".*/P.*"})];
                block.put("method", self.of(&method).clone());
            }
            _ => {}
        }
        let least = usize::from(block.0.is_empty());
        let headers: Vec<Value> = (0..self.rng.usize(least..4)).map(|_| self.header()).collect();
        if !headers.is_empty() {
            block.put("headers", json!(headers));
        }
        Value::Object(block.0)
    }

    fn header(&mut self) -> Value {
        let mut block = Block(Map::new());
        block.put("name", json!(self.of(&HEADERS)));
        match self.rng.u8(0..4) {
            0 => block.put("exact", json!(self.of(&VALUES))),
            1 => block.put("prefix", json!(self.of(&["v", "a b"]))),
            2 => block.put("regex", json!(self.of(&REGEXES))),
            _ => block.put("present", json!(self.rng.bool())),
        }
        self.maybe(&mut block, "invert", |rng| json!(rng.bool()));
        Value::Object(block.0)
    }

    fn maybe_backends(&mut self, route: &mut Block, targets: &[(String, Vec<Value>)]) {
        if self.rng.u8(0..4) == 0 {
            return;
        }
        let mut backends = Vec::new();
        for place in 0..self.rng.usize(1..4) {
            let (name, endpoints) = &targets[self.rng.usize(0..targets.len())];
            let mut block = Block(Map::new());
            block.put("service", json!(name));
            // One of them gets calls.
            let weight = if place == 0 { self.rng.u32(1..1_000) } else { self.rng.u32(0..1_000_001) };
            block.put("weight", json!(weight));
            let labelled: Vec<&Map<String, Value>> =
                endpoints.iter().filter_map(|endpoint| endpoint.get("labels")?.as_object()).collect();
            if !labelled.is_empty() && self.rng.bool() {
                let of = labelled[self.rng.usize(0..labelled.len())].clone();
                let some: Map<String, Value> = of.into_iter().filter(|_| self.rng.bool()).collect();
                block.put("labels", Value::Object(some));
            }
            backends.push(Value::Object(block.0));
        }
        route.put("backends", json!(backends));
    }

    fn rule(&mut self, place: usize) -> Value {
        let mut covered = Block(Map::new());
        self.maybe(&mut covered, "from", |rng| {
            let ids = ["*", "TRUST/ns/shop/sa/orders", "TRUST/ns/default/sa/a", "TRUST", "TRUST/ns/shop/*"];
            let some: BTreeSet<&str> = (0..rng.usize(1..4)).map(|_| ids[rng.usize(0..ids.len())]).collect();
            let mut some: Vec<Value> = some.into_iter().map(Value::from).collect();
            if rng.bool() {
                some.push(json!({"namespace": "guests"}));
            }
            json!(some)
        });
        self.maybe(&mut covered, "methods", |rng| {
            let all = ["shop.Orders/*", "Echo/*", METHODS[0], METHODS[2]];
            let some: BTreeSet<&str> = (0..rng.usize(1..4)).map(|_| all[rng.usize(0..all.len())]).collect();
            json!(some)
        });
        if self.rng.bool() {
            let headers = (0..self.rng.usize(1..3)).map(|_| {
                let mut header = self.header();
                if header["name"] == "grpc-timeout" {
                    header["name"] = json!("x-tenant");
                }
                header
            });
            let headers: Vec<Value> = headers.collect();
            covered.put("headers", json!(headers));
        }
        let mut rule = Map::new();
        if self.rng.bool() {
            rule.insert("name".to_owned(), json!(format!("rule-{place}")));
        }
        let action = ["allow", "deny", "audit"][self.rng.usize(0..3)];
        rule.insert(action.to_owned(), Value::Object(covered.0));
        Value::Object(rule)
    }

    /// Ids, all of the mesh's own trust domain.
    fn identities(&mut self, service: &mut Map<String, Value>, trust_domain: &str) {
        if self.rng.u8(0..3) == 0 {
            let ids: BTreeSet<String> = (0..self.rng.usize(1..4))
                .map(|_| format!("spiffe://{trust_domain}/ns/x/sa/s{}", self.rng.u8(..)))
                .collect();
            service.insert("identities".to_owned(), json!(ids));
        }
        if let Some(inbound) = service.get_mut("inbound") {
            let text = inbound.to_string().replace("TRUST", &format!("spiffe://{trust_domain}"));
            *inbound = serde_json::from_str(&text).expect("JSON");
        }
    }

    fn maybe(&mut self, block: &mut Block, key: &str, value: impl FnOnce(&mut Rng) -> Value) {
        if self.rng.bool() {
            let value = value(&mut self.rng);
            block.put(key, value);
        }
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.rng.usize(0..all.len())]
    }
}

/// What a match says, however it is written.
fn plain(matches: &Value) -> String {
    let mut matches = matches.clone();
    if let Some(exact) = matches.pointer("/method/exact").cloned() {
        matches["method"] = exact;
    }
    for header in matches["headers"].as_array_mut().into_iter().flatten() {
        if header["invert"] == json!(false)
            && let Some(header) = header.as_object_mut()
        {
            header.remove("invert");
        }
    }
    matches.to_string()
}

fn full_name(service: &Map<String, Value>) -> String {
    let text = |key: &str| service[key].as_str().expect("a name").to_owned();
    format!("{}.{}", text("name"), text("namespace"))
}

fn labels(rng: &mut Rng) -> Value {
    let pairs = (0..rng.usize(0..4))
        .map(|_| (KEYS[rng.usize(0..KEYS.len())].to_owned(), json!(TEXTS[rng.usize(0..TEXTS.len())])));
    Value::Object(pairs.collect())
}

fn changes(rng: &mut Rng) -> Value {
    let mut block = Map::new();
    for key in ["set", "add"] {
        if rng.bool() {
            let pairs = (0..rng.usize(0..4)).map(|_| {
                (CHANGED[rng.usize(0..CHANGED.len())].to_owned(), json!(VALUES[rng.usize(0..VALUES.len())]))
            });
            block.insert(key.to_owned(), Value::Object(pairs.collect()));
        }
    }
    if rng.bool() {
        let names: BTreeSet<&str> =
            (0..rng.usize(0..3)).map(|_| CHANGED[rng.usize(0..CHANGED.len())]).collect();
        block.insert("remove".to_owned(), json!(names));
    }
    Value::Object(block)
}

/// Of a millisecond to a year, in microseconds; the ends come up.
fn micros(rng: &mut Rng) -> u64 {
    const YEAR: u64 = 365 * 24 * 3600 * 1_000_000;
    match rng.u8(0..8) {
        0 => 1_000,
        1 => YEAR,
        2 => rng.u64(1_000..=YEAR),
        3 => rng.u64(1..1_000) * 1_000_000,
        _ => rng.u64(1..100_000) * 1_000,
    }
}

fn some_time(rng: &mut Rng) -> Value {
    json!(format!("{}us", micros(rng)))
}

fn in_order(rng: &mut Rng) -> (Value, Value) {
    let (one, other) = (micros(rng), micros(rng));
    (json!(format!("{}us", one.min(other))), json!(format!("{}us", one.max(other))))
}

fn percentage(rng: &mut Rng) -> Value {
    json!(match rng.u8(0..4) {
        0 => "0%".to_owned(),
        1 => "100%".to_owned(),
        2 => format!("{}%", rng.u8(0..=100)),
        _ => format!("{}.{:04}%", rng.u8(0..100), rng.u16(0..10_000)),
    })
}

fn count(rng: &mut Rng) -> Value {
    json!(if rng.bool() { rng.u32(1..10) } else { rng.u32(1..=1_000_000) })
}

fn code(rng: &mut Rng) -> Value {
    json!(CODES[rng.usize(0..CODES.len())])
}

fn codes(rng: &mut Rng) -> Value {
    let some: BTreeSet<&str> = (0..rng.usize(0..5)).map(|_| CODES[rng.usize(0..CODES.len())]).collect();
    json!(some)
}
