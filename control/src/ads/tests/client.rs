//! A client that does what a test says.

pub(crate) use std::sync::Arc;
pub(crate) use std::time::{Duration, Instant, SystemTime};

pub(crate) use envoy_types::pb::envoy::config::core::v3::Node;
pub(crate) use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
pub(crate) use envoy_types::pb::google::rpc::Status;
pub(crate) use prost::Message;
pub(crate) use xds::Kind;

pub(crate) use crate::ads::audience::Caller;
pub(crate) use crate::ads::channel::Now;
pub(crate) use crate::ads::counters::{Counters, Limit, slot};
pub(crate) use crate::ads::grpc::Code;
pub(crate) use crate::ads::limits::{ORDER_WAIT_MAX, REASON_BYTES_MAX, UNKNOWN_NAMES_MAX};
pub(crate) use crate::ads::session::{Protocol, Request, Session};
pub(crate) use crate::ads::view::View;
pub(crate) use crate::ads::view::tests::{view, view_of};
pub(crate) use crate::ads::wire::PREFIX_BYTES;

pub(crate) use Kind::{Cluster, Endpoints, Listener, Routes};

/// A client that does what a test says.
pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) counters: Counters,
    pub(crate) now: Now,
}

/// A response, in short.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) kind: Kind,
    /// What is in it, by content; of a delta also the names before it.
    pub(crate) holds: Vec<String>,
    pub(crate) gone: Vec<String>,
    pub(crate) nonce: String,
}

impl Told {
    pub(crate) fn holds(&self) -> (Kind, Vec<&str>, Vec<&str>) {
        (
            self.kind,
            self.holds.iter().map(String::as_str).collect(),
            self.gone.iter().map(String::as_str).collect(),
        )
    }
}

impl Client {
    pub(crate) fn new(agent: &str, protocol: Protocol, view: &Arc<View>) -> Self {
        let node = Node { user_agent_name: agent.to_owned(), ..Node::default() };
        Self {
            session: Session::new(Caller::read(&node), protocol, view.clone(), 100),
            counters: Counters::default(),
            now: Now { at: Instant::now(), wall: SystemTime::UNIX_EPOCH },
        }
    }

    pub(crate) fn delta(view: &Arc<View>) -> Self {
        Self::new("outrigger", Protocol::Delta, view)
    }

    pub(crate) fn sotw(view: &Arc<View>) -> Self {
        Self::new("gRPC", Protocol::Sotw, view)
    }

    pub(crate) fn ask(&mut self, kind: Kind, subscribe: &[&str]) {
        self.ask_with(kind, subscribe, &[], &[]);
    }

    pub(crate) fn ask_with(
        &mut self,
        kind: Kind,
        subscribe: &[&str],
        unsubscribe: &[&str],
        initial: &[(&str, &str)],
    ) {
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
    pub(crate) fn say(&mut self, kind: Kind, names: &[&str], nonce: &str) {
        self.send(Request::Sotw(DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }));
    }

    pub(crate) fn ack(&mut self, told: &Told) {
        self.answer(told, None);
    }

    pub(crate) fn nack(&mut self, told: &Told, why: &str) {
        self.answer(told, Some(why));
    }

    /// As delta clients do, and those of the state of the world that asked for everything.
    pub(crate) fn answer(&mut self, told: &Told, why: Option<&str>) {
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

    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        let channel = self.session.channels[slot(kind)].as_ref();
        channel.map_or_else(Vec::new, |channel| channel.named.iter().map(ToString::to_string).collect())
    }

    pub(crate) fn send(&mut self, request: Request) {
        self.session.on_request(request, self.now, &self.counters).unwrap();
    }

    /// The next response, if there is one.
    pub(crate) fn hear(&mut self) -> Option<Told> {
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
    pub(crate) fn hears(&mut self, kind: Kind, holds: &[&str], gone: &[&str]) -> Told {
        let told = self.hear().unwrap_or_else(|| panic!("{kind:?} {holds:?} -{gone:?} is due"));
        assert_eq!(told.holds(), (kind, holds.to_vec(), gone.to_vec()));
        told
    }

    /// [`Client::hears`], and an ACK.
    pub(crate) fn takes(&mut self, kind: Kind, holds: &[&str], gone: &[&str]) {
        let told = self.hears(kind, holds, gone);
        self.ack(&told);
    }

    #[track_caller]
    pub(crate) fn hears_nothing(&mut self) {
        let told = self.hear();
        assert_eq!(told, None);
        assert!(!self.session.wants_to_send(self.now), "it is quiet until something happens");
    }

    pub(crate) fn nack_of(&self, kind: Kind) -> Option<&str> {
        Some(&self.session.channels[slot(kind)].as_ref()?.nack.as_ref()?.reason)
    }
}

/// A service with all four of its resources, in one version.
pub(crate) fn service<'a>(name: &'a str, version: &'a str) -> [(char, &'a str, &'a str); 4] {
    ['c', 'e', 'l', 'r'].map(|kind| (kind, name, version))
}
