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
        let versions = held.map(|(name, one)| (name.to_string(), one.version.clone()));
        Some(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: versions.collect(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        })
    }
}
