//! The pages, and what is documented of them.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::kit::{Live, ORDERS, USERS, folder};

#[tokio::test]
async fn probes_say_that_it_is_there_and_unknown_pages_say_what_there_is() {
    let live = Live::start(&[("u.yaml", USERS)]).await;
    for page in ["/ready", "/live", "/metrics", "/mesh", "/proxies", "/resources"] {
        assert_eq!(live.plane.get(page).await.expect("a page").status, 200, "{page}");
    }
    let lost = live.plane.get("/nothing").await.expect("a page");
    assert_eq!(lost.status, 404);
    assert!(lost.body.contains("/proxies, /mesh, /ca, /resources"), "{}", lost.body);
    let nobody = live.plane.get("/resources?proxy=nobody%7E1").await.expect("a page");
    assert_eq!(nobody.status, 404);
    assert!(nobody.body.contains("no proxy `nobody~1` is connected"), "{}", nobody.body);
}

#[tokio::test]
async fn the_page_of_the_mesh_says_what_is_in_force_of_each_file() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    let mesh = live.mesh().await;
    assert_eq!(mesh["version"], 1);
    assert_eq!(mesh["endpoints"], 2);
    assert_eq!(mesh["trust_domain"], "cluster.local");
    assert!(mesh["lost"].is_null());
    for file in mesh["files"].as_array().expect("files") {
        assert_eq!(file["state"], "in_force");
        assert_eq!(file["digest"].as_str().map(str::len), Some(64));
        assert!(file["in_force_since"].as_f64().is_some_and(|since| since > 1.7e9));
        assert_eq!(file["faults"], Value::Array(Vec::new()));
    }
}

#[tokio::test]
async fn the_resources_are_those_that_our_sidecars_get() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    let body = live.plane.get("/resources").await.expect("a page").body;
    let all: Vec<Value> = serde_json::from_str(&body).expect("JSON");
    let named = |kind: &str| {
        let of_kind =
            all.iter().filter(|resource| resource["type"].as_str().is_some_and(|url| url.ends_with(kind)));
        of_kind.map(|resource| resource["name"].as_str().expect("a name").to_owned()).collect::<BTreeSet<_>>()
    };
    let services = BTreeSet::from(["orders.default".to_owned(), "users.default".to_owned()]);
    for kind in ["v3.Cluster", "v3.ClusterLoadAssignment", "v3.RouteConfiguration"] {
        assert_eq!(named(kind), services, "{kind}");
    }
    assert!(named("v3.Listener").is_superset(&services));
    assert!(all.iter().all(|resource| resource["base64"].as_str().is_some_and(|bytes| !bytes.is_empty())));
}

#[tokio::test]
async fn every_series_is_documented_and_the_other_way_round() {
    // One that has everything: a CA, and an identity of it.
    let yaml =
        "mesh: mesh\nads: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\nca: {folder: ca}\n";
    let live = Live::within(folder(&[("u.yaml", USERS)]), yaml).await;
    let text = live.plane.get("/metrics").await.expect("a scrape").body;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-plane.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let shown: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| name.starts_with("outrigger_control_") || name.starts_with("process_"))
        .collect();
    assert_eq!(shown, documented);
    let values = text.lines().filter_map(|line| line.split_once("limit=\"")?.1.split('"').next());
    for limit in values {
        assert!(
            page.contains(&format!("`{limit}`")),
            "docs/control-plane.md does not say what limit={limit:?} is"
        );
    }
}
