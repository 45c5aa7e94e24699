//! Incremental xDS: what a subscription brings, and what it does not bring again.

use crate::ads::tests::client::*;

#[test]
fn who_comes_back_with_all_of_it_gets_an_empty_answer() {
    let mut client = Client::delta(&view(&[('c', "a", "1"), ('c', "b", "1")], None));
    client.ask_with(Cluster, &[], &[], &[("a", "1"), ("b", "1")]);
    client.takes(Cluster, &[], &[]);
    client.hears_nothing();
}

#[test]
fn names_count_once_for_who_comes_back_and_says_that_it_has_them() {
    let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let held: Vec<(&str, &str)> = names.iter().map(|name| (*name, "1")).collect();
    let lines: Vec<(char, &str, &str)> = names.iter().map(|name| ('e', *name, "1")).collect();
    let one = view(&lines, None);
    // As many as a stream may have.
    Client::delta(&one).ask_with(Endpoints, &names, &[], &held);
    // Names in one and not in the other count in each.
    let mut client = Client::delta(&one);
    let request = Request::Delta(DeltaDiscoveryRequest {
        type_url: Endpoints.type_url().to_owned(),
        resource_names_subscribe: vec!["other".to_owned()],
        initial_resource_versions: held.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect(),
        ..DeltaDiscoveryRequest::default()
    });
    let refused = client.session.on_request(request, client.now, &client.counters);
    assert_eq!(refused.unwrap_err().code, Code::ResourceExhausted);
}

#[test]
fn who_comes_back_gets_what_differs_and_hears_what_is_gone() {
    let mut client = Client::delta(&view(&[('c', "a", "1"), ('c', "b", "2")], None));
    client.ask_with(Cluster, &[], &[], &[("a", "1"), ("b", "1"), ("x", "1")]);
    client.takes(Cluster, &["b=2"], &[]);
    client.takes(Cluster, &[], &["x"]);
    client.hears_nothing();
    let mut client = Client::delta(&view(&[('e', "a", "1"), ('e', "b", "2")], None));
    client.ask_with(Endpoints, &["a", "b"], &[], &[("a", "1"), ("b", "1"), ("stray", "1")]);
    client.takes(Endpoints, &["b=2"], &[]);
    client.hears_nothing();
}

#[test]
fn a_name_that_does_not_exist_is_said_to_be_gone_once_and_comes_when_it_does() {
    let one = view(&[('l', "a", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Listener, &["nobody"]);
    client.takes(Listener, &[], &["nobody"]);
    let two = view(&[('l', "a", "2")], Some(&one));
    client.session.advance(two.clone());
    client.hears_nothing();
    client.ask(Listener, &["nobody"]);
    client.takes(Listener, &[], &["nobody"]);
    client.session.advance(view(&[('l', "a", "2"), ('l', "nobody", "1")], Some(&two)));
    client.takes(Listener, &["nobody=1"], &[]);
}

#[test]
fn who_asks_again_for_what_it_has_is_sent_it_again() {
    let mut client = Client::delta(&view(&[('e', "a", "1"), ('e', "b", "1")], None));
    client.ask(Endpoints, &["a", "b"]);
    client.takes(Endpoints, &["a=1", "b=1"], &[]);
    client.ask(Endpoints, &["a"]);
    client.takes(Endpoints, &["a=1"], &[]);
    client.hears_nothing();
}

#[test]
fn who_unsubscribes_hears_no_more_of_it() {
    let one = view(&[('e', "a", "1"), ('e', "b", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Endpoints, &["a", "b"]);
    client.takes(Endpoints, &["a=1", "b=1"], &[]);
    client.ask_with(Endpoints, &[], &["a"], &[]);
    client.session.advance(view(&[('e', "a", "2"), ('e', "b", "2")], Some(&one)));
    client.takes(Endpoints, &["b=2"], &[]);
    client.hears_nothing();
}

#[test]
fn a_large_change_comes_in_parts_one_after_the_other() {
    let large = "x".repeat(100_000);
    let names: Vec<String> = (0..7).map(|n| format!("c{n}")).collect();
    let lines: Vec<_> = names.iter().map(|name| ('c', name.as_str(), large.as_str())).collect();
    let mut client = Client::delta(&view(&lines, None));
    client.ask(Cluster, &[]);
    let mut parts = Vec::new();
    while let Some(told) = client.hear() {
        assert!(client.hear().is_none(), "one at a time");
        parts.push(told.holds.len());
        client.ack(&told);
    }
    assert_eq!(parts, [2, 2, 2, 1]);
}
