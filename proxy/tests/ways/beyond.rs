//! CONNECT to what is no service of the mesh, and HTTP/1.1 that is no CONNECT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bench::process::Sidecar;
use bench::wait::soon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::kit::{
    HANDSHAKES, OUTBOUND, REFUSED, TUNNEL_BYTES, TUNNELS_TOTAL, answer_head, asked, byte_echo, connect,
    connect_head, counts, echo_bytes, noise, none_left, reset, rest, rest_and_end, round_trip, sidecar,
    tunnel, turned_away,
};
use crate::pair::{Site, mesh};

const PASSTHROUGH: &str = "outbound: {listen: 127.0.0.1:0}";
const LENGTH: u64 = 20_000_000;

/// A sidecar with an outbound listener that is as `ways` says.
async fn outbound(ways: &str) -> (Site, Sidecar) {
    let site = Site::new();
    let sidecar = sidecar(&site, ways, &mesh(&[], "")).await;
    (site, sidecar)
}

/// Where a listener of the test's own listens, on any port.
async fn listener(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

#[tokio::test]
async fn twenty_megabytes_go_both_ways_by_each_kind_of_name() {
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let bytes = noise(LENGTH as usize, 20);
    // Not every host gives `localhost` its address of IPv6.
    let targets = |addr: SocketAddr| match addr {
        SocketAddr::V4(_) => vec![addr.to_string(), format!("localhost:{}", addr.port())],
        SocketAddr::V6(_) => vec![addr.to_string()],
    };
    let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut passed = 0;
    for ip in ips {
        let (listener, addr) = listener(ip).await;
        let app = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(echo_bytes(tcp));
            }
        });
        for target in &targets(addr) {
            let back = round_trip(tunnel(sidecar.outbound(), target).await, &bytes).await;
            assert!(back == bytes, "{target}: {} bytes are not the same", back.len());
            passed += 1;
        }
        app.abort();
        counts(&sidecar, TUNNELS_TOTAL, &OUTBOUND, passed).await;
        counts(&sidecar, TUNNEL_BYTES, &[("way", "received")], passed * LENGTH).await;
        counts(&sidecar, TUNNEL_BYTES, &[("way", "sent")], passed * LENGTH).await;
    }
    none_left(&sidecar, "outrigger_tunnels").await;
    none_left(&sidecar, "outrigger_connections").await;
}

#[tokio::test]
async fn each_side_may_end_before_the_other_has_said_all() {
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let (listener, addr) = listener(Ipv4Addr::LOCALHOST.into()).await;
    let open = async || {
        let near = tunnel(sidecar.outbound(), &addr.to_string()).await;
        (near, soon("a connection", listener.accept()).await.expect("a connection").0)
    };
    let (mut near, mut far) = open().await;
    near.write_all(b"question").await.expect("sent");
    near.shutdown().await.expect("ended");
    assert_eq!(rest(&mut far).await, b"question");
    far.write_all(&noise(300_000, 8)).await.expect("the other way is open");
    drop(far);
    assert!(rest(&mut near).await == noise(300_000, 8));

    let (mut near, mut far) = open().await;
    far.write_all(b"answer").await.expect("sent");
    far.shutdown().await.expect("ended");
    assert_eq!(rest(&mut near).await, b"answer");
    near.write_all(&noise(300_000, 9)).await.expect("the other way is open");
    drop(near);
    assert!(rest(&mut far).await == noise(300_000, 9));
    none_left(&sidecar, "outrigger_tunnels").await;
}

