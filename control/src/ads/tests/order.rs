//! What is named goes before what names it, and goes away after it.

use crate::ads::tests::client::*;

#[test]
fn additions_go_in_the_order_in_which_they_name_each_other() {
    let one = view(&service("a", "1"), None);
    let mut client = Client::delta(&one);
    for kind in [Routes, Listener, Endpoints, Cluster] {
        client.ask(kind, &["*"]);
    }
    for kind in [Cluster, Endpoints, Listener, Routes] {
        client.takes(kind, &["a=1"], &[]);
    }
    let two = view(&[service("a", "2"), service("b", "1")].concat(), Some(&one));
    client.session.advance(two);
    for kind in [Cluster, Endpoints, Listener, Routes] {
        client.takes(kind, &["a=2", "b=1"], &[]);
    }
    client.hears_nothing();
}

#[test]
fn routes_wait_for_the_answer_about_clusters_but_not_for_ever() {
    let mut client = Client::delta(&view(&service("a", "1"), None));
    client.ask(Cluster, &["*"]);
    client.ask(Routes, &["a"]);
    client.hears(Cluster, &["a=1"], &[]);
    client.hears_nothing();
    let until = client.session.wake().unwrap();
    assert_eq!(until, client.now.at + ORDER_WAIT_MAX);
    client.now.at = until;
    client.takes(Routes, &["a=1"], &[]);
    client.hears_nothing();
}

#[test]
fn clusters_are_removed_when_the_routes_that_named_them_are_acknowledged() {
    let both = [service("a", "1"), service("b", "1")].concat();
    let one = view(&both, None);
    let mut client = Client::delta(&one);
    for kind in Kind::ALL {
        client.ask(kind, &["*"]);
        client.takes(kind, &["a=1", "b=1"], &[]);
    }
    let two = view(&[('c', "a", "1"), ('e', "a", "1"), ('l', "a", "1"), ('r', "a", "2")], Some(&one));
    client.session.advance(two.clone());
    client.takes(Listener, &[], &["b"]);
    let routes = client.hears(Routes, &["a=2"], &["b"]);
    client.hears_nothing();
    client.nack(&routes, "no");
    client.hears_nothing();
    client
        .session
        .advance(view(&[('c', "a", "1"), ('e', "a", "1"), ('l', "a", "1"), ('r', "a", "3")], Some(&two)));
    client.takes(Routes, &["a=3"], &[]);
    client.takes(Cluster, &[], &["b"]);
    client.takes(Endpoints, &[], &["b"]);
    client.hears_nothing();
}

#[test]
fn who_unsubscribes_from_routes_waits_no_longer_for_them() {
    let one = view(&service("a", "1"), None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &["a"]);
    client.takes(Cluster, &["a=1"], &[]);
    client.ask(Routes, &["a"]);
    let routes = client.hears(Routes, &["a=1"], &[]);
    client.nack(&routes, "a: no");
    client.session.advance(view(&[('r', "a", "1")], Some(&one)));
    client.hears_nothing();
    client.ask_with(Routes, &[], &["a"], &[]);
    client.takes(Cluster, &[], &["a"]);
}

#[test]
fn envoy_gets_the_endpoints_again_of_a_cluster_that_changed() {
    let one = view(&[('c', "a", "1"), ('e', "a", "1"), ('c', "b", "1"), ('e', "b", "1")], None);
    let two = view(&[('c', "a", "2"), ('e', "a", "1"), ('c', "b", "1"), ('e', "b", "1")], Some(&one));
    for (agent, again) in [("envoy", true), ("outrigger", false)] {
        let mut client = Client::new(agent, Protocol::Delta, &one);
        client.ask(Cluster, &[]);
        client.takes(Cluster, &["a=1", "b=1"], &[]);
        client.ask(Endpoints, &["a", "b"]);
        client.takes(Endpoints, &["a=1", "b=1"], &[]);
        client.session.advance(two.clone());
        client.takes(Cluster, &["a=2"], &[]);
        if again {
            client.takes(Endpoints, &["a=1"], &[]);
        }
        client.hears_nothing();
    }
}
