//! One ADS stream as a state machine: requests go in, and whoever can send asks for the next response.
//!
//! No I/O and no clock. Each type is a `Channel`; here is what holds between types: what is named goes before what names
//! it (clusters, endpoints, listeners, routes), and what is gone is removed after it (clusters and endpoints once the client
//! has acknowledged the routes without them).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use xds::{Client, Kind};

use crate::ads::audience::Caller;
use crate::ads::channel::{Answer, Channel, Now};
use crate::ads::counters::{Counters, Limit, slot};
use crate::ads::delta::Wish;
use crate::ads::grpc::{Code, Ending};
use crate::ads::limits::{NAME_BYTES_MAX, ORDER_WAIT_MAX, UNKNOWN_NAMES_MAX, UNKNOWN_TYPES_MAX};
use crate::ads::view::{Entry, View};
use crate::ads::wire::Response;
use crate::ads::{delta, sotw};

/// Which of the two ways to speak ADS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`, state of the world.
    Sotw,
}

impl Protocol {
    /// As pages show it and as sidecar.yaml writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

/// A request of either protocol.
#[derive(Debug)]
pub(crate) enum Request {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

pub(crate) struct Session {
    pub(crate) caller: Caller,
    pub(crate) protocol: Protocol,
    pub(crate) view: Arc<View>,
    pub(crate) channels: [Option<Channel>; 4],
    /// Types that we do not serve, with the names to answer for; `None`: answered.
    unknown: BTreeMap<String, Option<BTreeSet<String>>>,
    subscriptions_max: usize,
    /// When those that sidecars announced before this process began have had their time to say so again.
    complete_at: Option<Instant>,
    nonces: u64,
    /// There is nothing to send until something happens, or until `wake`.
    quiet: bool,
    wake: Option<Instant>,
}

impl Session {
    pub(crate) fn new(caller: Caller, protocol: Protocol, view: Arc<View>, subscriptions_max: usize) -> Self {
        Self {
            caller,
            protocol,
            view,
            channels: Default::default(),
            unknown: BTreeMap::new(),
            subscriptions_max,
            complete_at: None,
            nonces: 0,
            quiet: true,
            wake: None,
        }
    }

    /// The same, of a process that does not know all endpoints before `at`.
    ///
    /// Until then nobody's list of endpoints is replaced by a shorter one only because sidecars have not come back yet: what
    /// a client has from before stays, and Envoy and gRPC are told no empty list. Who has nothing gets those that are there.
    pub(crate) fn complete_at(self, at: Instant) -> Self {
        Self { complete_at: Some(at), ..self }
    }

