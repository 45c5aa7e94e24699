//! Who may call, and what.

use bench::call::CallSpec;
use bench::certs::Ca;
use bench::client::Client;
use bench::process::Sidecar;
use bench::tls::TlsIdentity;
use serde_json::{Value, json};

use crate::kit::{BIDI, Case, ECHO, OK, PERMISSION_DENIED, Site, UNARY, echo, id, service};

/// `"key" => function`: as `cases!`, for a key that stands below each of `allow`, `deny` and `audit`.
macro_rules! actions {
    ($($key:literal => $test:ident,)*) => {
        pub(crate) const COVERED: &[&str] = &[$(
            concat!("mesh.services[].inbound.authorization[].allow.", $key),
            concat!("mesh.services[].inbound.authorization[].deny.", $key),
            concat!("mesh.services[].inbound.authorization[].audit.", $key),
        )*];

        $(mod $test {
            #[test]
            fn of_what_is_allowed() {
                let key = concat!("mesh.services[].inbound.authorization[].allow.", $key);
                crate::kit::run(key, async |case| super::$test(case, "allow").await);
            }

            #[test]
            fn of_what_is_denied() {
                let key = concat!("mesh.services[].inbound.authorization[].deny.", $key);
                crate::kit::run(key, async |case| super::$test(case, "deny").await);
            }

            #[test]
            fn of_what_is_told() {
                let key = concat!("mesh.services[].inbound.authorization[].audit.", $key);
                crate::kit::run(key, async |case| super::$test(case, "audit").await);
            }
        })*
    };
}

actions! {
    "from[]" => those_are_covered_that_are_named,
    "from[].service" => a_service_is_covered_by_its_identities,
    "from[].namespace" => a_namespace_is_covered,
    "methods[]" => what_is_named_is_covered,
    "headers[].name" => a_header_is_found_by_its_name,
    "headers[].exact" => the_whole_value_counts,
    "headers[].prefix" => the_beginning_counts,
    "headers[].regex" => the_expression_counts,
    "headers[].present" => a_header_is_there_or_not,
    "headers[].invert" => the_outcome_is_turned_around,
}

cases! {
    "mesh.services[].inbound.authorization[].name" => a_rule_is_told_by_its_name,
    "mesh.services[].inbound.authorization_default" => what_no_rule_decides_goes_by_the_service_s_word,
    "mesh.defaults.inbound.authorization_default" => and_where_it_has_none_by_the_mesh_s,
}

/// A call: who, what, and with which header.
type Asked<'a> = (&'a str, &'a str, Option<(&'a str, &'a str)>);

const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";
const USERS: &str = "spiffe://cluster.local/ns/shop/sa/users";
const STRANGERS: &str = "spiffe://cluster.local/ns/other/sa/orders";

async fn those_are_covered_that_are_named(case: &Case, action: &str) {
    let rule = json!({"from": [ORDERS]});
    covers(case, action, rule, "from 0", USERS, [(ORDERS, UNARY, None), (USERS, UNARY, None)]).await;
}

async fn a_service_is_covered_by_its_identities(case: &Case, action: &str) {
    let rule = json!({"from": [{"service": "orders"}]});
    let calls = [(ORDERS, UNARY, None), (USERS, UNARY, None)];
    covers(case, action, rule, "from 0 service", "users", calls).await;
}

async fn a_namespace_is_covered(case: &Case, action: &str) {
    let rule = json!({"from": [{"namespace": "shop"}]});
    let calls = [(ORDERS, UNARY, None), (STRANGERS, UNARY, None)];
    covers(case, action, rule, "from 0 namespace", "other", calls).await;
}

async fn what_is_named_is_covered(case: &Case, action: &str) {
    let rule = json!({"methods": ["bench.Echo/Unary"]});
    let calls = [(ORDERS, UNARY, None), (ORDERS, BIDI, None)];
    covers(case, action, rule, "methods 0", "bench.Echo/Bidi", calls).await;
}

/// One header match, its key that changes, and the headers of two calls.
async fn header(
    case: &Case,
    action: &str,
    rule: Value,
    (key, value): (&str, Value),
    calls: [Option<(&str, &str)>; 2],
) {
    let calls = calls.map(|header| (ORDERS, UNARY, header));
    covers(case, action, json!({"headers": [rule]}), &format!("headers 0 {key}"), value, calls).await;
}

async fn a_header_is_found_by_its_name(case: &Case, action: &str) {
    let rule = json!({"name": "x-a", "exact": "1"});
    header(case, action, rule, ("name", "x-b".into()), [Some(("x-a", "1")), Some(("x-b", "1"))]).await;
}

async fn the_whole_value_counts(case: &Case, action: &str) {
    let rule = json!({"name": "x-a", "exact": "1"});
    header(case, action, rule, ("exact", "11".into()), [Some(("x-a", "1")), Some(("x-a", "11"))]).await;
}

