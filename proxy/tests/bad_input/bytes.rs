//! Bytes that are no HTTP/2, or no TLS where TLS is asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench::raw::PREFACE;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::neighbour::Neighbour;
use crate::wire::Wire;
use crate::{HANDSHAKES, Plain, REFUSED, Strict, counts};

/// A neighbour who has said nothing for as long as `detection_timeout` is not taken for a caller any more, and one whose
/// handshake is not over in time is sent away: both long enough for a loaded machine.
const LIMITS: &str = "limits: {handshake_timeout: 5s, detection_timeout: 4s}";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections whose bytes pass as they are.
const TUNNELS: &str = "outrigger_tunnels_total";
/// How much later than that a closed socket is seen at the latest.
const SLACK: Duration = Duration::from_secs(20);

/// By which counter a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Handshake(&'static str),
    Limit(&'static str),
    /// It is not refused: its bytes pass as they are, and the app makes of them what it will.
    Passed,
}

/// What a stranger does after its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Leaves,
    Waits,
}

#[derive(Clone)]
struct Stranger {
    what: &'static str,
    bytes: Vec<u8>,
    then: Then,
    by: By,
}

fn stranger(what: &'static str, bytes: &[u8], then: Then, by: By) -> Stranger {
    Stranger { what, bytes: bytes.to_vec(), then, by }
}

#[tokio::test]
async fn what_is_not_mutual_tls_is_closed_and_counted_by_its_reason() {
    use By::{Handshake, Limit};
    use Then::{Leaves, Waits};
    let hello = tls_1_2_hello();
    let strangers = [
        stranger("nothing", b"", Leaves, Handshake("closed")),
        stranger("silence", b"", Waits, Limit("handshake_timeout")),
        stranger("garbage", &garbage(0xff), Waits, Handshake("plaintext")),
        stranger("zeroes", &[0; 64], Waits, Handshake("plaintext")),
        stranger("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n", Waits, Handshake("plaintext")),
        stranger("plain HTTP/2", PREFACE, Waits, Handshake("plaintext")),
        stranger("TLS data before a hello", &[23, 3, 3, 0, 1, 0], Waits, Handshake("plaintext")),
        stranger("garbage that begins as TLS", &garbage(22), Waits, Handshake("tls_error")),
        stranger("TLS 1.2", &hello, Waits, Handshake("tls_error")),
        stranger("half a hello", &hello[..40], Waits, Limit("handshake_timeout")),
        stranger("half a hello, and gone", &hello[..40], Leaves, Handshake("closed")),
        stranger("a byte of a hello", &hello[..1], Waits, Limit("handshake_timeout")),
    ];
    let strict = Strict::start(LIMITS).await;
    let neighbour = strict.neighbour().await;
    let expected = meet(strict.callee.inbound(), strangers).await;
    check(&strict.callee, &expected).await;
    println!("{} calls of the neighbour", neighbour.unharmed().await);
    assert!(strict.app.calls().iter().all(|call| call.path == crate::pair::UNARY));
}

