//! The apps' own counts held against the mesh's: every call once, with the same end, on both sides.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::demo::mesh::NAMESPACE;
use crate::demo::scrape::{Sample, Samples};

/// Ended calls by what they were and how they ended.
pub(crate) type Calls = BTreeMap<Call, u64>;

/// What was called, and the code it ended with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    /// The target as the mesh names it: `users.shop`.
    pub(crate) service: String,
    /// `shop.UserService/GetUser`.
    pub(crate) method: String,
    /// The code as grpc-go names it: `OK`.
    pub(crate) code: String,
}

/// The one call that the demo makes to be refused.
pub(crate) fn expected_denial() -> Call {
    let (service, method) = (format!("payments.{NAMESPACE}"), "shop.PaymentService/Charge".to_owned());
    Call { service, method, code: "PermissionDenied".to_owned() }
}

/// What the apps counted themselves, from the lines that they print.
pub(crate) fn by_apps<'a>(lines: impl Iterator<Item = &'a Value>) -> Calls {
    let mut calls = Calls::new();
    for line in lines {
        for entry in line["calls"].as_array().into_iter().flatten() {
            let mut add = |code: &str, count: &Value| {
                let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                let call = Call { service: text("service"), method: text("method"), code: code.to_owned() };
                count_some(&mut calls, call, count.as_u64().unwrap_or_default());
            };
            add("OK", &entry["ok"]);
            for (code, count) in entry["failed"].as_object().into_iter().flatten() {
                add(code, count);
            }
        }
    }
    calls
}

/// What the sidecars counted as `grpc_client_handled_total` or `grpc_server_handled_total`.
pub(crate) fn by_mesh(samples: &Samples, name: &str) -> Calls {
    let mut calls = Calls::new();
    for sample in samples.named(name) {
        count_some(&mut calls, call(sample), rounded(sample.value));
    }
    calls
}

/// Where two accounts differ, a line each.
pub(crate) fn differences(apps: &Calls, mesh: &Calls, whose: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for call in apps.keys().chain(mesh.keys().filter(|call| !apps.contains_key(call))) {
        let count = |calls: &Calls| calls.get(call).copied().unwrap_or_default();
        let (own, meshes) = (count(apps), count(mesh));
        if own != meshes {
            let Call { service, method, code } = call;
            faults.push(format!(
                "counts disagree on {service} {method} {code}: the apps counted {own}, the {whose} sidecars {meshes}"
            ));
        }
    }
    faults
}

/// The calls that failed though they should not have, a line each.
pub(crate) fn failures(calls: &Calls) -> Vec<String> {
    let failed = calls.iter().filter(|(call, _)| call.code != "OK");
    let lines = failed.map(|(Call { service, method, code }, count)| {
        let calls = if *count == 1 { "call" } else { "calls" };
        format!("{count} {calls} to {service} {method} ended {code}")
    });
    lines.collect()
}

/// Every ended call to `service` (a short name).
pub(crate) fn total(calls: &Calls, service: &str) -> u64 {
    let full_name = format!("{service}.{NAMESPACE}");
    calls.iter().filter(|(call, _)| call.service == full_name).map(|(_, count)| count).sum()
}

/// Accounts hold no zeros, so that they compare as they are.
fn count_some(calls: &mut Calls, call: Call, count: u64) {
    if count > 0 {
        *calls.entry(call).or_default() += count;
    }
}

fn call(sample: &Sample) -> Call {
    Call {
        service: sample.label("service").to_owned(),
        method: format!("{}/{}", sample.label("grpc_service"), sample.label("grpc_method")),
        code: sample.label("grpc_code").to_owned(),
    }
}

/// A counter's value; they are whole and below 2^53.
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MESH: &str = r#"
grpc_client_handled_total{service="users.shop",grpc_service="shop.UserService",grpc_method="GetUser",grpc_code="OK"} 4
grpc_client_handled_total{service="users.shop",grpc_service="shop.UserService",grpc_method="GetUser",grpc_code="OK"} 3
grpc_client_handled_total{service="users.shop",grpc_service="shop.UserService",grpc_method="GetUser",grpc_code="Unavailable"} 1
grpc_client_handled_total{service="users.shop",grpc_service="shop.UserService",grpc_method="Register",grpc_code="OK"} 0
"#;

    fn apps(ok: u64) -> Calls {
        let line = json!({"calls": [{
            "service": "users.shop", "method": "shop.UserService/GetUser",
            "started": ok + 1, "ok": ok, "failed": {"Unavailable": 1}, "open": 0,
        }]});
        by_apps([line].iter())
    }

    #[test]
    fn equal_accounts_have_no_differences() {
        let mesh = by_mesh(&Samples::parse(MESH), "grpc_client_handled_total");
        assert_eq!(mesh, apps(7));
        assert_eq!(differences(&apps(7), &mesh, "callers'"), Vec::<String>::new());
        assert_eq!(total(&mesh, "users"), 8);
    }

    #[test]
    fn a_call_that_one_side_missed_is_named_with_both_counts() {
        let mesh = by_mesh(&Samples::parse(MESH), "grpc_client_handled_total");
        let told = "counts disagree on users.shop shop.UserService/GetUser OK: \
                    the apps counted 8, the callers' sidecars 7";
        assert_eq!(differences(&apps(8), &mesh, "callers'"), [told]);
        assert_eq!(differences(&Calls::new(), &mesh, "callers'").len(), 2);
        assert_eq!(differences(&mesh, &Calls::new(), "callers'").len(), 2);
    }

    #[test]
    fn every_end_but_ok_is_a_failure() {
        assert_eq!(failures(&apps(7)), ["1 call to users.shop shop.UserService/GetUser ended Unavailable"]);
    }
}
