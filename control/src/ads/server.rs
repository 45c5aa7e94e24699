//! One connection to the ADS port: HTTP/2, whether the peer is still there, and which service a stream asks for.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use envoy_types::pb::envoy::service::status::v3::ClientStatusRequest;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Method, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::accept::{Incoming, Taken};
use crate::ads::admit::{Admitted, admit, bearer};
use crate::ads::certificates;
use crate::ads::counters::Limit;
use crate::ads::csds;
use crate::ads::grpc::{Code, Ending, Messages, head, send};
use crate::ads::hub::Hub;
use crate::ads::limits::{FAREWELL_MAX, STATUS_BURST, STATUS_PER_SECOND, STREAMS_PER_CONNECTION_MAX};
use crate::ads::pace::Pace;
use crate::ads::secrets;
use crate::ads::session::Protocol;
use crate::ads::stream;
use crate::ads::wire::Response;
use crate::peer::Peer;

/// Requests wait here until they are whole; four streams of a connection may be in the middle of one.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What HTTP/2 holds of a stream on its way out.
const SEND_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Of a request's head.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Serves every connection that comes in, until [`Hub::leave`] is called and they have ended, or `FAREWELL_MAX` after it.
pub(crate) async fn run(mut incoming: Incoming, hub: Arc<Hub>) {
    let mut leaving = hub.leaving.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            taken = incoming.recv() => match taken {
                Some(Taken { socket, peer, dismissed }) => {
                    connections.spawn(converse(socket, peer, dismissed, hub.clone()));
                }
                None => break,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = leaving.wait_for(|leaving| *leaving) => break,
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(FAREWELL_MAX, ended).await;
}

/// Serves a connection to its end.
pub async fn serve<IO>(io: IO, peer: Peer, hub: Arc<Hub>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    converse(io, peer, None, hub).await;
}

/// Serves it; `dismissed`: while nothing is proved on it, it may have to go for another one.
async fn converse<IO>(io: IO, peer: Peer, dismissed: Option<oneshot::Receiver<()>>, hub: Arc<Hub>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX);
    let mut trial = Trial::new(&peer, dismissed, &hub);
    let preface = timeout(hub.settings.first_words, builder.handshake::<_, Bytes>(io));
    let greeted = tokio::select! {
        greeted = preface => greeted,
        // Whoever has finished TLS and says nothing has a place like all the others.
        () = trial.failed(true, &hub) => return,
    };
    let mut connection = match greeted {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return,
        Err(_) => return hub.counters().refuse(Limit::FirstWords),
    };
    // The last one of a bucket is followed by the pause, and here the pause comes before the answer.
    let status_pace = Pace::new(STATUS_PER_SECOND, STATUS_BURST + 1, Instant::now().into_std());
    let status_pace = Arc::new(Mutex::new(status_pace));
    let mut pulse = Pulse::new(connection.ping_pong(), &hub);
    let mut leaving = hub.leaving.subscribe();
    let mut streams = JoinSet::new();
    let mut end = None;
    let proofs = trial.proofs();
    loop {
        let is_idle = streams.is_empty();
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let way = Way { hub: hub.clone(), peer: peer.clone(), proofs: proofs.clone() };
                    streams.spawn(take(way, status_pace.clone(), request, respond));
                }
                Some(Err(_)) | None => return,
            },
            () = pulse.stopped() => {
                hub.counters().dead_peers.fetch_add(1, Relaxed);
                return;
            }
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            () = trial.failed(is_idle, &hub) => return,
            _ = leaving.wait_for(|leaving| *leaving), if end.is_none() => {
                connection.graceful_shutdown();
                end = Some(Instant::now() + FAREWELL_MAX);
            }
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return,
        }
    }
}

/// A connection without a certificate stays for as long as something is proved on it: by a token, in time, again and again.
struct Trial {
    /// `None`: it has a certificate, or is plaintext.
    on: Option<OnTrial>,
    proofs: watch::Sender<bool>,
    proved: watch::Receiver<bool>,
}