#[tokio::test]
async fn what_is_not_http_2_is_closed_and_counted_by_outbound_and_passed_to_the_app_by_plain_inbound() {
    use By::{Handshake, Limit, Passed};
    use Then::{Leaves, Waits};
    let strangers = |inbound: bool| {
        let or = |by| if inbound { Passed } else { by };
        [
            stranger("nothing", b"", Leaves, Handshake("closed")),
            stranger("garbage", &garbage(0xff), Waits, or(Handshake("protocol"))),
            stranger("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n", Waits, or(Handshake("protocol"))),
            stranger(
                "HTTP/1.1 POST",
                b"POST / HTTP/1.1\r\nhost: echo\r\n\r\n",
                Leaves,
                or(Handshake("protocol")),
            ),
            stranger("garbage after CONNECT", b"CONNECT \xff\r\n\r\n", Waits, or(Handshake("protocol"))),
            stranger("TLS", &tls_1_2_hello(), Waits, or(Handshake("tls"))),
            stranger("half a preface", &PREFACE[..11], Waits, Limit("handshake_timeout")),
            stranger("half a preface, and gone", &PREFACE[..11], Leaves, Handshake("closed")),
            stranger(
                "half a preface and garbage",
                &half_a_preface_and_garbage(),
                Waits,
                or(Handshake("protocol")),
            ),
        ]
    };
    let plain = Plain::start(LIMITS).await;
    let neighbours =
        [Neighbour::start(plain.doors()[0], None).await, Neighbour::start(plain.doors()[1], None).await];
    // To plain inbound it may be a client of an app that speaks first.
    let silent = stranger("silence", b"", Waits, Limit("handshake_timeout"));
    let [inbound, outbound] = plain.doors();
    let (mut expected, more) = tokio::join!(
        meet(inbound, strangers(true)),
        meet(outbound, strangers(false).into_iter().chain([silent])),
    );
    for (by, count) in more {
        *expected.entry(by).or_default() += count;
    }
    check(&plain.sidecar, &expected).await;
    for neighbour in neighbours {
        println!("{} calls of a neighbour", neighbour.unharmed().await);
    }
}

/// All of them at once. Each is closed: those that are told apart at once, before the time is over; the others
/// when it is. Returns how many go to which counter.
async fn meet(door: SocketAddr, strangers: impl IntoIterator<Item = Stranger>) -> BTreeMap<By, u64> {
    let mut expected = BTreeMap::new();
    let mut meetings = JoinSet::new();
    for Stranger { what, bytes, then, by } in strangers {
        *expected.entry(by).or_default() += 1;
        meetings.spawn(async move {
            let began = Instant::now();
            let mut wire = Wire::connect(door).await;
            wire.write(&bytes).await;
            if then == Then::Leaves {
                let _ = wire.tcp.shutdown().await;
            }
            let answer = wire.rest(what).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{what}: {answer:?}");
            let took = began.elapsed();
            let timed_out = matches!(by, By::Limit(_));
            assert!(
                took < TIMEOUT + SLACK && (!timed_out || took >= TIMEOUT),
                "{what}: closed after {took:?}"
            );
        });
    }
    while let Some(done) = meetings.join_next().await {
        done.expect("each is closed in time");
    }
    expected
}

async fn check(sidecar: &bench::process::Sidecar, expected: &BTreeMap<By, u64>) {
    for (by, count) in expected {
        match by {
            By::Handshake(reason) => counts(sidecar, HANDSHAKES, &[("reason", reason)], *count).await,
            By::Limit(limit) => counts(sidecar, REFUSED, &[("limit", limit)], *count).await,
            By::Passed => counts(sidecar, TUNNELS, &[("direction", "inbound")], *count).await,
        }
    }
    // Nothing is counted twice.
    let of = |by: fn(&By) -> bool| expected.iter().filter(|(of, _)| by(of)).map(|(_, count)| count).sum();
    counts(sidecar, HANDSHAKES, &[], of(|by| matches!(by, By::Handshake(_)))).await;
    counts(sidecar, REFUSED, &[], of(|by| matches!(by, By::Limit(_)))).await;
}

fn garbage(first: u8) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::once(first).chain((0..2_000).map(|_| random.u8(..))).collect()
}

fn half_a_preface_and_garbage() -> Vec<u8> {
    [&PREFACE[..11], &garbage(1)].concat()
}

/// A ClientHello that offers TLS 1.2 and no `supported_versions` (RFC 5246, 7.4.1.2).
fn tls_1_2_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]);
    // No session; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression.
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // signature_algorithms: ecdsa_secp256r1_sha256; supported_groups: secp256r1.
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23];
    hello.extend_from_slice(&[0, extensions.len() as u8]);
    hello.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend_from_slice(&hello);
    record
}
