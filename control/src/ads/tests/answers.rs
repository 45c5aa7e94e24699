//! What becomes of an answer, and of what changes before it comes.

use crate::ads::tests::client::*;

#[test]
fn what_changes_while_a_response_is_in_flight_is_merged() {
    let mut last = view(&[('c', "a", "1")], None);
    let mut client = Client::delta(&last);
    client.ask(Cluster, &[]);
    let first = client.hears(Cluster, &["a=1"], &[]);
    for version in 2..50 {
        last = view(&[('c', "a", &version.to_string()), ('c', "b", "1")], Some(&last));
        client.session.advance(last.clone());
        client.hears_nothing();
    }
    client.ack(&first);
    client.takes(Cluster, &["a=49", "b=1"], &[]);
    // What came and went again is not told at all.
    let gone = view(&[('c', "a", "49"), ('c', "b", "1"), ('c', "x", "1")], Some(&last));
    client.session.advance(gone.clone());
    client.session.advance(view(&[('c', "a", "49"), ('c', "b", "1")], Some(&gone)));
    client.hears_nothing();
}

#[test]
fn a_view_that_was_made_without_the_one_before_brings_what_differs_all_the_same() {
    let one = view(&[('c', "a", "1"), ('c', "b", "1"), ('c', "x", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &[]);
    client.takes(Cluster, &["a=1", "b=1", "x=1"], &[]);
    client.session.advance(view(&[('c', "a", "2"), ('c', "b", "1"), ('c', "d", "1")], None));
    client.takes(Cluster, &["a=2", "d=1"], &[]);
    client.takes(Cluster, &[], &["x"]);
    client.hears_nothing();
}

#[test]
fn a_stale_nonce_acknowledges_nothing() {
    let one = view(&[('c', "a", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &[]);
    let first = client.hears(Cluster, &["a=1"], &[]);
    client.ack(&first);
    client.session.advance(view(&[('c', "a", "2")], Some(&one)));
    client.hears(Cluster, &["a=2"], &[]);
    client.ack(&first);
    assert!(client.session.channels[slot(Cluster)].as_ref().unwrap().flight.is_some());
    assert_eq!(client.counters.stale_nonces.load(std::sync::atomic::Ordering::Relaxed), 1);
    // The part of a delta request that is no answer holds all the same.
    client.send(Request::Delta(DeltaDiscoveryRequest {
        type_url: Cluster.type_url().to_owned(),
        response_nonce: first.nonce.clone(),
        resource_names_subscribe: vec!["z".to_owned()],
        ..DeltaDiscoveryRequest::default()
    }));
    assert_eq!(client.names(Cluster), ["z"]);
}

#[test]
fn what_was_refused_is_not_sent_again_and_the_next_change_is() {
    let lines = [('c', "a", "1"), ('c', "b", "1")];
    let one = view(&lines, None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &[]);
    let first = client.hears(Cluster, &["a=1", "b=1"], &[]);
    client.now.wall += Duration::from_secs(7);
    client.nack(&first, "b: no such thing as b");
    client.hears_nothing();
    let channel = client.session.channels[slot(Cluster)].as_ref().unwrap();
    let nack = channel.nack.clone().unwrap();
    assert_eq!((nack.version.as_str(), nack.reason.as_str()), ("1", "b: no such thing as b"));
    assert_eq!(nack.at, SystemTime::UNIX_EPOCH + Duration::from_secs(7));
    assert_eq!(client.counters.answers(Cluster), (0, 1));
    let two = view(&[('c', "a", "2"), ('c', "b", "1")], Some(&one));
    client.session.advance(two.clone());
    client.takes(Cluster, &["a=2"], &[]);
    assert_eq!(client.nack_of(Cluster), Some("b: no such thing as b"), "another's ACK does not heal it");
    client.session.advance(view(&[('c', "a", "2"), ('c', "b", "2")], Some(&two)));
    client.takes(Cluster, &["b=2"], &[]);
    assert_eq!(client.nack_of(Cluster), None);
}

#[test]
fn a_refusal_that_names_nothing_is_over_with_the_next_ack() {
    let one = view(&[('c', "a", "1"), ('c', "b", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &[]);
    let first = client.hears(Cluster, &["a=1", "b=1"], &[]);
    client.nack(&first, "");
    assert_eq!(client.nack_of(Cluster), Some("no reason given"));
    client.session.advance(view(&[('c', "a", "2"), ('c', "b", "1")], Some(&one)));
    client.takes(Cluster, &["a=2"], &[]);
    assert_eq!(client.nack_of(Cluster), None);
}

#[test]
fn of_the_reason_of_a_refusal_only_the_beginning_is_looked_at() {
    let one = view(&[('c', "a", "1"), ('c', "b", "1")], None);
    let mut client = Client::delta(&one);
    client.ask(Cluster, &[]);
    let first = client.hears(Cluster, &["a=1", "b=1"], &[]);
    let long = "x".repeat(REASON_BYTES_MAX);
    client.nack(&first, &format!("{long} b"));
    assert_eq!(client.nack_of(Cluster), Some(long.as_str()));
    // It names nothing that was looked at, so that any ACK ends it.
    client.session.advance(view(&[('c', "a", "2"), ('c', "b", "1")], Some(&one)));
    client.takes(Cluster, &["a=2"], &[]);
    assert_eq!(client.nack_of(Cluster), None);
}