    /// Takes a request in. The error ends the stream.
    pub(crate) fn on_request(
        &mut self,
        request: Request,
        now: Now,
        counters: &Counters,
    ) -> Result<(), Ending> {
        self.quiet = false;
        let (type_url, nonce, error) = match &request {
            Request::Delta(request) => (&request.type_url, &request.response_nonce, &request.error_detail),
            Request::Sotw(request) => (&request.type_url, &request.response_nonce, &request.error_detail),
        };
        let Some(kind) = Kind::of(type_url) else {
            self.on_unknown(request, counters);
            return Ok(());
        };
        let first = self.channels[slot(kind)].is_none();
        let channel = self.channels[slot(kind)].get_or_insert_with(|| Channel::new(kind));
        let error = error.as_ref().map(|status| match status.message.as_str() {
            "" => "no reason given",
            message => message,
        });
        let answer = channel.answer(nonce, error, now);
        if let Some(answer) = answer {
            counters.answered(kind, answer == Answer::Ack);
        }
        let stale = !first && answer.is_none() && !nonce.is_empty() && *nonce != channel.last_nonce;
        if stale {
            counters.stale_nonces.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        match request {
            Request::Delta(request) => {
                let wish = Wish {
                    subscribe: request.resource_names_subscribe,
                    unsubscribe: request.resource_names_unsubscribe,
                    initial: request.initial_resource_versions,
                };
                // Who comes back says the same names in both.
                let held = first.then(|| wish.initial.keys()).into_iter().flatten();
                let asked = wish.subscribe.iter().chain(held).collect::<HashSet<_>>().len();
                self.within(kind, asked, wish.subscribe.iter().chain(wish.initial.keys()), counters)?;
                if let Some(channel) = &mut self.channels[slot(kind)] {
                    delta::subscribe(channel, wish, first, &self.view);
                }
            }
            // Its names are older than the response that the client has not seen yet; it will say them again.
            Request::Sotw(_) if stale => {}
            Request::Sotw(request) => {
                self.within(kind, 0, request.resource_names.iter(), counters)?;
                if let Some(channel) = &mut self.channels[slot(kind)] {
                    // Our sidecars keep no version over the end of a stream, and what they have they keep.
                    let ours = self.caller.audience.client == Client::Outrigger;
                    channel.comes_back |= first && ours;
                    if first && !request.version_info.is_empty() {
                        let names = request.resource_names.iter();
                        channel.brought.extend(names.map(|name| Arc::from(name.as_str())));
                    }
                    sotw::subscribe(channel, &request.resource_names, &self.view);
                }
                let asked = self.subscriptions();
                if asked > self.subscriptions_max {
                    return Err(self.too_many(asked, counters));
                }
            }
        }
        Ok(())
    }

    /// What the newest view has that the one before had not.
    pub(crate) fn advance(&mut self, view: Arc<View>) {
        if view.serial == self.view.serial {
            return;
        }
        for channel in self.channels.iter_mut().flatten() {
            let keep = self.protocol == Protocol::Sotw && channel.kind == Kind::Cluster;
            channel.advance(&self.view, &view, keep);
        }
        self.view = view;
        self.quiet = false;
    }

    /// Whether there may be a response to send.
    pub(crate) fn wants_to_send(&self, now: Now) -> bool {
        !self.quiet || self.wake.is_some_and(|wake| wake <= now.at)
    }

    /// When there may be a response to send though nothing has happened.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// The next response, for somebody who can send it now.
    pub(crate) fn next(&mut self, now: Now, counters: &Counters) -> Option<Response> {
        self.wake = None;
        let response = self.next_known(now, counters).or_else(|| self.next_unknown());
        self.quiet = response.is_none();
        if self.quiet && !self.waiting(now).is_empty() {
            self.wake = [self.wake, self.complete_at].into_iter().flatten().min();
        }
        response
    }

    /// Whose endpoints are not told yet, by the names of their resources.
    pub(crate) fn waiting(&self, now: Now) -> Vec<Arc<str>> {
        let incomplete = self.complete_at.is_some_and(|at| now.at < at);
        let channel = self.channels[slot(Kind::Endpoints)].as_ref().filter(|_| incomplete);
        let Some(channel) = channel else { return Vec::new() };
        let waits = waits(&self.view, &self.caller, Kind::Endpoints, self.complete_at, now);
        channel.dirty.keys().filter(|name| waits(channel, name)).cloned().collect()
    }

    fn next_known(&mut self, now: Now, counters: &Counters) -> Option<Response> {
        for kind in Kind::ALL {
            let removals = matches!(kind, Kind::Listener | Kind::Routes);
            if let Some(response) = self.next_of(kind, removals, now, counters) {
                return Some(response);
            }
            let flight = self.channels[slot(kind)].as_ref().and_then(|channel| channel.flight.as_ref());
            if let Some(until) =
                flight.map(|flight| flight.sent + ORDER_WAIT_MAX).filter(|until| *until > now.at)
            {
                self.wake = Some(until);
                return None;
            }
        }
        let settled = |kind| self.channels[slot(kind)].as_ref().is_none_or(Channel::settled);
        if settled(Kind::Listener) && settled(Kind::Routes) {
            return [Kind::Cluster, Kind::Endpoints]
                .into_iter()
                .find_map(|kind| self.next_of(kind, true, now, counters));
        }
        None
    }

    fn next_of(&mut self, kind: Kind, removals: bool, now: Now, counters: &Counters) -> Option<Response> {
        let Self { channels, view, caller, complete_at, .. } = self;
        let channel = channels[slot(kind)].as_mut().filter(|channel| channel.flight.is_none())?;
        let find = |name: &str| find(view, caller, kind, name);
        let waits = waits(view, caller, kind, *complete_at, now);
        let (resources, removed) = match self.protocol {
            Protocol::Delta => delta::collect(channel, view, find, waits, removals)?,
            Protocol::Sotw => (sotw::collect(channel, view, find, waits, removals)?, Vec::new()),
        };
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let (version, url) = (&view.version, kind.type_url());
        let response = match self.protocol {
            Protocol::Delta => Response::delta(version, url, &nonce, &resources, &removed),
            Protocol::Sotw => Response::sotw(version, url, &nonce, &resources),
        };
        let names = resources.iter().map(|entry| entry.name.clone()).chain(removed).collect();
        channel.sent(&nonce, version, names, now);
        counters.sent(kind, resources.len(), response.left());
        if kind == Kind::Cluster {
            self.warm(&resources);
        }
        Some(response)
    }

    /// Envoy puts a cluster that has changed in force once its endpoints have come again, changed or not (xDS protocol,
    /// "Resource warming").
    fn warm(&mut self, clusters: &[Arc<Entry>]) {
        if !matches!(self.caller.audience.client, Client::Envoy { .. }) {
            return;
        }
        let Some(endpoints) = &mut self.channels[slot(Kind::Endpoints)] else { return };
        for cluster in clusters {
            if let Some(name) = endpoints.named.get(&cluster.name).cloned() {
                endpoints.mark(&name, true);
            }
        }
    }

    /// A type that we do not serve is answered once with nothing in it: so the client need not wait for it, and the other
    /// types of the stream go on.
    fn on_unknown(&mut self, request: Request, counters: &Counters) {
        let (type_url, names) = match request {
            Request::Delta(request) => (request.type_url, Some(request.resource_names_subscribe)),
            Request::Sotw(request) => (request.type_url, None),
        };
        if !self.unknown.contains_key(&type_url) {
            counters.unknown_types.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if self.unknown.len() >= UNKNOWN_TYPES_MAX || type_url.len() > NAME_BYTES_MAX {
                return;
            }
            self.unknown.insert(type_url.clone(), Some(BTreeSet::new()));
        }
        let mut waiting: usize = self.unknown.values().flatten().map(BTreeSet::len).sum();
        if let Some(due) = self.unknown.get_mut(&type_url) {
            let mut left_out = false;
            for name in names.into_iter().flatten().filter(|name| name != "*") {
                if waiting >= UNKNOWN_NAMES_MAX || name.len() > NAME_BYTES_MAX {
                    left_out = true;
                    continue;
                }
                waiting += usize::from(due.get_or_insert_default().insert(name));
            }
            if left_out {
                counters.refuse(Limit::Subscriptions);
            }
        }
    }

    fn next_unknown(&mut self) -> Option<Response> {
        let (type_url, due) = self.unknown.iter_mut().find(|(_, due)| due.is_some())?;
        let names: Vec<Arc<str>> = due.take()?.iter().map(|name| name.as_str().into()).collect();
        self.nonces += 1;
        let (version, nonce) = (&self.view.version, self.nonces.to_string());
        Some(match self.protocol {
            Protocol::Delta => Response::delta(version, type_url, &nonce, &[], &names),
            Protocol::Sotw => Response::sotw(version, type_url, &nonce, &[]),
        })
    }

    /// All that the client is to hold by its subscriptions.
    pub(crate) fn wanted(&self) -> Vec<(Kind, Arc<Entry>)> {
        let of = |channel| self.wanted_of(channel).into_iter().map(move |entry| (channel.kind, entry));
        self.channels.iter().flatten().flat_map(of).collect()
    }

    /// What of one type, by name.
    pub(crate) fn wanted_of(&self, channel: &Channel) -> Vec<Arc<Entry>> {
        let wild = self.view.wild(channel.kind).filter(|_| channel.wildcard && self.view.wide);
        let mut names: BTreeSet<Arc<str>> = wild.map(|entry| entry.name.clone()).collect();
        names.extend(channel.named.iter().cloned());
        names.extend(channel.held.keys().filter(|name| channel.wants(&self.view, name)).cloned());
        names.iter().filter_map(|name| find(&self.view, &self.caller, channel.kind, name)).collect()
    }

    /// Names that the stream has subscribed to.
    pub(crate) fn subscriptions(&self) -> usize {
        self.channels.iter().flatten().map(|channel| channel.named.len()).sum()
    }

    fn within<'a>(
        &self,
        kind: Kind,
        asked: usize,
        mut names: impl Iterator<Item = &'a String>,
        counters: &Counters,
    ) -> Result<(), Ending> {
        if let Some(long) = names.find(|name| name.len() > NAME_BYTES_MAX) {
            counters.refuse(Limit::Subscriptions);
            let what =
                format!("a name of {} bytes in a request for {kind:?}; at most {NAME_BYTES_MAX}", long.len());
            return Err(Ending::new(Code::ResourceExhausted, what));
        }
        let asked = self.subscriptions() + asked;
        if asked > self.subscriptions_max {
            return Err(self.too_many(asked, counters));
        }
        Ok(())
    }

