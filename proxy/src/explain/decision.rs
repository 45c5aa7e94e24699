//! Where a call of the app goes: the route that takes it, those before it that do not, and what holds on the way.

use config::model::Match;
use config::words;
use serde_json::{Map, Value, json};

use crate::call::deadline::granted;
use crate::call::plan::{Decision, Unidentified, asked, check_method, check_time, decide, service_of};
use crate::explain::question::{Call, Known, text};
use crate::explain::{callee, place};
use crate::failure::Failure;
use crate::record::call::RouteName;
use crate::tables::hosts::Authority;
use crate::tables::routes::{Asked, Unmet, unmet};
use crate::tables::{MethodTable, ServiceTable, Tables};

/// The answer to `/explain`.
pub(crate) fn explain(tables: &Tables, call: &Call, known: Known<'_>) -> Value {
    let mut told = Map::new();
    told.insert("call".to_owned(), call.told());
    let refused = tell(tables, call, known, &mut told).err();
    told.insert("refused".to_owned(), refused.map_or(Value::Null, |failure| show_failure(&failure)));
    Value::Object(told)
}

/// Follows a call of gRPC from its head to its endpoints, in the steps and with the functions of `call::plan`.
fn tell(
    tables: &Tables,
    call: &Call,
    known: Known<'_>,
    told: &mut Map<String, Value>,
) -> Result<(), Failure> {
    let mut tell = |key: &str, value: Value| _ = told.insert(key.to_owned(), value);
    if call.is_grpc() {
        check_method(&call.method)?;
    }
    let authority = Authority::parse(&call.authority);
    let index = service_of(tables, &authority).map_err(Unidentified::failure)?;
    let service = &tables.services[index];
    tell("service", (&*service.name).into());
    let wants = asked(&call.headers, call.is_grpc())?;
    let asked = Asked { host: &authority.host, method: &call.method, headers: &call.headers };
    let decision = decide(service, asked);
    let taken = decision.as_ref().ok().map(|decision| decision.route.name);
    tell("passed_over", passed_over(service, asked, taken));
    let decision = decision?;
    tell("route", show_route(service, &decision));
    let method = decision.method;
    tell("method_type", method.and_then(|method| method.kind).map(|kind| kind.as_str()).into());
    tell("idempotent", method.is_none_or(|method| method.idempotent).into());
    tell("policies", policies(&decision));
    let grants = granted(wants, decision.policies.deadline);
    tell(
        "deadline",
        json!({
            "asked": wants.map(words::duration),
            "granted": grants.map(words::duration),
            // Only a running sidecar knows the inbound call that this one would be made for.
            "inherits": wants.is_none() && decision.policies.deadline.inherit,
            "sheds_below": decision.policies.median.and_then(|median| median.value()).map(words::duration),
        }),
    );
    tell("backends", place::backends(tables, decision.route, known));
    tell("inbound", callee::inbound(tables, &decision, call, known));
    check_time(grants)
}

fn show_failure(failure: &Failure) -> Value {
    json!({"code": failure.code.name(), "reason": failure.reason.as_str(), "message": failure.message})
}

/// The routes before the one that takes the call (all, where none does), and what keeps each from it.
fn passed_over(service: &ServiceTable, asked: Asked<'_>, taken: Option<RouteName>) -> Value {
    let before = match taken {
        Some(RouteName::Index(index)) => index as usize,
        Some(RouteName::Unrouted) | None => usize::MAX,
    };
    let routes = service.routes.iter().enumerate().take(before);
    routes
        .map(|(index, (matches, _))| {
            // `None` cannot be: the first route whose conditions all hold is the one that takes the call.
            let (condition, call) = unmet(matches, asked, asked.service())
                .map(|unmet| (condition(matches, unmet), has(matches, asked, unmet)))
                .unwrap_or_default();
            json!({
                "index": index,
                "match": words::matches_in_words(matches),
                "condition": condition,
                "call": call,
            })
        })
        .collect()
}

/// The condition, in words.
fn condition(matches: &Match, unmet: Unmet) -> String {
    let said = match unmet {
        Unmet::Host => matches.host.as_ref().map(|host| format!("host {host}")),
        Unmet::Service => matches.service.as_ref().map(|service| format!("service {service}")),
        Unmet::Method => {
            matches.method.as_ref().map(|method| format!("method {}", words::method_in_words(method)))
        }
        Unmet::Header(at) => matches.headers.get(at).map(words::header_in_words),
    };
    said.unwrap_or_default()
}

/// What the call has in its place.
fn has(matches: &Match, asked: Asked<'_>, unmet: Unmet) -> String {
    match unmet {
        Unmet::Host => format!("host {}", asked.host),
        Unmet::Service => format!("service {}", asked.service()),
        Unmet::Method => format!("method {}", asked.method),
        Unmet::Header(at) => {
            let name = matches.headers.get(at).map_or("", |header| &header.name);
            let values: Vec<String> =
                asked.headers.get_all(name).iter().map(|value| format!("{:?}", text(value))).collect();
            match values.is_empty() {
                true => format!("no header {name}"),
                false => format!("header {name} {}", values.join(", ")),
            }
        }
    }
}

/// The route that takes the call. Without an index: none matches, and it goes to the service's own endpoints.
fn show_route(service: &ServiceTable, decision: &Decision<'_>) -> Value {
    let index = match decision.route.name {
        RouteName::Index(index) => Some(index as usize),
        RouteName::Unrouted => None,
    };
    let matches = index.and_then(|index| service.routes.iter().nth(index)).map(|(matches, _)| matches);
    json!({"index": index, "match": matches.map(words::matches_in_words)})
}

/// The levels at which a policy block may stand, as `level` names them. Blocks of the service and of `defaults` are one: whoever
/// reads a mesh has settled that.
const METHOD: &str = "method";
const ROUTE: &str = "route";
const SERVICE: &str = "service or defaults";

/// Each block that holds, and where it comes from.
fn policies(decision: &Decision<'_>) -> Value {
    let Decision { route, method, policies } = decision;
    let level = |method: bool, route: bool| match (method, route) {
        (true, _) => METHOD,
        (_, true) => ROUTE,
        _ => SERVICE,
    };
    let own = route.own;
    let of = |is: fn(&MethodTable) -> bool| method.is_some_and(is);
    let (repeats, rule) = words::repeats(policies.repeats).unwrap_or(("retries", Value::Null));
    let blocks = [
        (
            "deadline",
            level(of(|it| it.deadline.is_some()), own.deadline),
            words::deadline(&policies.deadline),
        ),
        ("stream", level(of(|it| it.stream.is_some()), own.stream), words::stream(&policies.stream)),
        (
            "headers",
            level(of(|it| it.headers.is_some()), own.headers),
            words::headers(&policies.headers.model()),
        ),
        (repeats, level(of(|it| it.repeats.is_some()), own.repeats), rule),
        (
            "faults",
            level(of(|it| it.faults.is_some()), own.faults),
            policies.faults.map_or(Value::Null, |faults| words::faults(faults.injection())),
        ),
    ];
    let told = blocks.into_iter().map(|(block, level, value)| {
        let is_off = value.as_object().is_none_or(Map::is_empty);
        // What is off says where it was turned off only if that is not the usual case.
        let level = if is_off && level == SERVICE { Value::Null } else { level.into() };
        json!({"block": block, "level": level, "value": if is_off { Value::Null } else { value }})
    });
    told.collect()
}
