//! The policy blocks, which stand at the same keys on every level: method, route, service and `defaults`.
//!
//! A block replaces the whole block of the level above; its keys never merge.

use regex::{Regex, RegexBuilder};

use crate::check::REGEX_BYTES_MAX;
use crate::fault::{Sink, Wrong};
use crate::health::{self, Health, Outliers};
use crate::injection;
use crate::model::{
    Balancing, BalancingPolicy, Deadline, HeaderChanges, HeaderRules, Keepalive, Policy, Stream, Upstream,
};
use crate::repeats::{self, RetryBudget, RetryThrottling};
use crate::walk::{Fields, Item};

/// The `defaults` of the mesh.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) policy: Policy,
    pub(crate) balancing: Balancing,
    pub(crate) upstream: Upstream,
    pub(crate) health: Option<Health>,
    pub(crate) outliers: Option<Outliers>,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) retry_throttling: Option<RetryThrottling>,
}

impl Defaults {
    pub(crate) fn build(fields: Option<&Fields>, sink: &mut Sink) -> Self {
        let Some(fields) = fields else { return Self::default() };
        Self {
            policy: policy(fields, &Policy::default(), sink),
            balancing: balancing(fields).unwrap_or_default(),
            upstream: upstream(fields).unwrap_or_default(),
            health: health::health(fields, sink),
            outliers: health::outliers(fields),
            retry_budget: repeats::retry_budget(fields).unwrap_or_default(),
            retry_throttling: repeats::retry_throttling(fields),
        }
    }
}

/// The blocks of one level, those of `above` where it has none.
pub(crate) fn policy(fields: &Fields, above: &Policy, sink: &mut Sink) -> Policy {
    Policy {
        deadline: deadline(fields, sink).unwrap_or(above.deadline),
        stream: stream(fields).unwrap_or(above.stream),
        headers: headers(fields, sink).unwrap_or_else(|| above.headers.clone()),
        repeats: repeats::repeats(fields, sink).unwrap_or(above.repeats),
        injection: injection::injection(fields, sink).unwrap_or(above.injection),
    }
}

pub(crate) fn deadline(fields: &Fields, sink: &mut Sink) -> Option<Deadline> {
    let block = fields.fields("deadline")?;
    let deadline = Deadline {
        default: block.duration("default"),
        max: block.duration("max"),
        shed_below_median: block.flag("shed_below_median").unwrap_or_default(),
        inherit: block.flag("inherit").unwrap_or_default(),
    };
    if let (Some(default), Some(max), Some(item)) = (deadline.default, deadline.max, block.item("default"))
        && default > max
    {
        let wrong = Wrong::new("`default` is longer than `max`");
        sink.add(item.place, &item.path, wrong.hint(format!("write at most {max:?}, or raise `max`")));
    }
    Some(deadline)
}

pub(crate) fn stream(fields: &Fields) -> Option<Stream> {
    Some(Stream { idle: fields.fields("stream")?.duration("idle") })
}

pub(crate) fn headers(fields: &Fields, sink: &mut Sink) -> Option<HeaderRules> {
    let block = fields.fields("headers")?;
    let request = block.fields("request").map(|block| changes(block, sink)).unwrap_or_default();
    let response = block.fields("response").map(|block| changes(block, sink)).unwrap_or_default();
    Some(HeaderRules { request, response })
}

pub(crate) fn balancing(fields: &Fields) -> Option<Balancing> {
    let block = fields.fields("balancing")?;
    let policy = match block.text("policy") {
        Some("round_robin") => BalancingPolicy::RoundRobin,
        Some("random") => BalancingPolicy::Random,
        Some("peak_ewma") => BalancingPolicy::PeakEwma,
        _ => BalancingPolicy::LeastRequest,
    };
    let panic_ppm = block.ppm("panic_threshold").unwrap_or(Balancing::default().panic_ppm);
    Some(Balancing { policy, slow_start: health::slow_start(block), panic_ppm })
}

pub(crate) fn upstream(fields: &Fields) -> Option<Upstream> {
    let block = fields.fields("upstream")?;
    let base = Upstream::default();
    let keepalive = block.fields("keepalive").map_or(base.keepalive, |block| Keepalive {
        interval: block.duration("interval").unwrap_or(base.keepalive.interval),
        timeout: block.duration("timeout").unwrap_or(base.keepalive.timeout),
    });
    Some(Upstream {
        connect_timeout: block.duration("connect_timeout").unwrap_or(base.connect_timeout),
        connections: block.size("connections").unwrap_or(base.connections),
        idle_timeout: block.duration("idle_timeout").unwrap_or(base.idle_timeout),
        max_age: block.duration("max_age").unwrap_or(base.max_age),
        max_calls: block.small("max_calls").unwrap_or(base.max_calls),
        user_timeout: block.duration("user_timeout").unwrap_or(base.user_timeout),
        keepalive,
    })
}

/// Compiles a regular expression that must match the whole text.
pub(crate) fn regex(item: &Item, sink: &mut Sink) -> Option<Regex> {
    let text = item.text()?;
    // Compiled alone first, so that an unbalanced parenthesis cannot undo the anchors.
    let compile = |text: &str| RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    match compile(text).and_then(|_| compile(&format!("^(?:{text})$"))) {
        Ok(regex) => Some(regex),
        Err(error) => {
            let told = error.to_string();
            let last =
                told.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.');
            let wrong = Wrong::new(format!("{text:?} is not a regular expression: {last}"));
            sink.add(item.place, &item.path, wrong.hint("the syntax is that of the Rust crate `regex`"));
            None
        }
    }
}

fn changes(block: &Fields, sink: &mut Sink) -> HeaderChanges {
    let pairs = |name: &str, sink: &mut Sink| {
        let mut pairs = Vec::new();
        for (header, item) in block.map(name) {
            let Some(value) = item.text() else { continue };
            if header.ends_with("-bin") && !is_base64(value) {
                let wrong = Wrong::new(format!("`{header}` carries base64, and {value:?} is not"));
                sink.add(
                    item.place,
                    &item.path,
                    wrong.hint("encode the value, or leave `-bin` out of the name"),
                );
            }
            pairs.push((header.clone(), value.to_owned()));
        }
        pairs
    };
    let remove = block.list("remove").iter().flatten();
    HeaderChanges {
        set: pairs("set", sink),
        add: pairs("add", sink),
        remove: remove.filter_map(|item| item.text().map(str::to_owned)).collect(),
    }
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        && body.len() % 4 != 1
        && (text.len() == body.len() || text.len().is_multiple_of(4) && text.len() - body.len() <= 2)
}
