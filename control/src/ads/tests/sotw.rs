//! State of the world: what a response must repeat, and what it says by leaving it out.

use crate::ads::tests::client::*;

#[test]
fn sotw_repeats_all_listeners_that_were_asked_for_and_routes_that_changed() {
    let lines = [('l', "a", "la1"), ('l', "b", "lb1"), ('r', "a", "ra1"), ('r', "b", "rb1")];
    let one = view(&lines, None);
    let mut client = Client::sotw(&one);
    client.say(Listener, &["a"], "");
    client.takes(Listener, &["la1"], &[]);
    client.say(Listener, &["a", "b"], "1");
    client.takes(Listener, &["la1", "lb1"], &[]);
    client.say(Routes, &["a", "b"], "");
    client.takes(Routes, &["ra1", "rb1"], &[]);
    client.session.advance(view(
        &[('l', "a", "la2"), ('l', "b", "lb1"), ('r', "a", "ra1"), ('r', "b", "rb2")],
        Some(&one),
    ));
    client.takes(Listener, &["la2", "lb1"], &[]);
    client.takes(Routes, &["rb2"], &[]);
    client.hears_nothing();
}

#[test]
fn sotw_says_by_leaving_it_out_that_a_listener_does_not_exist() {
    let one = view(&[('l', "a", "la1")], None);
    let mut client = Client::sotw(&one);
    client.say(Listener, &["a", "nobody"], "");
    client.takes(Listener, &["la1"], &[]);
    client.session.advance(view(&[], Some(&one)));
    client.takes(Listener, &[], &[]);
    client.hears_nothing();
}

#[test]
fn sotw_ignores_names_that_are_older_than_the_response_on_its_way() {
    let one = view(&[('e', "a", "1"), ('e', "b", "1")], None);
    let mut client = Client::sotw(&one);
    client.say(Endpoints, &["a"], "");
    client.takes(Endpoints, &["1"], &[]);
    client.session.advance(view(&[('e', "a", "2"), ('e', "b", "1")], Some(&one)));
    let second = client.hears(Endpoints, &["2"], &[]);
    client.say(Endpoints, &["a", "b"], "1");
    client.hears_nothing();
    assert_eq!(client.names(Endpoints), ["a"]);
    client.say(Endpoints, &["a", "b"], &second.nonce);
    client.takes(Endpoints, &["1"], &[]);
}

#[test]
fn sotw_takes_an_empty_list_for_everything_until_a_name_was_given() {
    let one = view(&[('c', "a", "1"), ('c', "b", "2")], None);
    let mut client = Client::sotw(&one);
    client.say(Cluster, &[], "");
    client.takes(Cluster, &["1", "2"], &[]);
    let mut client = Client::sotw(&one);
    client.say(Cluster, &["a"], "");
    client.takes(Cluster, &["1"], &[]);
    client.say(Cluster, &[], "1");
    client.session.advance(view(&[('c', "a", "3")], Some(&one)));
    client.hears_nothing();
    // Of endpoints there is no wildcard by an empty list.
    client.say(Endpoints, &[], "");
    client.hears_nothing();
}

#[test]
fn sotw_keeps_a_cluster_in_its_answers_until_the_routes_without_it_are_acknowledged() {
    let one = view(&[('c', "a", "ca1"), ('c', "b", "cb1"), ('r', "x", "to b")], None);
    let mut client = Client::new("envoy", Protocol::Sotw, &one);
    client.say(Cluster, &[], "");
    client.takes(Cluster, &["ca1", "cb1"], &[]);
    client.say(Routes, &["x"], "");
    client.takes(Routes, &["to b"], &[]);
    client.session.advance(view(&[('c', "a", "ca2"), ('r', "x", "to a")], Some(&one)));
    client.takes(Cluster, &["ca2", "cb1"], &[]);
    let routes = client.hears(Routes, &["to a"], &[]);
    client.hears_nothing();
    client.ack(&routes);
    client.takes(Cluster, &["ca2"], &[]);
    client.hears_nothing();
}

#[test]
fn sotw_keeps_a_cluster_for_who_asks_for_it_by_name_until_it_does_no_longer() {
    let one = view(&[('c', "a", "ca1"), ('c', "b", "cb1"), ('r', "x", "to b")], None);
    let mut client = Client::sotw(&one);
    client.say(Cluster, &["b"], "");
    client.takes(Cluster, &["cb1"], &[]);
    client.say(Routes, &["x"], "");
    client.takes(Routes, &["to b"], &[]);
    let two = view(&[('c', "a", "ca1"), ('r', "x", "to a")], Some(&one));
    client.session.advance(two.clone());
    client.takes(Routes, &["to a"], &[]);
    client.hears_nothing();
    client.say(Cluster, &["a", "b"], "1");
    let both = client.hears(Cluster, &["ca1", "cb1"], &[]);
    client.ack(&both);
    client.say(Cluster, &["a"], &both.nonce);
    client.hears_nothing();
    client.session.advance(view(&[('c', "a", "ca2"), ('r', "x", "to a")], Some(&two)));
    client.takes(Cluster, &["ca2"], &[]);
    client.hears_nothing();
}

#[test]
fn sotw_does_not_repeat_what_was_refused() {
    let one = view(&[('c', "a", "1")], None);
    let mut client = Client::sotw(&one);
    client.say(Cluster, &["a"], "");
    let first = client.hears(Cluster, &["1"], &[]);
    client.nack(&first, "no");
    client.hears_nothing();
    client.session.advance(view(&[('c', "a", "2")], Some(&one)));
    client.takes(Cluster, &["2"], &[]);
    assert_eq!(client.nack_of(Cluster), None);
}