struct OnTrial {
    until: Instant,
    /// It has to go for another one; over once something was proved.
    dismissed: Option<oneshot::Receiver<()>>,
    /// Something was proved, and its streams last.
    is_busy: bool,
}

impl Trial {
    fn new(peer: &Peer, dismissed: Option<oneshot::Receiver<()>>, hub: &Hub) -> Self {
        let (proofs, proved) = watch::channel(false);
        let until = Instant::now() + hub.settings.first_words;
        let on = peer.unproven.then_some(OnTrial { until, dismissed, is_busy: false });
        Self { on, proofs, proved }
    }

    /// Where streams tell that something was proved.
    fn proofs(&self) -> watch::Sender<bool> {
        self.proofs.clone()
    }

    /// Comes back when the connection has to end. May be dropped and asked again.
    async fn failed(&mut self, is_idle: bool, hub: &Hub) {
        let Some(on) = &mut self.on else { return std::future::pending().await };
        loop {
            let is_proved = *self.proved.borrow_and_update();
            if is_proved {
                on.dismissed = None;
                // What was proved is proved for as long as its streams last, and then for as long as at first.
                if std::mem::replace(&mut on.is_busy, !is_idle) && is_idle {
                    on.until = Instant::now() + hub.settings.first_words;
                }
                if !is_idle {
                    let _ = self.proved.changed().await;
                    continue;
                }
            }
            let dismissed = async {
                match &mut on.dismissed {
                    Some(dismissed) => dismissed.await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                gone = dismissed => if gone {
                    // Counted where it was decided.
                    return;
                } else {
                    on.dismissed = None;
                },
                _ = self.proved.changed() => {}
                () = sleep_until(on.until) => {
                    if !is_proved {
                        hub.counters().refuse(Limit::Unspoken);
                    }
                    return;
                }
            }
        }
    }
}

/// What streams have of their connection.
struct Way {
    hub: Arc<Hub>,
    peer: Peer,
    proofs: watch::Sender<bool>,
}

/// Looks whether the peer is still there.
struct Pulse<'a> {
    hub: &'a Hub,
    pings: Option<PingPong>,
    next: Instant,
    /// A ping that was sent is to be answered by then.
    due: Option<Instant>,
}

impl<'a> Pulse<'a> {
    fn new(pings: Option<PingPong>, hub: &'a Hub) -> Self {
        Self { hub, pings, next: Instant::now() + hub.settings.ping_every, due: None }
    }

    /// Comes back when the peer has not answered in time. May be dropped and asked again.
    async fn stopped(&mut self) {
        loop {
            let Some(pings) = &mut self.pings else { return std::future::pending().await };
            match self.due {
                None => {
                    sleep_until(self.next).await;
                    // A connection that takes no ping is ending by itself.
                    if pings.send_ping(Ping::opaque()).is_err() {
                        self.pings = None;
                        continue;
                    }
                    self.hub.counters().pings.fetch_add(1, Relaxed);
                    self.due = Some(Instant::now() + self.hub.settings.pong_max);
                }
                Some(due) => {
                    tokio::select! {
                        pong = poll_fn(|cx| pings.poll_pong(cx)) => {
                            if pong.is_err() {
                                self.pings = None;
                                continue;
                            }
                        }
                        () = sleep_until(due) => return,
                    }
                    (self.due, self.next) = (None, Instant::now() + self.hub.settings.ping_every);
                }
            }
        }
    }
}

