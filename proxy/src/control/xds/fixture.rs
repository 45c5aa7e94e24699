//! Resources for the pure tests: what they say does not matter, what they name does.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use xds::Kind;
use xds::decode::parts::InboundPart;
use xds::decode::{ListenerPart, Part};

use crate::control::xds::book::{Book, Outcome};
use crate::control::xds::held::{Accepted, Held};
use crate::control::xds::judge::{Verdict, What};
use crate::control::xds::wire::{Answer, Entry};

/// A version of a resource that names others.
pub(crate) fn resource(version: &str, needs: &[(Kind, &str)]) -> Arc<Accepted> {
    let part = InboundPart { service: "s".to_owned(), namespace: "n".to_owned(), authorization: None };
    Arc::new(Accepted {
        version: version.into(),
        bytes: Bytes::copy_from_slice(version.as_bytes()),
        part: Part::Listener(ListenerPart::Inbound(part)),
        needs: needs.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect(),
    })
}

/// A listener, its routes, its cluster and its endpoints, all of one name and version.
pub(crate) fn service<'n>(name: &'n str, version: &str) -> [(Kind, &'n str, Arc<Accepted>); 4] {
    [
        (Kind::Listener, name, resource(version, &[(Kind::Routes, name)])),
        (Kind::Routes, name, resource(version, &[(Kind::Cluster, name)])),
        (Kind::Cluster, name, resource(version, &[(Kind::Endpoints, name)])),
        (Kind::Endpoints, name, resource(version, &[])),
    ]
}

/// A set of resources.
pub(crate) fn set<'n>(resources: impl IntoIterator<Item = (Kind, &'n str, Arc<Accepted>)>) -> Held {
    let mut held = Held::default();
    for (kind, name, one) in resources {
        held.insert(kind, name, one);
    }
    held
}

/// `KIND NAME VERSION` of each resource.
pub(crate) fn shown(held: &Held) -> Vec<String> {
    held.iter().map(|(kind, name, one)| format!("{kind:?} {name} {}", one.version)).collect()
}

/// An answer that has resources of these names, in one version.
pub(crate) fn answer(kind: Kind, nonce: &str, version: &str, names: &[&str], removed: &[&str]) -> Answer {
    let entry = |name: &&str| Entry {
        name: (*name).to_owned(),
        version: version.into(),
        type_url: kind.type_url().to_owned(),
        bytes: Some(Bytes::copy_from_slice(version.as_bytes())),
    };
    Answer {
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_owned(),
        version: version.to_owned(),
        entries: names.iter().map(entry).collect(),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
        identifier: String::new(),
    }
}

/// The book takes good resources.
pub(crate) fn take(book: &mut Book, resources: &[(Kind, &str, Arc<Accepted>)]) {
    for (kind, name, one) in resources {
        let what = What::Accepted(one.clone());
        verdict(book, *kind, name, &one.version, what);
    }
}

/// The book takes one verdict.
pub(crate) fn verdict(book: &mut Book, kind: Kind, name: &str, version: &str, what: What) -> Outcome {
    let verdict = Verdict { name: name.to_owned(), version: version.into(), what };
    book.take(kind, vec![verdict], SystemTime::UNIX_EPOCH)
}
