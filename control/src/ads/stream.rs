//! One ADS stream on a connection: moves requests into its [`Session`] and responses out, when there is room for them.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::ads::audience::Caller;
use crate::ads::channel::Now;
use crate::ads::counters::Limit;
use crate::ads::grpc::{Code, Ending, Messages, Unread, poll_room};
use crate::ads::hub::Hub;
use crate::ads::limits::BURST_MIN;
use crate::ads::pace::Pace;
use crate::ads::registration::{judge, no_place};
use crate::ads::registry::Proxy;
use crate::ads::session::{Protocol, Request, Session};
use crate::ads::wire::Response;
use crate::peer::Peer;
use crate::world::Worlds;

/// So much is handed to HTTP/2 at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// Serves a stream to its end.
pub(crate) async fn serve(
    hub: &Hub,
    peer: &Peer,
    protocol: Protocol,
    body: RecvStream,
    out: &mut SendStream<Bytes>,
) -> Ending {
    let mut requests = Messages::new(body, hub.settings.request);
    let first = timeout(hub.settings.first_words, next(&mut requests, protocol, hub)).await;
    let mut first = match first {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Ending::new(Code::Ok, ""),
        Ok(Err(ending)) => return ending,
        Err(_) => {
            hub.counters().refuse(Limit::FirstWords);
            let limit = hub.settings.first_words;
            return Ending::new(Code::DeadlineExceeded, format!("no request within {limit:?}"));
        }
    };
    let caller = meet(&take_node(&mut first).unwrap_or_default(), hub);
    let mut worlds = hub.worlds.clone();
    let world = worlds.borrow_and_update().clone();
    let view = match hub.view(&caller.audience, &world).await {
        Ok(view) => view,
        Err(ending) => return ending,
    };
    drop(world);
    let session =
        Session::new(caller, protocol, view, hub.settings.subscriptions).complete_at(hub.complete_at);
    let listed = hub.registry().add(peer.clone(), session);
    let mut stream = Stream { hub, proxy: &listed.proxy, worlds, key: None };
    stream.announce();
    match stream.proxy.session().on_request(first, Now::read(), hub.counters()) {
        Ok(()) => {}
        Err(ending) => return ending,
    }
    stream.run(requests, out).await
}

struct Stream<'a> {
    hub: &'a Hub,
    proxy: &'a Arc<Proxy>,
    worlds: Worlds,
    /// Under which name it has announced endpoints.
    key: Option<String>,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.hub.owners.leave(key, self.proxy.serial, Instant::now().into_std());
        }
    }
}

impl Stream<'_> {
    async fn run(&mut self, mut requests: Messages, out: &mut SendStream<Bytes>) -> Ending {
        let settings = self.hub.settings;
        let burst = BURST_MIN.max(settings.requests_per_second.saturating_mul(2));
        let mut pace = Pace::new(settings.requests_per_second, burst, Instant::now().into_std());
        let mut paused: Option<Instant> = None;
        let mut leaving = self.hub.leaving.subscribe();
        let mut writing: Option<Response> = None;
        let protocol = self.proxy.session().protocol;
        loop {
            let now = Now::read();
            let (wants, wake) = {
                let session = self.proxy.session();
                (writing.is_some() || session.wants_to_send(now), session.wake().map(Instant::from_std))
            };
            if wants {
                out.reserve_capacity(CHUNK_BYTES);
            }
            tokio::select! {
                room = poll_fn(|cx| poll_room(out, cx)), if wants => {
                    let Ok(room) = room else { return Ending::gone() };
                    // Only now, so that a client that reads slowly gets what is newest when it does.
                    if writing.is_none() {
                        writing = self.proxy.session().next(Now::read(), self.hub.counters());
                    }
                    if !write(out, &mut writing, room) {
                        return Ending::gone();
                    }
                }
                changed = self.worlds.changed() => match changed {
                    Ok(()) => {
                        if let Err(ending) = self.advance().await {
                            return ending;
                        }
                    }
                    Err(_) => return Ending::new(Code::Unavailable, "the control plane is going"),
                },
                request = next(&mut requests, protocol, self.hub), if paused.is_none() => match request {
                    Ok(Some(request)) => {
                        if let Err(ending) = self.on_request(request) {
                            return ending;
                        }
                        paused = pace.take(Instant::now().into_std()).map(Instant::from_std);
                        if paused.is_some() {
                            self.hub.counters().refuse(Limit::RequestRate);
                        }
                    }
                    Ok(None) => return Ending::new(Code::Ok, ""),
                    Err(ending) => return ending,
                },
                () = until(paused), if paused.is_some() => paused = None,
                () = until(wake), if wake.is_some() && !wants => {}
                () = told(&mut leaving) => {
                    return Ending::new(Code::Unavailable, "the control plane is going");
                }
            }
        }
    }

    fn on_request(&mut self, mut request: Request) -> Result<(), Ending> {
        if let Some(node) = take_node(&mut request) {
            let said = meet(&node, self.hub);
            let mut session = self.proxy.session();
            // For whom resources are encoded is settled with the first request.
            session.caller = Caller { audience: session.caller.audience.clone(), ..said };
            drop(session);
            self.announce();
        }
        self.proxy.session().on_request(request, Now::read(), self.hub.counters())
    }

    async fn advance(&mut self) -> Result<(), Ending> {
        let world = self.worlds.borrow_and_update().clone();
        let audience = self.proxy.session().caller.audience.clone();
        let view = self.hub.view(&audience, &world).await?;
        drop(world);
        self.proxy.session().advance(view);
        // Who may announce what may have changed with the mesh. Most announce nothing: that was settled when they said so.
        if self.key.is_some() || !self.proxy.session().caller.endpoints.is_empty() {
            self.announce();
        }
        Ok(())
    }

    /// Has the registrations hold what the node says now, as far as it may.
    fn announce(&mut self) {
        let announced = self.proxy.session().caller.endpoints.clone();
        let identity = self.proxy.peer.identity.as_ref();
        let key = || {
            let identity = identity.map_or("", |identity| identity.as_str());
            format!("{identity} {}", self.proxy.session().caller.id)
        };
        // Who comes back and announces nothing withdraws what it has announced on a stream that may be half open.
        if self.key.is_none() && announced.is_empty() && !self.hub.owners.knows(&key()) {
            return;
        }
        let world = self.worlds.borrow().clone();
        let (good, mut refused) = judge(&announced, &self.proxy.peer, &world);
        if self.key.is_none() && (!good.is_empty() || self.hub.owners.knows(&key())) {
            self.key = Some(key());
        }
        let mut past_limit = false;
        if let Some(key) = &self.key {
            let past = self.hub.owners.announce(key, self.proxy.serial, good, &self.hub.registrations);
            past_limit = !past.is_empty();
            let limit = self.hub.registrations.limit();
            refused.extend(past.iter().map(|one| no_place(one, limit)));
        }
        let new = self.proxy.set_refused(refused);
        self.hub.counters().registrations_refused.fetch_add(new as u64, Relaxed);
        if past_limit && new > 0 {
            self.hub.counters().refuse(Limit::Registrations);
        }
    }
}