    fn too_many(&self, asked: usize, counters: &Counters) -> Ending {
        counters.refuse(Limit::Subscriptions);
        let most = self.subscriptions_max;
        Ending::new(
            Code::ResourceExhausted,
            format!("{asked} names on one stream; limits.subscriptions of the control plane is {most}"),
        )
    }
}

/// The resource that this caller is to have under a name.
fn find(view: &View, caller: &Caller, kind: Kind, name: &str) -> Option<Arc<Entry>> {
    match view.entry(kind, name) {
        Some(entry) => Some(entry.clone()),
        None if kind == Kind::Listener => view.made(name, caller.service.as_ref()),
        None => None,
    }
}

/// Which names of a type may not be told yet: endpoints that may lack some, to a client that may have those.
///
/// An empty list is told to sidecars of ours that have none: one that does not know all of its own service is not ready, and
/// would not announce the endpoint that the others wait for.
fn waits(
    view: &View,
    caller: &Caller,
    kind: Kind,
    complete_at: Option<Instant>,
    now: Now,
) -> impl Fn(&Channel, &str) -> bool {
    let incomplete = kind == Kind::Endpoints && complete_at.is_some_and(|at| now.at < at);
    let foreign = caller.audience.client != Client::Outrigger;
    move |channel, name| {
        incomplete
            && view
                .announced(name)
                .is_some_and(|endpoints| foreign && endpoints == 0 || channel.may_know_more(name))
    }
}
