//! Connections whose bytes pass as they are, as long as they live: the drain, certificates, limits, memory.

use std::time::{Duration, SystemTime};

use bench::certs::{Leaf, LeafSpec};
use bench::process::Sidecar;
use bench::wait::{soon, until, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::kit::{
    REFUSED, TUNNELS, byte_echo, connect, counts, echoes, noise, none_left, rest_and_end, round_trip,
    sidecar, tunnel,
};
use crate::pair::memory::Memory;
use crate::pair::peer::{self, Peer};
use crate::pair::{ECHO_ID, MIB, SHOPPER_ID, Site, mesh, metric};

const TARGET: &str = "echo.shop:50051";
/// 100 MiB must have passed by then, on the slowest machine.
const TRANSFER: Duration = Duration::from_secs(180);
/// By default two seconds to connect, which a handshake may take on a loaded machine.
const POLICIES: &str = "    ports: [50051]\n    upstream: {connect_timeout: 20s}";

/// Two sidecars with mTLS between them, in front of an app that sends every byte back.
struct Row {
    caller: Sidecar,
    callee: Sidecar,
    _app: Peer,
    _site: Site,
}

impl Row {
    /// `more` is added to the `sidecar.yaml` of the caller's and of the callee's.
    async fn start(caller: &str, callee: &str) -> Self {
        let site = Site::new();
        let leaves = [site.ca.leaf(SHOPPER_ID), site.ca.leaf(ECHO_ID)];
        Self::start_as(site, &leaves, caller, callee).await
    }

    async fn start_as(site: Site, leaves: &[Leaf; 2], caller: &str, callee: &str) -> Self {
        let app = byte_echo().await;
        let callee = site.callee_as(&leaves[1], app.addr, callee, "").await;
        let caller = site.caller_as(&leaves[0], &mesh(&[callee.inbound()], POLICIES), caller).await;
        Self { caller, callee, _app: app, _site: site }
    }

    /// A tunnel through both, on which bytes have gone there and back.
    async fn open(&self) -> TcpStream {
        let mut tcp = tunnel(self.caller.outbound(), TARGET).await;
        assert!(echoes(&mut tcp, b"\0first").await);
        tcp
    }
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_to_end() {
    for callee_goes in [false, true] {
        let Row { mut caller, mut callee, _app, _site } = Row::start("", "").await;
        let (caller_at, callee_at) = (caller.outbound(), callee.inbound());
        let mut tcp = tunnel(caller_at, TARGET).await;
        assert!(echoes(&mut tcp, b"\0first").await);
        let (going, listens) = match callee_goes {
            true => (&mut callee, callee_at),
            false => (&mut caller, caller_at),
        };
        going.term();
        until("nothing new is let in", async || TcpStream::connect(listens).await.is_err()).await;
        assert!(echoes(&mut tcp, &noise(300_000, 1)).await, "what is open goes on");
        assert_eq!(round_trip(tcp, b"the last").await, b"the last");
        let status = soon("the end", going.wait()).await.expect("a status");
        assert!(status.success(), "{status}: {}", going.stderr());
    }
}

#[tokio::test]
async fn at_the_deadline_of_the_drain_both_sides_of_a_tunnel_are_reset() {
    // Plain on both sides, where an end would look clean.
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let app = peer::raw(move |mut tcp| {
        let heard = heard.clone();
        async move {
            let _ = tcp.write_all(b"half of").await;
            let _ = heard.send(rest_and_end(&mut tcp).await);
        }
    })
    .await;
    let site = Site::new();
    let ways = format!(
        "inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: off}}]\noutbound: {{listen: 127.0.0.1:0}}",
        app.addr
    );
    let mut sidecar = sidecar(&site, &ways, &mesh(&[], "")).await;
    let mut inbound = connect(sidecar.inbound()).await;
    inbound.write_all(b"\0half of").await.expect("sent");
    let mut outbound = tunnel(sidecar.outbound(), &app.addr.to_string()).await;
    outbound.write_all(b"\0half of").await.expect("sent");
    for direction in ["inbound", "outbound"] {
        counts(&sidecar, TUNNELS, &[("direction", direction)], 1).await;
    }
    sidecar.term();
    for tcp in [&mut inbound, &mut outbound] {
        assert_eq!(rest_and_end(tcp).await, (b"half of".to_vec(), false));
    }
    for _ in 0..2 {
        let end = soon("an end at the app", hears.recv()).await.expect("an end");
        assert_eq!(end, (b"\0half of".to_vec(), false));
    }
    let status = soon("the end", sidecar.wait()).await.expect("a status");
    assert!(status.success(), "{status}: {}", sidecar.stderr());
}

#[tokio::test]
async fn a_tunnel_ends_in_a_reset_with_the_certificate_of_either_side() {
    for expires in [0, 1] {
        let mut lives = [6, 12, 24].into_iter();
        // The longer ones are for a machine on which a shorter one is over before a tunnel is open.
        let (row, mut tcp, not_after) = loop {
            let life = lives.next().expect("a tunnel within 24 s");
            let not_after = SystemTime::now() + Duration::from_secs(life);
            let site = Site::new();
            let ids = [SHOPPER_ID, ECHO_ID];
            let leaf = |at: usize| match at == expires {
                true => {
                    let uris = vec![ids[at].to_owned()];
                    site.ca.leaf_with(&LeafSpec { uris, not_after, ..LeafSpec::default() })
                }
                false => site.ca.leaf(ids[at]),
            };
            let leaves = [leaf(0), leaf(1)];
            let row = Row::start_as(site, &leaves, "", "").await;
            let mut tcp = tunnel(row.caller.outbound(), TARGET).await;
            let open = tcp.write_all(b"\0first").await.is_ok() && tcp.read_u8().await.is_ok();
            if open && SystemTime::now() + Duration::from_secs(2) < not_after {
                break (row, tcp, not_after);
            }
        };
        let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        let mut bytes = Vec::new();
        let late = left + Duration::from_secs(10);
        let end = within(late, "the end of the tunnel", tcp.read_to_end(&mut bytes)).await;
        assert!(end.is_err(), "no clean end: {bytes:?}");
        // Validity is written in whole seconds.
        let early = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        assert!(early <= Duration::from_secs(1), "{early:?} too early");
        for sidecar in [&row.caller, &row.callee] {
            none_left(sidecar, TUNNELS).await;
            none_left(sidecar, "outrigger_connections").await;
        }
    }
}

#[tokio::test]
async fn tunnels_are_connections_to_the_limit_on_them() {
    let row = Row::start("limits: {connections: 1}", "limits: {connections: 1}").await;
    let first = row.open().await;
    let mut second = connect(row.caller.outbound()).await;
    assert_eq!(rest_and_end(&mut second).await.0, b"");
    counts(&row.caller, REFUSED, &[("limit", "connections")], 1).await;
    // The far ends too, so that plaintext between pods shows.
    for (sidecar, direction, security) in [
        (&row.caller, "outbound", "plain"),
        (&row.caller, "upstream", "mtls"),
        (&row.callee, "inbound", "mtls"),
        (&row.callee, "upstream", "plain"),
    ] {
        let labels = [("direction", direction), ("security", security)];
        assert_eq!(metric(sidecar, "outrigger_connections", &labels).await, 1, "{labels:?}");
    }
    for sidecar in [&row.caller, &row.callee] {
        assert_eq!(metric(sidecar, "outrigger_connections", &[]).await, 2);
    }
    // The callee counts for itself.
    let mut beside = connect(row.callee.inbound()).await;
    assert_eq!(rest_and_end(&mut beside).await.0, b"");
    counts(&row.callee, REFUSED, &[("limit", "connections")], 1).await;

    drop(first);
    for sidecar in [&row.caller, &row.callee] {
        none_left(sidecar, "outrigger_connections").await;
    }
    row.open().await;
}

#[tokio::test]
async fn who_stops_reading_holds_no_more_than_the_buffers_and_nobody_else_up() {
    const PEERS: usize = 20;
    const OFFERED: usize = 4 << 20;
    let row = Row::start("", "").await;
    let mut lively = row.open().await;
    let memory = Memory::watch(&row.caller, &row.callee);
    let bytes: &[u8] = noise(OFFERED, 6).leak();
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut tcp = row.open().await;
        // The app sends all of it back, and nobody reads that: in the end nothing moves.
        let sent = tokio::spawn(async move {
            let _ = tcp.write_all(bytes).await;
            tcp
        });
        peers.push(sent);
    }
    let mut last = 0;
    let passed = async || metric(&row.callee, crate::kit::TUNNEL_BYTES, &[]).await;
    for _ in 0..20 {
        assert!(echoes(&mut lively, &noise(100_000, 7)).await);
        last = passed().await;
    }
    assert!(last > 0);
    // In each tunnel and sidecar two buffers of 16 KiB, and what TLS holds beside them.
    memory.assert_growth_below("20 tunnels that nobody reads", 20 * MIB);
    counts(&row.callee, TUNNELS, &[], PEERS as u64 + 1).await;
    for peer in peers {
        peer.abort();
    }
    drop(lively);
    for sidecar in [&row.caller, &row.callee] {
        none_left(sidecar, TUNNELS).await;
    }
}

#[tokio::test]
async fn a_hundred_megabytes_pass_in_little_memory() {
    const LENGTH: usize = 100 << 20;
    let row = Row::start("", "").await;
    row.open().await;
    let memory = Memory::watch(&row.caller, &row.callee);
    let (mut read, mut write) = row.open().await.into_split();
    let send = async {
        let piece = noise(1 << 20, 8);
        for _ in 0..LENGTH >> 20 {
            write.write_all(&piece).await.expect("sent");
        }
        write.shutdown().await.expect("ended");
    };
    let receive = async {
        let (mut length, mut piece) = (0, vec![0; 1 << 16]);
        loop {
            match read.read(&mut piece).await.expect("no reset") {
                0 => return length,
                count => length += count,
            }
        }
    };
    let ((), received) = within(TRANSFER, "all of it", async { tokio::join!(send, receive) }).await;
    assert_eq!(received, LENGTH);
    memory.assert_growth_below("a tunnel of 100 MiB", 8 * MIB);
}