/// Hands the next piece to HTTP/2; `false`: the stream takes no more.
fn write(out: &mut SendStream<Bytes>, writing: &mut Option<Response>, room: usize) -> bool {
    let Some(response) = writing else {
        out.reserve_capacity(0);
        return true;
    };
    let chunk = response.take(room.min(CHUNK_BYTES));
    let sent = chunk.is_empty() || out.send_data(chunk, false).is_ok();
    if response.left() == 0 {
        *writing = None;
        out.reserve_capacity(0);
    }
    sent
}

/// Waits until the control plane goes. By itself, so that no lock of it is held while something else is awaited.
pub(crate) async fn told(leaving: &mut watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The next request; `None`: the client has no more.
async fn next(requests: &mut Messages, protocol: Protocol, hub: &Hub) -> Result<Option<Request>, Ending> {
    let message = match poll_fn(|cx| requests.poll_next(cx)).await {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(None),
        Err(unread) => return Err(refusal(&unread, hub)),
    };
    hub.counters().requests.fetch_add(1, Relaxed);
    let request = match protocol {
        Protocol::Delta => DeltaDiscoveryRequest::decode(message).map(Request::Delta),
        Protocol::Sotw => DiscoveryRequest::decode(message).map(Request::Sotw),
    };
    request.map(Some).map_err(|error| {
        hub.counters().garbage.fetch_add(1, Relaxed);
        Ending::new(Code::InvalidArgument, format!("not a request: {error}"))
    })
}

/// What a stream ends with whose next message cannot be read.
pub(crate) fn refusal(unread: &Unread, hub: &Hub) -> Ending {
    match unread {
        Unread::TooLarge(bytes) => {
            hub.counters().refuse(Limit::Request);
            let most = hub.settings.request;
            let what = format!("a request of {bytes} bytes; limits.request of the control plane is {most}");
            Ending::new(Code::ResourceExhausted, what)
        }
        Unread::Wrong(why) => {
            hub.counters().garbage.fetch_add(1, Relaxed);
            Ending::new(Code::InvalidArgument, *why)
        }
        Unread::Gone => Ending::gone(),
    }
}

fn meet(node: &Node, hub: &Hub) -> Caller {
    let caller = Caller::read(node);
    if caller.too_many_endpoints {
        hub.counters().refuse(Limit::Registrations);
    }
    caller
}

fn take_node(request: &mut Request) -> Option<Node> {
    match request {
        Request::Delta(request) => mem::take(&mut request.node),
        Request::Sotw(request) => mem::take(&mut request.node),
    }
}