#[tokio::test]
async fn a_break_is_passed_on_as_a_break_and_not_as_an_end() {
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let (listener, addr) = listener(Ipv4Addr::LOCALHOST.into()).await;
    let open = async || {
        let mut near = tunnel(sidecar.outbound(), &addr.to_string()).await;
        let mut far = soon("a connection", listener.accept()).await.expect("a connection").0;
        // The tunnel stands once something has come through.
        near.write_all(b"x").await.expect("sent");
        soon("a byte", far.read_u8()).await.expect("a byte");
        (near, far)
    };
    let (mut near, far) = open().await;
    reset(far);
    assert_eq!(rest_and_end(&mut near).await, (Vec::new(), false));
    let (near, mut far) = open().await;
    reset(near);
    assert_eq!(rest_and_end(&mut far).await, (Vec::new(), false));
    none_left(&sidecar, "outrigger_tunnels").await;
}

#[tokio::test]
async fn unknown_refuse_lets_nothing_pass_that_is_not_of_the_mesh() {
    let app = byte_echo().await;
    let (_site, sidecar) = outbound("outbound: {listen: 127.0.0.1:0, unknown: refuse}").await;
    for target in [app.addr.to_string(), format!("localhost:{}", app.addr.port())] {
        let (status, text) = turned_away(sidecar.outbound(), &target).await;
        assert_eq!(status, 403, "{text}");
        assert!(text.starts_with("outrigger outbound: no service of the mesh answers to `"), "{text}");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "unknown")], 2).await;
    counts(&sidecar, HANDSHAKES, &[], 2).await;
}

#[tokio::test]
async fn what_would_lead_back_to_the_sidecar_is_a_loop() {
    let app = byte_echo().await;
    let inbound = format!("inbound: [{{listen: \"0.0.0.0:0\", app: \"{}\", mtls: off}}]", app.addr);
    let both = "outbound: {listen: 127.0.0.1:0, listen_ipv6: \"[::1]:0\"}";
    let (_site, sidecar) = outbound(&format!("{inbound}\n{both}")).await;
    let (inbound, outbound) = (sidecar.inbound().port(), sidecar.outbound().port());
    let outbound_v6 = sidecar.bound.outbound_ipv6.expect("a second listener");
    let targets = [
        format!("127.0.0.1:{outbound}"),
        format!("localhost:{outbound}"),
        format!("[::ffff:127.0.0.1]:{outbound}"),
        format!("0.0.0.0:{outbound}"),
        outbound_v6.to_string(),
        format!("[::]:{}", outbound_v6.port()),
        format!("127.0.0.1:{inbound}"),
        format!("127.9.9.9:{inbound}"),
        format!("[::ffff:127.9.9.9]:{inbound}"),
        format!("0.0.0.0:{inbound}"),
    ];
    for (target, by) in targets.iter().zip([sidecar.outbound(), outbound_v6].into_iter().cycle()) {
        let (status, text) = turned_away(by, target).await;
        assert_eq!(status, 508, "{target}: {text}");
        assert!(text.ends_with("is this sidecar itself\n"), "{text}");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "loop")], targets.len() as u64).await;
    counts(&sidecar, HANDSHAKES, &[], targets.len() as u64).await;
    counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn where_nobody_listens_is_a_bad_gateway() {
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    // An address of loopback that nobody else takes a port of.
    let (gone, addr) = listener(Ipv4Addr::new(127, 81, 7, 3).into()).await;
    drop(gone);
    let (status, text) = turned_away(sidecar.outbound(), &addr.to_string()).await;
    assert_eq!((status, text), (502, format!("outrigger outbound: `{addr}` could not be reached\n")));
    counts(&sidecar, HANDSHAKES, &[("reason", "unreachable")], 1).await;
    counts(&sidecar, HANDSHAKES, &[], 1).await;
    counts(&sidecar, "outrigger_connect_failures_total", &[], 1).await;
}

