//! PINGs on connections between sidecars. They are sent over mesh TLS only, so the endpoint here ends TLS,
//! counts the PINGs, and hands the frames on to an echo server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bench::call::CallSpec;
use bench::certs::Ca;
use bench::raw::{PREFACE, kind};
use bench::server::Server;
use bench::tls::{ServerTls, server_config};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::kit::{BIDI, Case, ECHO, Site, UNAVAILABLE, echo, echoes, id, open, stays_away, until};
use crate::level::Level;

levels! {
    [service]
    "upstream.keepalive.interval" => pings_are_sent_at_the_interval,
    "upstream.keepalive.timeout" => a_connection_without_an_answer_is_given_up,
}

async fn pings_are_sent_at_the_interval(case: &Case, level: Level) {
    let (ca, server) = (Ca::new("cluster.local"), echo("echo").await);
    let endpoint = Endpoint::start(&ca, server.addr, Pings::Pass).await;
    let mut base = endpoint.site(level, &server, &ca);
    let place = level.place("", "upstream keepalive interval");
    *base.at(&place) = "1h".into();
    let changed = case.change(&base, &place, "50ms");

    let before = base.start().await;
    let client = before.client().await;
    let _call = open(&client).await;
    assert!(stays_away(endpoint.pinged(1)).await);

    let after = changed.start().await;
    let client = after.client().await;
    let mut call = open(&client).await;
    endpoint.pinged(3).await;
    assert!(echoes(&mut call).await);
}

async fn a_connection_without_an_answer_is_given_up(case: &Case, level: Level) {
    let (ca, server) = (Ca::new("cluster.local"), echo("echo").await);
    let endpoint = Endpoint::start(&ca, server.addr, Pings::Vanish).await;
    let mut base = endpoint.site(level, &server, &ca);
    let place = level.place("", "upstream keepalive timeout");
    *base.at(&level.place("", "upstream keepalive interval")) = "50ms".into();
    *base.at(&place) = "1h".into();
    let changed = case.change(&base, &place, "100ms");

    let before = base.start().await;
    let client = before.client().await;
    let mut call = open(&client).await;
    endpoint.pinged(1).await;
    assert!(stays_away(call.recv()).await);
    assert!(echoes(&mut call).await);

    let after = changed.start().await;
    let client = after.client().await;
    let outcome = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call").receiver.finish().await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(outcome.message.contains("the connection "), "{}", outcome.message);
    until("only the first connection is left", async || server.open_connections() == 1).await;
    assert!(echoes(&mut call).await);
}

/// What becomes of a PING at the endpoint.
#[derive(Clone, Copy)]
enum Pings {
    /// It is answered.
    Pass,
    /// It is not.
    Vanish,
}

/// A peer's sidecar, as far as keepalive goes.
struct Endpoint {
    addr: SocketAddr,
    pings: Arc<AtomicUsize>,
}

impl Endpoint {
    /// Starts it before `app`, as a task of this test's runtime.
    async fn start(ca: &Ca, app: SocketAddr, fate: Pings) -> Self {
        let tls = ServerTls { leaf: ca.leaf(&id("echo")), client_trust: Some(ca.bundle_pem().to_owned()) };
        let acceptor = TlsAcceptor::from(server_config(&tls).expect("a certificate"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let (addr, pings) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
        let seen = pings.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(relay(acceptor.clone(), tcp, app, fate, seen.clone()));
            }
        });
        Self { addr, pings }
    }

    /// `echo` is at this endpoint.
    fn site(&self, level: Level, server: &Server, ca: &Ca) -> Site {
        let mut site = level.base(server).identified(ca, &id("caller"));
        *site.at("mesh services 0 endpoints 0") = self.addr.to_string().into();
        site
    }

    /// Waits until this many PINGs have come.
    async fn pinged(&self, count: usize) {
        until("PINGs come", async || self.pings.load(Ordering::Relaxed) >= count).await;
    }
}

/// Serves one connection until either end is gone.
async fn relay(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    app: SocketAddr,
    fate: Pings,
    pings: Arc<AtomicUsize>,
) -> io::Result<()> {
    let (mut from_caller, mut to_caller) = tokio::io::split(acceptor.accept(tcp).await?);
    let (mut from_app, mut to_app) = TcpStream::connect(app).await?.into_split();
    tokio::select! {
        done = frames(&mut from_caller, &mut to_app, fate, &pings) => done,
        done = tokio::io::copy(&mut from_app, &mut to_caller) => done.map(|_| ()),
    }
}

/// Hands a client's frames on (RFC 9113, section 4.1).
async fn frames(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    fate: Pings,
    pings: &AtomicUsize,
) -> io::Result<()> {
    const ACK: u8 = 1;
    let mut preface = [0; PREFACE.len()];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        from.read_exact(&mut payload).await?;
        if head[3] == kind::PING && head[4] & ACK == 0 {
            pings.fetch_add(1, Ordering::Relaxed);
            if let Pings::Vanish = fate {
                continue;
            }
        }
        to.write_all(&head).await?;
        to.write_all(&payload).await?;
    }
}