/// One request of a connection.
async fn take(
    way: Way,
    status_pace: Arc<Mutex<Pace>>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let Way { hub, peer, proofs } = way;
    let (place, streams) = hub.registry().enter();
    let refused = match Service::of(&request) {
        Err(ending) => Some(ending),
        Ok(_) if hub.limit_reached(streams) => Some(Ending::new(
            Code::ResourceExhausted,
            format!("limits.streams of the control plane is {}", hub.settings.streams),
        )),
        Ok(_) => None,
    };
    if let Some(ending) = refused {
        let _ = respond.send_response(ending.alone(), true);
        return;
    }
    let Ok(service) = Service::of(&request) else { return };
    let token = bearer(&request);
    if let Service::Certificate = service {
        let Ok(mut out) = respond.send_response(head(), false) else { return };
        let body = request.into_body();
        let ending = certificates::serve(&hub, &peer, token.as_deref(), body, &mut out).await;
        if ending.code == Code::Ok {
            proofs.send_replace(true);
        }
        let _ = out.send_trailers(ending.trailers());
        return;
    }
    let Admitted { peer, until } = match admit(&hub, &peer, token.as_deref()).await {
        Ok(admitted) => admitted,
        Err(ending) => return drop(respond.send_response(ending.alone(), true)),
    };
    proofs.send_replace(true);
    let Ok(mut out) = respond.send_response(head(), false) else { return };
    let body = request.into_body();
    let served = async {
        match service {
            Service::Ads(protocol) => stream::serve(&hub, &peer, protocol, body, &mut out).await,
            Service::Status { stream } => status(&hub, &status_pace, body, &mut out, stream).await,
            Service::Secrets | Service::Certificate => secrets::serve(&hub, body, &mut out).await,
        }
    };
    let ending = tokio::select! {
        ending = served => ending,
        () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
            Ending::new(Code::Unauthenticated, "the token by which the stream was let in has expired")
        }
    };
    let _ = out.send_trailers(ending.trailers());
    drop(place);
}

/// What is served here.
enum Service {
    Ads(Protocol),
    Status {
        stream: bool,
    },
    /// Roots, by SDS.
    Secrets,
    /// The CA.
    Certificate,
}

impl Service {
    fn of(request: &Request<RecvStream>) -> Result<Self, Ending> {
        if request.method() != Method::POST {
            return Err(Ending::new(Code::Unimplemented, "gRPC comes by POST"));
        }
        match request.uri().path() {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources" => {
                Ok(Self::Ads(Protocol::Delta))
            }
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources" => {
                Ok(Self::Ads(Protocol::Sotw))
            }
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus" => {
                Ok(Self::Status { stream: false })
            }
            "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus" => {
                Ok(Self::Status { stream: true })
            }
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets" => Ok(Self::Secrets),
            "/istio.v1.auth.IstioCertificateService/CreateCertificate" => Ok(Self::Certificate),
            path => Err(Ending::new(
                Code::Unimplemented,
                format!(
                    "{path} is not served; ADS (v3, delta and state of the world), CSDS, SDS (StreamSecrets) and \
                     CreateCertificate are"
                ),
            )),
        }
    }
}

/// CSDS: an answer for each request, no faster than the connection's pace.
async fn status(
    hub: &Hub,
    pace: &Mutex<Pace>,
    body: RecvStream,
    out: &mut SendStream<Bytes>,
    stream: bool,
) -> Ending {
    let mut requests = Messages::new(body, hub.settings.request);
    loop {
        let message = match poll_fn(|cx| requests.poll_next(cx)).await {
            Ok(Some(message)) => message,
            Ok(None) => return Ending::new(Code::Ok, ""),
            Err(unread) => return stream::refusal(&unread, hub),
        };
        let request = match ClientStatusRequest::decode(message) {
            Ok(request) => request,
            Err(error) => return Ending::new(Code::InvalidArgument, format!("not a request: {error}")),
        };
        let paused = pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now().into_std());
        if let Some(until) = paused {
            hub.counters().refuse(Limit::RequestRate);
            tokio::select! {
                () = sleep_until(Instant::from_std(until)) => {}
                _ = poll_fn(|cx| out.poll_reset(cx)) => return Ending::gone(),
            }
        }
        let response = match csds::answer(&request, hub.registry()).await {
            Ok(answer) => Response::message(&answer),
            Err(ending) => return ending,
        };
        if let Err(ending) = send(out, response).await {
            return ending;
        }
        if !stream {
            return Ending::new(Code::Ok, "");
        }
    }
}