async fn the_beginning_counts(case: &Case, action: &str) {
    let rule = json!({"name": "x-a", "prefix": "1"});
    header(case, action, rule, ("prefix", "2".into()), [Some(("x-a", "12")), Some(("x-a", "21"))]).await;
}

async fn the_expression_counts(case: &Case, action: &str) {
    let rule = json!({"name": "x-a", "regex": "1+"});
    header(case, action, rule, ("regex", "2+".into()), [Some(("x-a", "11")), Some(("x-a", "22"))]).await;
}

async fn a_header_is_there_or_not(case: &Case, action: &str) {
    let rule = json!({"name": "x-a", "present": true});
    header(case, action, rule, ("present", false.into()), [Some(("x-a", "1")), None]).await;
}

async fn the_outcome_is_turned_around(case: &Case, action: &str) {
    let rule = json!({"name": "x-a", "exact": "1", "invert": false});
    header(case, action, rule, ("invert", true.into()), [Some(("x-a", "1")), Some(("x-a", "2"))]).await;
}

/// A rule of which one key changes covers the first of two calls before, and the second after.
async fn covers(
    case: &Case,
    action: &str,
    covered: Value,
    key: &str,
    value: impl Into<Value>,
    calls: [Asked<'_>; 2],
) {
    let (ca, app) = (Ca::new("cluster.local"), echo("app").await);
    let mut base = Site::inbound(&app).identified(&ca, &id("echo"));
    base.sidecar["inbound"][0]["mtls"] = json!("strict");
    base.mesh["services"][0]["inbound"] = json!({"authorization": [{action: covered}]});
    let services = base.mesh["services"].as_array_mut().expect("a list");
    services.extend(["orders", "users"].map(|name| service(name, &[])));
    let place = format!("mesh services 0 inbound authorization 0 {action} {key}");
    let changed = case.change(&base, &place, value);
    for (site, expected) in [(&base, [true, false]), (&changed, [false, true])] {
        let sidecar = site.start().await;
        for (asked, expected) in calls.iter().zip(expected) {
            let is_covered = is_covered(&sidecar, &ca, action, asked).await;
            assert_eq!(is_covered, expected, "{action}: {asked:?}");
        }
    }
}

async fn is_covered(sidecar: &Sidecar, ca: &Ca, action: &str, (who, path, header): &Asked<'_>) -> bool {
    let tls = TlsIdentity::mutual(&ca.leaf(who), ca.bundle_pem());
    let client = Client::connect(sidecar.inbound(), Some(tls)).await.expect("a connection");
    let told = async || {
        let metrics = sidecar.metrics().await.expect("a scrape");
        metrics.value("outrigger_authorization_total", &[("decision", "audited")])
    };
    let before = told().await;
    let spec = CallSpec::new(ECHO, path);
    let spec = header.iter().fold(spec, |spec, (name, value)| spec.header(name, value));
    let outcome = client.unary_with(spec, b"ping").await.expect("a call");
    match action {
        "allow" => outcome.grpc_status == OK,
        "deny" => outcome.grpc_status == PERMISSION_DENIED,
        _ => {
            assert_eq!(outcome.grpc_status, OK, "{outcome:?}");
            told().await > before
        }
    }
}

async fn a_rule_is_told_by_its_name(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    base.mesh["services"][0]["inbound"] = json!({"authorization": [{"name": "one", "allow": {}}]});
    let changed = case.change(&base, "mesh services 0 inbound authorization 0 name", "two");
    for (site, rule) in [(&base, "one"), (&changed, "two")] {
        let sidecar = site.start().await;
        assert_eq!(sidecar.call(CallSpec::new(ECHO, UNARY)).await.grpc_status, OK);
        let metrics = sidecar.metrics().await.expect("a scrape");
        assert_eq!(metrics.value("outrigger_authorization_total", &[("rule", rule)]), 1.0, "{rule}");
    }
}

async fn what_no_rule_decides_goes_by_the_service_s_word(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    let rules = json!([{"deny": {"methods": ["bench.Echo/Bidi"]}}]);
    base.mesh["services"][0]["inbound"] = json!({"authorization": rules, "authorization_default": "allow"});
    let changed = case.change(&base, "mesh services 0 inbound authorization_default", "deny");
    for (site, unary) in [(&base, OK), (&changed, PERMISSION_DENIED)] {
        let sidecar = site.start().await;
        for (path, status) in [(UNARY, unary), (BIDI, PERMISSION_DENIED)] {
            assert_eq!(sidecar.call(CallSpec::new(ECHO, path)).await.grpc_status, status, "{path}");
        }
    }
}

async fn and_where_it_has_none_by_the_mesh_s(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    base.mesh["defaults"] = json!({"inbound": {"authorization_default": "allow"}});
    let changed = case.change(&base, "mesh defaults inbound authorization_default", "deny");
    for (site, status) in [(&base, OK), (&changed, PERMISSION_DENIED)] {
        let sidecar = site.start().await;
        assert_eq!(sidecar.call(CallSpec::new(ECHO, UNARY)).await.grpc_status, status);
    }
}
