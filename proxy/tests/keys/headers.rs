//! Which headers the endpoint gets, and which the caller gets back.

use bench::call::CallSpec;
use http::HeaderMap;

use crate::kit::{Case, ECHO, Site, UNARY, echo};
use crate::level::Level;

levels! {
    [method]
    "headers.request.set.*" => the_endpoint_gets_a_value_in_place_of_others,
    "headers.request.add.*" => the_endpoint_gets_a_value_beside_others,
    "headers.request.remove[]" => the_endpoint_does_not_get_a_header,
    "headers.response.set.*" => the_caller_gets_a_value_in_place_of_others,
    "headers.response.add.*" => the_caller_gets_a_value_beside_others,
    "headers.response.remove[]" => the_caller_does_not_get_a_header,
}

async fn the_endpoint_gets_a_value_in_place_of_others(case: &Case, level: Level) {
    request(case, level, ["set x-a", "ours"], &["ours"]).await;
}

async fn the_endpoint_gets_a_value_beside_others(case: &Case, level: Level) {
    request(case, level, ["add x-a", "ours"], &["theirs", "ours"]).await;
}

async fn the_endpoint_does_not_get_a_header(case: &Case, level: Level) {
    request(case, level, ["remove 0", "x-a"], &[]).await;
}

async fn the_caller_gets_a_value_in_place_of_others(case: &Case, level: Level) {
    response(case, level, ["set x-server", "ours"], &["ours"]).await;
}

async fn the_caller_gets_a_value_beside_others(case: &Case, level: Level) {
    response(case, level, ["add x-server", "ours"], &["theirs", "ours"]).await;
}

async fn the_caller_does_not_get_a_header(case: &Case, level: Level) {
    response(case, level, ["remove 0", "x-server"], &[]).await;
}

/// What the endpoint gets of a request's `x-a: theirs`.
async fn request(case: &Case, level: Level, [key, value]: [&str; 2], changed: &[&str]) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let site = case.change(&base, &level.place(UNARY, &format!("headers request {key}")), value);
    let got = async |site: &Site| {
        let outcome = site.start().await.call(CallSpec::new(ECHO, UNARY).header("x-a", "theirs")).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        values(&server.calls().last().expect("a call").headers, "x-a")
    };
    assert_eq!(got(&base).await, ["theirs"]);
    assert_eq!(got(&site).await, changed);
}

/// What the caller gets of a response's `x-server: theirs`.
async fn response(case: &Case, level: Level, [key, value]: [&str; 2], changed: &[&str]) {
    let server = echo("theirs").await;
    let base = level.base(&server);
    let site = case.change(&base, &level.place(UNARY, &format!("headers response {key}")), value);
    let got = async |site: &Site| {
        let outcome = site.start().await.unary(ECHO).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        values(&outcome.headers, "x-server")
    };
    assert_eq!(got(&base).await, ["theirs"]);
    assert_eq!(got(&site).await, changed);
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
}
