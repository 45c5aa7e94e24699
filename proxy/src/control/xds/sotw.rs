//! State-of-the-world xDS: each request says all that is wanted of a kind, each answer all that there is (xDS protocol,
//! "State of the World"). Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc::Status;
use tokio::time::Instant;
use xds::Kind;

use crate::control::xds::book::Book;
use crate::control::xds::wire::Answer;

/// All that the control plane has.
const ALL: &str = "*";
/// How long a listener that an answer lacks may still come: the answer may have been under way when we asked.
const LACKING: Duration = Duration::from_millis(500);

/// What one stream has asked for, and what it was answered.
#[derive(Debug, Default)]
pub(crate) struct Sotw {
    of: [OfKind; Kind::ALL.len()],
    /// Listeners that were asked for and that no answer had, since when.
    lacking: BTreeMap<String, Instant>,
}

#[derive(Debug, Default)]
struct OfKind {
    asked: Option<BTreeSet<String>>,
    /// Of the last answer that was taken whole.
    version: String,
    /// Of the last answer.
    nonce: String,
}

impl Sotw {
    /// The first requests of a stream: who asks, and what is wanted of each kind.
    pub(crate) fn begin(&mut self, book: &Book, node: Node) -> Vec<DiscoveryRequest> {
        let mut first = self.ask(book, Kind::Listener).unwrap_or_default();
        first.node = Some(node);
        [first].into_iter().chain(self.follow(book)).collect()
    }

    /// Requests where wishes have changed.
    pub(crate) fn follow(&mut self, book: &Book) -> Vec<DiscoveryRequest> {
        Kind::ALL.into_iter().filter_map(|kind| self.ask(book, kind)).collect()
    }

    /// Takes note of an answer about `kind`: ACK, or with a fault, NACK.
    pub(crate) fn note(&mut self, kind: Kind, answer: &Answer, fault: Option<Status>) -> DiscoveryRequest {
        let of = &mut self.of[kind as usize];
        of.nonce.clone_from(&answer.nonce);
        if fault.is_none() {
            of.version.clone_from(&answer.version);
        }
        DiscoveryRequest { error_detail: fault, ..self.request(kind) }
    }

    /// Turns down an answer about something that nobody asked for.
    pub(crate) fn turn_down(answer: &Answer, fault: Status) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            error_detail: Some(fault),
            ..DiscoveryRequest::default()
        }
    }

    /// Says anew who we are.
    pub(crate) fn announce(&self, node: Node) -> DiscoveryRequest {
        DiscoveryRequest { node: Some(node), ..self.request(Kind::Listener) }
    }

    /// What an answer says by not having it: listeners and clusters that are no more. Of the other kinds an answer may
    /// hold a part.
    pub(crate) fn gone(&mut self, kind: Kind, answer: &Answer, book: &Book, now: Instant) -> Vec<String> {
        if !matches!(kind, Kind::Listener | Kind::Cluster) {
            return Vec::new();
        }
        let here: BTreeSet<&str> = answer.entries.iter().map(|entry| &*entry.name).collect();
        if kind == Kind::Listener {
            self.lacking.retain(|name, _| !here.contains(&**name));
            let asked = self.of[kind as usize].asked.iter().flatten();
            for name in asked.filter(|name| !here.contains(&***name)) {
                self.lacking.entry(name.clone()).or_insert(now);
            }
        }
        let held = book.newest().of(kind).keys();
        held.filter(|name| !here.contains(&***name)).map(ToString::to_string).collect()
    }

    /// Listeners that have been lacking for so long that they do not exist.
    pub(crate) fn conclude(&mut self, now: Instant) -> Vec<String> {
        let (gone, left) = std::mem::take(&mut self.lacking)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, since)| now - *since >= LACKING);
        self.lacking = left;
        gone.into_keys().collect()
    }

    /// When [`Sotw::conclude`] has something to say.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.lacking.values().min().map(|since| *since + LACKING)
    }

    fn ask(&mut self, book: &Book, kind: Kind) -> Option<DiscoveryRequest> {
        let wanted = book.wanted(kind);
        let of = &mut self.of[kind as usize];
        let due = match &of.asked {
            // A request without a name would ask for everything of its kind.
            None => kind == Kind::Listener || !wanted.is_empty(),
            // Nor may one of clusters become so later: older servers take that for everything as well.
            Some(asked) => asked != wanted && (kind != Kind::Cluster || !wanted.is_empty()),
        };
        if !due {
            return None;
        }
        if kind == Kind::Listener {
            let before = of.asked.as_ref();
            // What is asked for once more has its time once more.
            self.lacking.retain(|name, _| wanted.contains(name) && before.is_some_and(|b| b.contains(name)));
        }
        of.asked = Some(wanted.clone());
        Some(self.request(kind))
    }

    fn request(&self, kind: Kind) -> DiscoveryRequest {
        let of = &self.of[kind as usize];
        let all = (kind == Kind::Listener).then(|| ALL.to_owned());
        DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            version_info: of.version.clone(),
            response_nonce: of.nonce.clone(),
            resource_names: all.into_iter().chain(of.asked.iter().flatten().cloned()).collect(),
            ..DiscoveryRequest::default()
        }
    }
}