#[tokio::test]
async fn a_target_that_is_none_is_a_bad_request() {
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let targets = [
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:http",
        ":80",
        "/path",
        "http://localhost:80/",
        "user@localhost:80",
        "*",
        "a b:80",
        "\u{1}:80",
    ];
    for target in targets {
        let (status, text) = turned_away(sidecar.outbound(), target).await;
        assert_eq!(status, 400, "{target:?}: {text}");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "protocol")], targets.len() as u64).await;
    counts(&sidecar, HANDSHAKES, &[], targets.len() as u64).await;
    counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn another_request_of_http_1_is_told_that_only_connect_is_taken() {
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let requests = [
        "GET / HTTP/1.1\r\nhost: echo.shop\r\n\r\n",
        "GET http://echo.shop/ HTTP/1.1\r\nhost: echo.shop\r\n\r\n",
        "POST /bench.Echo/Unary HTTP/1.1\r\nhost: echo.shop\r\ncontent-length: 0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: echo.shop\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ];
    for request in requests {
        let (status, text) = asked(sidecar.outbound(), request.as_bytes()).await;
        assert_eq!(status, 405, "{request}: {text}");
        assert!(text.contains("speak HTTP/2") && text.ends_with('\n'), "{text}");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "protocol")], requests.len() as u64).await;
    counts(&sidecar, HANDSHAKES, &[], requests.len() as u64).await;
}

#[tokio::test]
async fn a_head_without_end_is_refused_at_sixteen_kibibytes() {
    let app = byte_echo().await;
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let target = app.addr.to_string();
    let with = |length: usize| {
        let head = connect_head(&target);
        format!("{}x-long: {}\r\n\r\n", head.trim_end_matches("\r\n").to_owned() + "\r\n", "x".repeat(length))
    };
    let mut tcp = connect(sidecar.outbound()).await;
    tcp.write_all(with(12_000).as_bytes()).await.expect("sent");
    assert_eq!(answer_head(&mut tcp).await.0, 200, "that much is a head");

    let mut tcp = connect(sidecar.outbound()).await;
    // It is closed before all of it is read, so the answer may be lost to a reset.
    let _ = tcp.write_all(with(1 << 20).as_bytes()).await;
    let (answer, _) = rest_and_end(&mut tcp).await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    counts(&sidecar, HANDSHAKES, &[("reason", "protocol")], 1).await;
    counts(&sidecar, HANDSHAKES, &[], 1).await;
}

#[tokio::test]
async fn a_connect_that_is_not_finished_in_time_is_closed() {
    let (_site, sidecar) = outbound(&format!("{PASSTHROUGH}\nlimits: {{handshake_timeout: 400ms}}")).await;
    for part in ["CONN", "CONNECT ", "CONNECT localhost:80 HTTP/1.1\r\n", "CONNECT a:1 HTTP/1.1\r\nhost: a"] {
        let mut tcp = connect(sidecar.outbound()).await;
        tcp.write_all(part.as_bytes()).await.expect("sent");
        assert_eq!(rest_and_end(&mut tcp).await.0, b"", "{part}");
    }
    counts(&sidecar, REFUSED, &[("limit", "handshake_timeout")], 4).await;
    counts(&sidecar, HANDSHAKES, &[], 0).await;
}

#[tokio::test]
async fn a_connect_with_a_body_is_refused_and_one_with_none_of_it_is_not() {
    let app = byte_echo().await;
    let (_site, sidecar) = outbound(PASSTHROUGH).await;
    let target = app.addr;
    let with =
        |field: &str| format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{field}\r\n\r\n5\r\nhello");
    for field in ["content-length: 5", "transfer-encoding: chunked"] {
        let (status, text) = asked(sidecar.outbound(), with(field).as_bytes()).await;
        assert_eq!(status, 400, "{field}: {text}");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "protocol")], 2).await;
    // It has none, and says so.
    let mut tcp = connect(sidecar.outbound()).await;
    tcp.write_all(with("content-length: 0").as_bytes()).await.expect("sent");
    assert_eq!(answer_head(&mut tcp).await.0, 200);
    tcp.shutdown().await.expect("ended");
    assert_eq!(rest(&mut tcp).await, b"5\r\nhello");
}
