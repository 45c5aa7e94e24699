//! What each rule does to calls that begin.

use bench::call::CallSpec;
use serde_json::Value;

use crate::kit::{BIDI, ECHO, OK, PERMISSION_DENIED, Site, UNARY, id, status, with};

#[tokio::test]
async fn a_denial_wins_over_an_allowance_and_an_audit_decides_nothing() {
    let site = Site::start(
        "{authorization: [{allow: {from: ['*']}}, \
         {name: no-users, deny: {from: [spiffe://cluster.local/ns/shop/sa/users], methods: [bench.Echo/Unary]}}, \
         {name: told, audit: {methods: [bench.Echo/*]}}]}",
    )
    .await;
    let (orders, users) = (site.client(&id("orders")).await, site.client(&id("users")).await);
    assert_eq!(status(&orders, UNARY).await, OK);
    assert_eq!(status(&users, UNARY).await, PERMISSION_DENIED);
    assert_eq!(status(&users, BIDI).await, OK);
    assert_eq!(site.decided("allowed", "authorization[0]").await, 2.0);
    assert_eq!(site.decided("denied", "no-users").await, 1.0);
    assert_eq!(site.decided("audited", "told").await, 3.0, "of what is refused, too");
    assert_eq!(site.app.calls().len(), 2, "what is refused does not reach the app");
}

#[tokio::test]
async fn what_no_rule_decides_goes_by_the_default() {
    let ids = [id("orders"), id("users")];
    let deny = "{deny: {from: [{service: orders}]}}";
    let allow = "{allow: {from: [{service: orders}]}}";
    for (inbound, expected) in [
        (format!("{{authorization: [{deny}]}}"), [PERMISSION_DENIED, OK]),
        (format!("{{authorization: [{deny}], authorization_default: deny}}"), [PERMISSION_DENIED; 2]),
        (format!("{{authorization: [{allow}]}}"), [OK, PERMISSION_DENIED]),
        (format!("{{authorization: [{allow}], authorization_default: allow}}"), [OK; 2]),
        ("{authorization: []}".to_owned(), [PERMISSION_DENIED; 2]),
        ("{authorization_default: deny}".to_owned(), [PERMISSION_DENIED; 2]),
    ] {
        let site = Site::start(&inbound).await;
        for (id, expected) in ids.iter().zip(expected) {
            assert_eq!(status(&site.client(id).await, UNARY).await, expected, "{inbound}: {id}");
        }
    }
}

#[tokio::test]
async fn a_namespace_and_the_beginning_of_an_id_are_whole_segments() {
    let site = Site::start(
        "{authorization: [{allow: {from: [{namespace: shop}, spiffe://cluster.local/ns/audit/sa/*]}}]}",
    )
    .await;
    for (id, expected) in [
        ("spiffe://cluster.local/ns/shop/sa/any", OK),
        ("spiffe://cluster.local/ns/shop-guests/sa/any", PERMISSION_DENIED),
        ("spiffe://cluster.local/ns/audit/sa/one", OK),
        ("spiffe://cluster.local/ns/audit/other", PERMISSION_DENIED),
    ] {
        assert_eq!(status(&site.client(id).await, UNARY).await, expected, "{id}");
    }
}

#[tokio::test]
async fn headers_decide_by_what_the_app_is_told() {
    let site = Site::start(
        "{authorization: [{allow: {headers: [{name: x-tenant, prefix: a}, {name: x-beta, exact: '1', invert: true}]}}, \
         {deny: {headers: [{name: x-tenant, exact: ab}]}}]}",
    )
    .await;
    let client = site.client(&id("orders")).await;
    for (headers, expected) in [
        (&[][..], PERMISSION_DENIED),
        (&[("x-tenant", "aa")], OK),
        (&[("x-tenant", "ba")], PERMISSION_DENIED),
        (&[("x-tenant", "aa"), ("x-beta", "1")], PERMISSION_DENIED),
        (&[("x-tenant", "aa"), ("x-beta", "2")], OK),
        (&[("x-tenant", "aa"), ("x-tenant", "ab")], PERMISSION_DENIED),
    ] {
        assert_eq!(with(&client, UNARY, headers).await.grpc_status, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn the_access_log_and_the_explanation_name_the_rule_that_decided() {
    let mut site = Site::start(
        "{authorization: [{name: friends, allow: {from: [{service: orders}]}}, {audit: {methods: [bench.Echo/Unary]}}]}",
    )
    .await;
    assert_eq!(status(&site.client(&id("orders")).await, UNARY).await, OK);
    assert_eq!(status(&site.client(&id("users")).await, UNARY).await, PERMISSION_DENIED);
    for (authorization, status) in [("friends", "OK"), ("default", "PERMISSION_DENIED")] {
        let line = site.sidecar.print().await.expect("stdout").expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["authorization"], authorization, "{line}");
        assert_eq!((&line["audit"], &line["grpc_status"]), (&"authorization[1]".into(), &status.into()));
    }
    let path = format!("/explain?authority={ECHO}&method=bench.Echo/Unary&caller={}", id("users"));
    let answer = site.sidecar.get(&path).await.expect("a page");
    let told: Value = serde_json::from_str(&answer.body).expect("JSON");
    let callee = &told["inbound"][0];
    assert_eq!((&callee["allowed"], &callee["default"]), (&false.into(), &"deny".into()), "{told}");
    assert_eq!(callee["rules"][0]["unmet"], "it names other callers", "{told}");
    assert_eq!(callee["audited_by"], 1, "{told}");
}

#[tokio::test]
async fn a_path_that_servers_may_read_in_two_ways_is_refused_and_explained_as_that() {
    let site =
        Site::start("{authorization: [{allow: {from: ['*']}}, {deny: {methods: [bench.Echo/Secret]}}]}")
            .await;
    let (caller, grpc, http) = (id("orders"), "application/grpc", "text/plain");
    let client = site.client(&caller).await;
    for (kind, method, refused, ambiguous) in [
        (grpc, "bench.Echo/Unary", false, false),
        (grpc, "bench.Echo/Secret", true, false),
        (grpc, "bench.Echo/%55nary", true, true),
        (http, "page", false, false),
        (http, "page/../bench.Echo/Secret", true, true),
        (http, "bench.Echo//Secret", true, true),
    ] {
        let path = format!("/{method}");
        let mut spec = CallSpec::new(ECHO, &path).header("content-type", kind);
        spec.end_stream = true;
        let mut call = client.call(spec).await.expect("a call");
        let is_of_the_app = call.headers().await.expect("a head").contains_key("x-server");
        assert_eq!(is_of_the_app, !refused, "{kind} {method}");
        let asked = method.replace('%', "%25");
        let path =
            format!("/explain?authority={ECHO}&method={asked}&header=content-type:{kind}&caller={caller}");
        let answer = site.sidecar.get(&path).await.expect("a page");
        let told: Value = serde_json::from_str(&answer.body).expect("JSON");
        let callee = &told["inbound"][0];
        let (allowed, by) = (&callee["allowed"], &callee["by_ambiguous_path"]);
        assert_eq!((allowed, by), (&(!refused).into(), &ambiguous.into()), "{kind} {method}: {told}");
    }
    assert_eq!(site.decided("denied", "ambiguous_path").await, 3.0);
}
