//! What a wildcard stands for, in a small mesh and in a large one.

use crate::ads::tests::client::*;

#[test]
fn past_the_threshold_a_wildcard_holds_what_was_asked_for_by_name() {
    let lines = [('l', "a", "1"), ('l', "b", "1"), ('l', "inbound/a", "1")];
    let one = view_of(false, &lines, None);
    let mut client = Client::delta(&one);
    client.ask(Listener, &["*"]);
    client.takes(Listener, &[], &[]);
    client.ask(Listener, &["a", "inbound/a"]);
    client.takes(Listener, &["a=1", "inbound/a=1"], &[]);
    let two = view_of(
        false,
        &[('l', "a", "2"), ('l', "b", "2"), ('l', "c", "1"), ('l', "inbound/a", "1")],
        Some(&one),
    );
    client.session.advance(two.clone());
    client.takes(Listener, &["a=2"], &[]);
    client.hears_nothing();
    // With fewer services again they all come.
    client.session.advance(view_of(
        true,
        &[('l', "a", "2"), ('l', "b", "2"), ('l', "inbound/a", "1")],
        Some(&two),
    ));
    client.takes(Listener, &["b=2"], &[]);
    client.hears_nothing();
}

#[test]
fn a_mesh_that_grows_past_the_threshold_takes_nothing_away() {
    let one = view_of(true, &[('l', "a", "1"), ('l', "b", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Listener, &["*"]);
    client.takes(Listener, &["a=1", "b=1"], &[]);
    let two = view_of(false, &[('l', "a", "2"), ('l', "b", "1"), ('l', "c", "1")], Some(&one));
    client.session.advance(two.clone());
    client.takes(Listener, &["a=2"], &[]);
    client.session.advance(view_of(false, &[('l', "b", "1"), ('l', "c", "1")], Some(&two)));
    client.takes(Listener, &[], &["a"]);
    client.hears_nothing();
}

#[test]
fn a_wildcard_that_ends_leaves_what_was_named() {
    let one = view(&[('c', "a", "1"), ('c', "b", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &["*", "a"]);
    client.takes(Cluster, &["a=1", "b=1"], &[]);
    client.ask_with(Cluster, &[], &["*"], &[]);
    client.session.advance(view(&[('c', "a", "2"), ('c', "b", "2")], Some(&one)));
    client.takes(Cluster, &["a=2"], &[]);
    client.hears_nothing();
}
