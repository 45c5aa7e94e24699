//! Each rule of a stream, without a socket and with the time in hand.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use xds::Kind;

use crate::ads::audience::Caller;
use crate::ads::channel::Now;
use crate::ads::counters::{Counters, Limit, slot};
use crate::ads::grpc::Code;
use crate::ads::limits::{ORDER_WAIT_MAX, REASON_BYTES_MAX, UNKNOWN_NAMES_MAX};
use crate::ads::session::{Protocol, Request, Session};
use crate::ads::view::View;
use crate::ads::view::tests::{view, view_of};
use crate::ads::wire::PREFIX_BYTES;

use Kind::{Cluster, Endpoints, Listener, Routes};

/// A client that does what a test says.
struct Client {
    session: Session,
    counters: Counters,
    now: Now,
}

/// A response, in short.
#[derive(Debug, PartialEq)]
struct Told {
    kind: Kind,
    /// What is in it, by content; of a delta also the names before it.
    holds: Vec<String>,
    gone: Vec<String>,
    nonce: String,
}

impl Told {
    fn holds(&self) -> (Kind, Vec<&str>, Vec<&str>) {
        (
            self.kind,
            self.holds.iter().map(String::as_str).collect(),
            self.gone.iter().map(String::as_str).collect(),
        )
    }
}

impl Client {
    fn new(agent: &str, protocol: Protocol, view: &Arc<View>) -> Self {
        let node = Node { user_agent_name: agent.to_owned(), ..Node::default() };
        Self {
            session: Session::new(Caller::read(&node), protocol, view.clone(), 100),
            counters: Counters::default(),
            now: Now { at: Instant::now(), wall: SystemTime::UNIX_EPOCH },
        }
    }

    fn delta(view: &Arc<View>) -> Self {
        Self::new("outrigger", Protocol::Delta, view)
    }

    fn sotw(view: &Arc<View>) -> Self {
        Self::new("gRPC", Protocol::Sotw, view)
    }

    fn ask(&mut self, kind: Kind, subscribe: &[&str]) {
        self.ask_with(kind, subscribe, &[], &[]);
    }

    fn ask_with(&mut self, kind: Kind, subscribe: &[&str], unsubscribe: &[&str], initial: &[(&str, &str)]) {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        self.send(Request::Delta(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: own(subscribe),
            resource_names_unsubscribe: own(unsubscribe),
            initial_resource_versions: initial.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect(),
            ..DeltaDiscoveryRequest::default()
        }));
    }

    /// State of the world: the whole subscription, and the nonce that it answers.
    fn say(&mut self, kind: Kind, names: &[&str], nonce: &str) {
        self.send(Request::Sotw(DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }));
    }

    fn ack(&mut self, told: &Told) {
        self.answer(told, None);
    }

    fn nack(&mut self, told: &Told, why: &str) {
        self.answer(told, Some(why));
    }

    /// As delta clients do, and those of the state of the world that asked for everything.
    fn answer(&mut self, told: &Told, why: Option<&str>) {
        let type_url = told.kind.type_url().to_owned();
        let response_nonce = told.nonce.clone();
        let error_detail = why.map(|why| Status { message: why.to_owned(), ..Status::default() });
        self.send(match self.session.protocol {
            Protocol::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url,
                response_nonce,
                error_detail,
                ..DeltaDiscoveryRequest::default()
            }),
            Protocol::Sotw => Request::Sotw(DiscoveryRequest {
                type_url,
                response_nonce,
                error_detail,
                resource_names: self.names(told.kind),
                ..DiscoveryRequest::default()
            }),
        });
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        let channel = self.session.channels[slot(kind)].as_ref();
        channel.map_or_else(Vec::new, |channel| channel.named.iter().map(ToString::to_string).collect())
    }

    fn send(&mut self, request: Request) {
        self.session.on_request(request, self.now, &self.counters).unwrap();
    }

    /// The next response, if there is one.
    fn hear(&mut self) -> Option<Told> {
        if !self.session.wants_to_send(self.now) {
            return None;
        }
        let mut response = self.session.next(self.now, &self.counters)?;
        let mut bytes = Vec::new();
        while response.left() > 0 {
            bytes.extend_from_slice(&response.take(usize::MAX));
        }
        let content = |any: &[u8]| String::from_utf8(any.to_vec()).unwrap();
        let mut told = match self.session.protocol {
            Protocol::Delta => {
                let response = DeltaDiscoveryResponse::decode(&bytes[PREFIX_BYTES..]).unwrap();
                let holds = response
                    .resources
                    .iter()
                    .map(|r| format!("{}={}", r.name, content(&r.resource.as_ref().unwrap().value)));
                Told {
                    kind: Kind::of(&response.type_url).unwrap_or(Routes),
                    holds: holds.collect(),
                    gone: response.removed_resources,
                    nonce: response.nonce,
                }
            }
            Protocol::Sotw => {
                let response = DiscoveryResponse::decode(&bytes[PREFIX_BYTES..]).unwrap();
                Told {
                    kind: Kind::of(&response.type_url).unwrap_or(Routes),
                    holds: response.resources.iter().map(|any| content(&any.value)).collect(),
                    gone: Vec::new(),
                    nonce: response.nonce,
                }
            }
        };
        told.holds.sort();
        Some(told)
    }

    /// The next response must be this one; it is returned unanswered.
    fn hears(&mut self, kind: Kind, holds: &[&str], gone: &[&str]) -> Told {
        let told = self.hear().unwrap_or_else(|| panic!("{kind:?} {holds:?} -{gone:?} is due"));
        assert_eq!(told.holds(), (kind, holds.to_vec(), gone.to_vec()));
        told
    }

    /// [`Client::hears`], and an ACK.
    fn takes(&mut self, kind: Kind, holds: &[&str], gone: &[&str]) {
        let told = self.hears(kind, holds, gone);
        self.ack(&told);
    }

    #[track_caller]
    fn hears_nothing(&mut self) {
        let told = self.hear();
        assert_eq!(told, None);
        assert!(!self.session.wants_to_send(self.now), "it is quiet until something happens");
    }

    fn nack_of(&self, kind: Kind) -> Option<&str> {
        Some(&self.session.channels[slot(kind)].as_ref()?.nack.as_ref()?.reason)
    }
}

