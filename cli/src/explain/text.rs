//! The answer, for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::flow::flow;

/// Writes the JSON of an answer as text.
pub(crate) fn render(answer: &Value) -> String {
    let mut out = String::new();
    call(&mut out, answer);
    if let Some(service) = answer["service"].as_str() {
        line(&mut out, "service", service);
    }
    match (answer["route"]["index"].as_u64(), answer.get("route")) {
        (Some(index), _) => {
            let matches = answer["route"]["match"].as_str().unwrap_or_default();
            line(&mut out, "route", &format!("routes[{index}]: {matches}"));
        }
        (None, Some(_)) => {
            line(&mut out, "route", "none matches, so that it goes to the service's own endpoints");
        }
        (None, None) => {}
    }
    passed_over(&mut out, answer);
    refused(&mut out, &answer["refused"]);
    backends(&mut out, &answer["backends"]);
    policies(&mut out, answer);
    inbound(&mut out, &answer["inbound"]);
    out
}

// Writing to a String does not fail.
fn line(out: &mut String, key: &str, what: &str) {
    let _ = writeln!(out, "{key:<10}{what}");
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn call(out: &mut String, answer: &Value) {
    let call = &answer["call"];
    line(out, "call", &format!("{} {}", text(call, "authority"), text(call, "method")));
    for header in items(&call["headers"]) {
        line(out, "", &format!("{}: {}", text(header, "name"), text(header, "value")));
    }
    if let Some(from) = answer["from"].as_str() {
        line(out, "from", from);
    }
}

fn passed_over(out: &mut String, answer: &Value) {
    let routes = items(&answer["passed_over"]);
    let head = if answer.get("route").is_some() { "not taken" } else { "no route" };
    for (at, route) in routes.iter().enumerate() {
        let (index, matches) = (&route["index"], text(route, "match"));
        let why = format!("wants {}; the call has {}", text(route, "condition"), text(route, "call"));
        line(out, if at == 0 { head } else { "" }, &format!("routes[{index}]: {matches}"));
        line(out, "", &format!("  {why}"));
    }
}

fn refused(out: &mut String, refused: &Value) {
    if refused.is_null() {
        return;
    }
    line(out, "refused", &format!("{} ({})", text(refused, "code"), text(refused, "reason")));
    line(out, "", text(refused, "message"));
    if refused["reason"] == "UNKNOWN_SERVICE" {
        for said in [
            "a redirected connection goes on to where it was going, unless `outbound.unknown` is `refuse`;",
            "a sidecar of a control plane asks that for the host first",
        ] {
            line(out, "", said);
        }
    }
}

fn backends(out: &mut String, backends: &Value) {
    for (at, backend) in items(backends).iter().enumerate() {
        let share = backend["share"].as_f64().unwrap_or_default() * 100.0;
        let mut what =
            format!("{:>5}  {}", format!("{}%", (share * 10.0).round() / 10.0), text(backend, "service"));
        if backend["labels"].as_object().is_some_and(|labels| !labels.is_empty()) {
            let _ = write!(what, " {}", flow(&backend["labels"]));
        }
        let _ = write!(what, ", {}", text(&backend["policies"]["balancing"], "policy"));
        if backend["panic"] == true {
            what.push_str(", in panic: too few endpoints are fit, so that all are used");
        }
        line(out, if at == 0 { "goes to" } else { "" }, &what);
        let endpoints = items(&backend["endpoints"]);
        for endpoint in endpoints {
            line(out, "", &format!("         {}", show_endpoint(endpoint)));
        }
        if endpoints.is_empty() {
            line(out, "", "         no endpoint, so that calls end UNAVAILABLE");
        }
        if let Some(unresolved) = backend["unresolved"].as_str() {
            line(out, "", &format!("         {unresolved}"));
        }
    }
}

fn show_endpoint(endpoint: &Value) -> String {
    let mut what = text(endpoint, "address").to_owned();
    if let Some(host) = endpoint["host"].as_str() {
        let _ = write!(what, " of {host}");
    }
    if endpoint["labels"].is_object() {
        let _ = write!(what, " {}", flow(&endpoint["labels"]));
    }
    if let Some(tls) = endpoint["tls"].as_str() {
        let _ = write!(what, ", tls {tls}");
    }
    if endpoint["weight"] != 1 {
        let _ = write!(what, ", weight {}", endpoint["weight"]);
    }
    let against: Vec<&str> = items(&endpoint["against"]).iter().filter_map(Value::as_str).collect();
    match endpoint["used"].as_bool() {
        Some(true) => {
            let _ = write!(what, ", {} calls in flight", endpoint["in_flight"]);
            let latency = endpoint["latency_ms"].as_f64().unwrap_or_default();
            if latency > 0.0 {
                let _ = write!(what, ", {latency:.1} ms");
            }
        }
        Some(false) => what.push_str(", takes no calls"),
        None => {}
    }
    if !against.is_empty() {
        let _ = write!(what, " ({})", against.join(", "));
    }
    what
}

fn policies(out: &mut String, answer: &Value) {
    let mut head = "policies";
    for policy in items(&answer["policies"]).iter().filter(|policy| !policy["level"].is_null()) {
        let level = text(policy, "level");
        let value = match &policy["value"] {
            Value::Null => "off".to_owned(),
            value => flow(value),
        };
        line(out, head, &format!("{}: {value}  (from the {level})", text(policy, "block")));
        head = "";
    }
    if answer["idempotent"] == false {
        line(out, head, "idempotent: false, so that it is repeated only where nothing was processed");
        head = "";
    }
    let Some(deadline) = answer["deadline"].as_object() else { return };
    let mut said = match deadline["granted"].as_str() {
        Some(granted) => format!("it may take {granted}"),
        None => "it may take as long as it likes".to_owned(),
    };
    if deadline["inherits"] == true {
        said.push_str(", or what is left to the inbound call that it is made for");
    }
    if let Some(median) = deadline["sheds_below"].as_str() {
        let _ = write!(said, "; with less than {median} left it ends at once");
    }
    line(out, head, &said);
}

fn inbound(out: &mut String, services: &Value) {
    for (at, service) in items(services).iter().enumerate() {
        let head = if at == 0 { "inbound" } else { "" };
        let name = text(service, "service");
        let Some(rules) = service["rules"].as_array() else {
            line(out, head, &format!("{name} lets everyone call everything whom its listener lets in"));
            continue;
        };
        let by = match (service["by_rule"].as_u64(), service["by_name"].as_str()) {
            (Some(rule), Some(name)) => format!("by authorization[{rule}] ({name})"),
            (Some(rule), None) => format!("by authorization[{rule}]"),
            (None, _) if service["by_ambiguous_path"] == true => {
                "by ambiguous_path: servers may read its path as another one than the rules do".to_owned()
            }
            (None, _) => format!("by default ({}): no rule decides", text(service, "default")),
        };
        let said = match service["allowed"].as_bool() {
            Some(true) => format!("{name} lets {} call it, {by}", text(service, "caller")),
            Some(false) => format!("{name} refuses, {by}: {}", text(service, "refusal")),
            None => {
                let otherwise = if text(service, "default") == "allow" { "lets in" } else { "refuses" };
                format!("{name} goes by these rules, and {otherwise} what none decides:")
            }
        };
        line(out, head, &said);
        if let Some(rule) = service["audited_by"].as_u64() {
            line(out, "", &format!("  it is told of, by authorization[{rule}]"));
        }
        for (at, rule) in rules.iter().enumerate() {
            let mut told = rule.clone();
            let unmet = told.as_object_mut().and_then(|told| {
                told.remove("place");
                told.remove("covers");
                told.remove("unmet")
            });
            let why = match unmet.as_ref().and_then(Value::as_str) {
                Some(why) => format!("; not: {why}"),
                None => String::new(),
            };
            line(out, "", &format!("  authorization[{at}]: {}{why}", flow(&told)));
        }
        if let Some(more) = service["rules_not_told"].as_u64().filter(|more| *more > 0) {
            line(out, "", &format!("  and {more} more rules"));
        }
    }
}
