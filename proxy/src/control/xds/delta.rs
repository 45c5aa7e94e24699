//! Incremental xDS: what is asked for by changes of subscriptions, and what has changed comes back (xDS protocol,
//! "Incremental xDS"). Pure.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc::Status;
use xds::Kind;

use crate::control::xds::book::Book;

/// All that the control plane has.
const ALL: &str = "*";

/// What one stream has asked for.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    asked: [Option<BTreeSet<String>>; Kind::ALL.len()],
}

impl Delta {
    /// The first requests of a stream: who asks, and for each kind what is wanted and which versions are held, so that
    /// only what differs comes back.
    pub(crate) fn begin(&mut self, book: &Book, node: Node) -> Vec<DeltaDiscoveryRequest> {
        let mut first = self.ask(book, Kind::Listener).unwrap_or_default();
        first.node = Some(node);
        first.resource_names_subscribe.insert(0, ALL.to_owned());
        [first].into_iter().chain(self.follow(book)).collect()
    }

    /// Changes of subscriptions, where wishes have changed.
    pub(crate) fn follow(&mut self, book: &Book) -> Vec<DeltaDiscoveryRequest> {
        Kind::ALL.into_iter().filter_map(|kind| self.ask(book, kind)).collect()
    }

    /// Takes note of an answer: ACK, or with a fault, NACK.
    pub(crate) fn note(type_url: &str, nonce: &str, fault: Option<Status>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: fault,
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Says anew who we are.
    pub(crate) fn announce(node: Node) -> DeltaDiscoveryRequest {
        let type_url = Kind::Listener.type_url().to_owned();
        DeltaDiscoveryRequest { type_url, node: Some(node), ..DeltaDiscoveryRequest::default() }
    }

    /// Says who we are and what we announce, and subscribes to nothing: routes have no wildcard.
    pub(crate) fn herald(node: Node) -> DeltaDiscoveryRequest {
        let type_url = Kind::Routes.type_url().to_owned();
        DeltaDiscoveryRequest { type_url, node: Some(node), ..DeltaDiscoveryRequest::default() }
    }

    fn ask(&mut self, book: &Book, kind: Kind) -> Option<DeltaDiscoveryRequest> {
        let wanted = book.wanted(kind);
        let asked = &mut self.asked[kind as usize];
        let is_first = asked.is_none();
        // A first request without a name would ask for everything of its kind.
        if is_first && wanted.is_empty() && kind != Kind::Listener {
            return None;
        }
        let before = asked.take().unwrap_or_default();
        let subscribe: Vec<String> = wanted.difference(&before).cloned().collect();
        let unsubscribe: Vec<String> = before.difference(wanted).cloned().collect();
        *asked = Some(wanted.clone());
        if !is_first && subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        let held = book.newest().of(kind).iter().filter(|_| is_first);
        let held = held.filter(|(name, _)| kind == Kind::Listener || wanted.contains(&***name));
        // What stands in the place of something that was taken away is not said to be held.
        let held = held.filter(|(_, one)| !one.version.is_empty());
        let versions = held.map(|(name, one)| (name.to_string(), one.version.to_string()));
        Some(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: versions.collect(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::xds::fixture::{service, set, take};
    use crate::control::xds::held::Held;

    fn book(held: Held) -> Book {
        Book::new(&["a.n".to_owned()], held)
    }

    /// `KIND: +NAME -NAME =NAME@VERSION`.
    fn shown(request: &DeltaDiscoveryRequest) -> String {
        let kind = Kind::of(&request.type_url).unwrap();
        let plus = request.resource_names_subscribe.iter().map(|name| format!(" +{name}"));
        let minus = request.resource_names_unsubscribe.iter().map(|name| format!(" -{name}"));
        let mut held: Vec<String> =
            request.initial_resource_versions.iter().map(|(name, v)| format!(" ={name}@{v}")).collect();
        held.sort();
        format!("{kind:?}:{}", plus.chain(minus).chain(held).collect::<String>())
    }

    fn all(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
        requests.iter().map(shown).collect()
    }

    #[test]
    fn a_stream_begins_with_who_asks_and_asks_for_no_kind_without_a_name() {
        let mut delta = Delta::default();
        let first = delta.begin(&book(Held::default()), Node { id: "me".to_owned(), ..Node::default() });
        assert_eq!(all(&first), ["Listener: +* +a.n +inbound/a.n"]);
        assert_eq!(first[0].node.as_ref().unwrap().id, "me");
    }

    #[test]
    fn a_new_stream_says_what_is_held_so_that_only_the_difference_comes() {
        let mut delta = Delta::default();
        let first = delta.begin(&book(set(service("b.n", "7"))), Node::default());
        assert_eq!(
            all(&first),
            [
                "Listener: +* +a.n +inbound/a.n =b.n@7",
                "Cluster: +b.n =b.n@7",
                "Endpoints: +b.n =b.n@7",
                "Routes: +b.n =b.n@7"
            ]
        );
    }

    #[test]
    fn subscriptions_follow_what_is_wanted() {
        let (mut delta, mut book) = (Delta::default(), book(Held::default()));
        delta.begin(&book, Node::default());
        assert!(delta.follow(&book).is_empty());
        book.want(&BTreeSet::from(["host:80".to_owned()]));
        assert_eq!(all(&delta.follow(&book)), ["Listener: +host:80"]);
        take(&mut book, &service("b.n", "1"));
        // The first request of a kind says what is held of it.
        assert_eq!(
            all(&delta.follow(&book)),
            ["Cluster: +b.n =b.n@1", "Endpoints: +b.n =b.n@1", "Routes: +b.n =b.n@1"]
        );
        book.want(&BTreeSet::new());
        book.settle();
        book.remove(Kind::Listener, ["b.n".to_owned()]);
        book.settle();
        assert_eq!(
            all(&delta.follow(&book)),
            ["Cluster: -b.n", "Endpoints: -b.n", "Listener: -host:80", "Routes: -b.n"]
        );
        assert!(delta.follow(&book).is_empty());
    }

    #[test]
    fn an_answer_is_noted_by_its_nonce() {
        let fault = Status { code: 3, message: "why".to_owned(), details: Vec::new() };
        let note = Delta::note("t", "n1", Some(fault.clone()));
        assert_eq!((&*note.type_url, &*note.response_nonce, note.error_detail), ("t", "n1", Some(fault)));
        assert_eq!(Delta::note("t", "n1", None).error_detail, None);
        assert!(note.resource_names_subscribe.is_empty() && note.resource_names_unsubscribe.is_empty());
    }

    #[test]
    fn what_was_taken_away_is_not_said_to_be_held() {
        let mut before = book(set(service("b.n", "7")));
        before.remove(Kind::Endpoints, ["b.n".to_owned()]);
        let first = Delta::default().begin(&before, Node::default());
        assert_eq!(all(&first)[2], "Endpoints: +b.n");
    }
}
