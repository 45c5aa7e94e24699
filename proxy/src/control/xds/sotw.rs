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
/// Asked for among clusters when none is wanted any more: a request without a name would ask for all of them, and without a
/// request what comes back later would never be sent again.
const NONE: &str = "outrigger:none";
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
        // It may be any one of those that are missed.
        if here.contains("") {
            return Vec::new();
        }
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
        let of = &mut self.of[kind as usize];
        let none = BTreeSet::from([NONE.to_owned()]);
        let wanted = match book.wanted(kind) {
            // Older servers take one without a name for everything also later.
            wanted if wanted.is_empty() && kind == Kind::Cluster && of.asked.is_some() => &none,
            wanted => wanted,
        };
        let due = match &of.asked {
            // A request without a name would ask for everything of its kind.
            None => kind == Kind::Listener || !wanted.is_empty(),
            Some(asked) => asked != wanted,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::xds::fixture::{answer, service, take};
    use crate::control::xds::held::Held;

    const MS: Duration = Duration::from_millis(1);

    fn begun() -> (Sotw, Book) {
        let (mut sotw, book) = (Sotw::default(), Book::new(&["a.n".to_owned()], Held::default()));
        let first = sotw.begin(&book, Node { id: "me".to_owned(), ..Node::default() });
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].resource_names, ["*", "a.n", "inbound/a.n"]);
        assert_eq!(first[0].node.as_ref().unwrap().id, "me");
        (sotw, book)
    }

    #[test]
    fn an_answer_is_taken_note_of_with_its_nonce_and_the_version_in_force() {
        let (mut sotw, mut book) = begun();
        let parts = service("b.n", "1");
        take(&mut book, &parts[..1]);
        let ack = sotw.note(Kind::Listener, &answer(Kind::Listener, "n1", "v1", &["b.n"], &[]), None);
        assert_eq!((&*ack.version_info, &*ack.response_nonce), ("v1", "n1"));
        assert_eq!(ack.resource_names, ["*", "a.n", "inbound/a.n"]);
        let fault = Status { code: 3, message: "why".to_owned(), details: Vec::new() };
        let nack = sotw.note(Kind::Listener, &answer(Kind::Listener, "n2", "v2", &["b.n"], &[]), Some(fault));
        assert_eq!((&*nack.version_info, &*nack.response_nonce), ("v1", "n2"), "v1 is what is in force");
        assert!(nack.error_detail.is_some());
        let routes = sotw.follow(&book);
        assert_eq!((routes.len(), &*routes[0].resource_names[0]), (1, "b.n"));
        assert!(sotw.follow(&book).is_empty());
    }

    #[test]
    fn what_a_whole_answer_lacks_is_gone_and_endpoints_may_come_in_parts() {
        let (mut sotw, mut book) = begun();
        take(&mut book, &service("b.n", "1"));
        take(&mut book, &service("c.n", "1"));
        let now = Instant::now();
        for (kind, gone) in [(Kind::Listener, 1), (Kind::Cluster, 1), (Kind::Routes, 0), (Kind::Endpoints, 0)]
        {
            let lacks = answer(kind, "n", "2", &["b.n"], &[]);
            assert_eq!(sotw.gone(kind, &lacks, &book, now).len(), gone, "{kind:?}");
            let nameless = answer(kind, "n", "2", &["b.n", ""], &[]);
            assert!(sotw.gone(kind, &nameless, &book, now).is_empty(), "it may be the one that is missed");
        }
    }

    #[test]
    fn a_listener_that_was_asked_for_and_does_not_come_does_not_exist() {
        let (mut sotw, mut book) = begun();
        let now = Instant::now();
        book.want(&BTreeSet::from(["host".to_owned()]));
        sotw.follow(&book);
        sotw.gone(Kind::Listener, &answer(Kind::Listener, "n1", "1", &["a.n"], &[]), &book, now);
        assert_eq!(sotw.due(), Some(now + LACKING));
        assert!(
            sotw.conclude(now + 499 * MS).is_empty(),
            "that answer may have been under way when we asked"
        );
        // The next one has one of the two.
        sotw.gone(Kind::Listener, &answer(Kind::Listener, "n2", "2", &["a.n", "host"], &[]), &book, now);
        assert_eq!(sotw.conclude(now + 500 * MS), ["inbound/a.n"]);
        assert_eq!(sotw.due(), None);
    }

    #[test]
    fn no_request_for_clusters_is_without_a_name() {
        let (mut sotw, mut book) = begun();
        take(&mut book, &service("b.n", "1"));
        assert_eq!(sotw.follow(&book).len(), 3);
        book.settle();
        book.remove(Kind::Listener, ["b.n".to_owned()]);
        book.settle();
        let requests = sotw.follow(&book);
        let clusters: Vec<_> =
            requests.iter().filter(|request| request.type_url == Kind::Cluster.type_url()).collect();
        assert_eq!((clusters.len(), &*clusters[0].resource_names), (1, &[NONE.to_owned()][..]));
        assert!(sotw.follow(&book).is_empty());
        take(&mut book, &service("b.n", "1"));
        let again = sotw.follow(&book);
        let again = again.iter().find(|request| request.type_url == Kind::Cluster.type_url());
        assert_eq!(
            again.map(|request| &*request.resource_names),
            Some(&["b.n".to_owned()][..]),
            "it is sent again"
        );
    }
}