/// A service with all four of its resources, in one version.
fn service<'a>(name: &'a str, version: &'a str) -> [(char, &'a str, &'a str); 4] {
    ['c', 'e', 'l', 'r'].map(|kind| (kind, name, version))
}

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

#[test]
fn names_of_types_that_are_not_served_are_kept_up_to_a_number_over_all_types() {
    let mut client = Client::delta(&view(&[], None));
    let ask = |client: &mut Client, at: usize, names: usize| {
        client.send(Request::Delta(DeltaDiscoveryRequest {
            type_url: format!("type.googleapis.com/unknown.{at}"),
            resource_names_subscribe: (0..names).map(|n| format!("n{n}")).collect(),
            ..DeltaDiscoveryRequest::default()
        }));
    };
    ask(&mut client, 0, UNKNOWN_NAMES_MAX - 10);
    assert_eq!(client.counters.refused(Limit::Subscriptions), 0);
    ask(&mut client, 1, 11);
    assert_eq!(client.counters.refused(Limit::Subscriptions), 1);
    let gone = |client: &mut Client| client.hear().map(|told| told.gone.len());
    assert_eq!((gone(&mut client), gone(&mut client)), (Some(UNKNOWN_NAMES_MAX - 10), Some(10)));
    // What was answered for makes room.
    ask(&mut client, 1, 11);
    assert_eq!((gone(&mut client), gone(&mut client)), (Some(11), None));
}

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

#[test]
fn a_type_that_is_not_served_is_answered_and_the_others_go_on() {
    let mut client = Client::delta(&view(&[('c', "a", "1")], None));
    client.send(Request::Delta(DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        resource_names_subscribe: vec!["one".to_owned()],
        ..DeltaDiscoveryRequest::default()
    }));
    client.ask(Cluster, &[]);
    client.takes(Cluster, &["a=1"], &[]);
    assert_eq!(client.hear().unwrap().gone, ["one"]);
    client.hears_nothing();
    // Any number of them costs no more than a few answers.
    for n in 0..1_000 {
        client.send(Request::Delta(DeltaDiscoveryRequest {
            type_url: n.to_string(),
            ..DeltaDiscoveryRequest::default()
        }));
    }
    let mut answers = 0;
    while client.hear().is_some() {
        answers += 1;
    }
    assert!(answers < 20, "{answers}");
}

#[test]
fn too_many_names_end_the_stream_with_the_limit_in_words() {
    let one = view(&[], None);
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut client = Client::new("outrigger", protocol, &one);
        let names: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let type_url = Endpoints.type_url().to_owned();
        let request = match protocol {
            Protocol::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            }),
            Protocol::Sotw => Request::Sotw(DiscoveryRequest {
                type_url,
                resource_names: names,
                ..DiscoveryRequest::default()
            }),
        };
        let ending = client.session.on_request(request, client.now, &client.counters).unwrap_err();
        assert_eq!(ending.code, Code::ResourceExhausted);
        assert!(ending.message.contains("limits.subscriptions"), "{}", ending.message);
        assert_eq!(client.counters.refused(Limit::Subscriptions), 1);
    }
}

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
