//! What the header lists of a call carry over both sidecars, and what the sidecars write into them.

mod pair;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use bench::tls::TlsIdentity;
use bench::wait::soon;
use bytes::Bytes;
use h2::Reason;

use crate::pair::{ECHO, ECHO_ID, Pair, SHOPPER_ID, UNARY, around, peer, well};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn headers_of_the_request_reach_the_app_untouched() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let sent = [
        ("x-blob-bin", "AAECAwT//g"),
        ("x-blob-bin", "c2Vjb25k"),
        ("grpc-encoding", "gzip"),
        ("grpc-accept-encoding", "identity,deflate,gzip"),
        ("content-type", "application/grpc+proto"),
        ("user-agent", "grpc-c++/1.0"),
        ("authorization", "Bearer abc"),
        ("x-many", "one"),
        ("x-many", "two, three"),
    ];
    let spec = CallSpec { headers: sent.to_vec(), ..CallSpec::new(ECHO, UNARY) };
    well(soon("a call", client.unary_with(spec, b"x")).await);
    let call = &pair.app.calls()[0];
    assert_eq!((call.path.as_str(), call.authority.as_str()), (UNARY, ECHO));
    for name in
        ["x-blob-bin", "grpc-encoding", "grpc-accept-encoding", "content-type", "user-agent", "x-many"]
    {
        let want: Vec<&str> = sent.iter().filter(|(of, _)| *of == name).map(|(_, value)| *value).collect();
        let got: Vec<_> =
            call.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
        assert_eq!(got, want, "{name}");
    }
    assert_eq!(call.headers["authorization"], "Bearer abc");
    assert_eq!(call.headers["te"], "trailers");
}

#[tokio::test]
async fn headers_and_trailers_of_the_answer_reach_the_caller_untouched() {
    let details = STANDARD.encode(b"\x08\x05\x12\x04gone\xff\x00\x01");
    let fields = [("x-top-bin", "3q2+7w"), ("x-two", "a"), ("x-two", "b"), ("grpc-encoding", "br")];
    let trailing = [
        ("grpc-status", "5"),
        ("grpc-message", "50%25 of %C3%A9%0A gone"),
        ("grpc-status-details-bin", details.as_str()),
        ("x-end-bin", "AP8"),
    ];
    let trailers = peer::headers(&trailing);
    let want = trailers.clone();
    let app = peer::app(None, move |mut request, mut respond| {
        let trailers = trailers.clone();
        async move {
            peer::drain(request.body_mut()).await;
            let mut stream = respond.send_response(peer::head(&fields), false).expect("a head");
            // The flag byte says compressed; the content is nobody's business on the way.
            stream.send_data(Bytes::from_static(b"\x01\0\0\0\x03\xff\xfe\xfd"), false).expect("a message");
            stream.send_trailers(trailers).expect("trailers");
        }
    })
    .await;
    let (_site, _callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let outcome = soon("a call", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
    assert_eq!(outcome.last.as_deref(), Some(&b"\xff\xfe\xfd"[..]));
    assert_eq!(outcome.trailers.as_ref(), Some(&want));
    for (name, _) in fields {
        let of = |all: &http::HeaderMap| all.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(of(&outcome.headers), of(&peer::headers(&fields)), "{name}");
    }
}

#[tokio::test]
async fn a_trailers_only_answer_stays_one_byte_for_byte() {
    let details = STANDARD_NO_PAD.encode(b"\x08\x07\x12\x02no");
    let app = {
        let details = details.clone();
        peer::app(None, move |_request, mut respond| {
            let details = details.clone();
            async move {
                let fields = [
                    ("grpc-status", "7"),
                    ("grpc-message", "%zz 100%"),
                    ("grpc-status-details-bin", &details),
                ];
                respond.send_response(peer::head(&fields), true).expect("a head");
            }
        })
        .await
    };
    let (_site, _callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let outcome = soon("a call", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
    assert_eq!((outcome.grpc_status, outcome.trailers.as_ref()), (Some(7), None));
    assert!(outcome.clean_end || outcome.reset == Some(Reason::NO_ERROR), "{outcome:?}");
    assert_eq!(outcome.headers["grpc-message"], "%zz 100%");
    assert_eq!(outcome.headers["grpc-status-details-bin"], details.as_str());
}

#[tokio::test]
async fn the_app_learns_who_calls_from_the_sidecar_alone() {
    let pair = Pair::start().await;
    let forged = format!("By={ECHO_ID};Hash=00;URI=spiffe://cluster.local/ns/shop/sa/admin");
    // Once by our own app, once by a peer of the mesh that speaks to the callee's sidecar itself.
    let leaf = pair.site.ca.leaf(SHOPPER_ID);
    let mutual = TlsIdentity::mutual(&leaf, pair.site.ca.bundle_pem());
    let direct = Client::connect(pair.callee.inbound(), Some(mutual)).await.expect("a mesh connection");
    for client in [pair.client().await, direct] {
        pair.app.clear();
        let spec = CallSpec::new(ECHO, UNARY).header("x-forwarded-client-cert", &forged);
        let spec = spec.header("x-forwarded-client-cert", "Hash=11");
        well(soon("a call", client.unary_with(spec, b"x")).await);
        let call = &pair.app.calls()[0];
        let values: Vec<_> = call.headers.get_all("x-forwarded-client-cert").iter().collect();
        assert_eq!(values.len(), 1, "{values:?}");
        let parts: Vec<&str> = values[0].to_str().expect("ASCII").split(';').collect();
        let [by, hash, uri] = parts[..] else { panic!("{parts:?}: not By, Hash and URI") };
        assert_eq!((by, uri), (&*format!("By={ECHO_ID}"), &*format!("URI={SHOPPER_ID}")));
        let hex = hash.strip_prefix("Hash=").expect("a hash");
        assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hex}");
    }
}

#[tokio::test]
async fn a_trace_is_continued_or_begun() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let spec = CallSpec::new(ECHO, UNARY).header("traceparent", TRACEPARENT).header("tracestate", "a=1,b=2");
    well(soon("a call", client.unary_with(spec, b"x")).await);
    well(soon("a call", client.unary(ECHO, UNARY, b"x")).await);
    let [continued, begun] = &pair.app.calls()[..] else { panic!("two calls") };
    assert_eq!(continued.headers["traceparent"], TRACEPARENT);
    assert_eq!(continued.headers["tracestate"], "a=1,b=2");
    let parent = begun.headers["traceparent"].to_str().expect("ASCII");
    let lengths: Vec<usize> = parent.split('-').map(str::len).collect();
    assert_eq!(lengths, [2, 32, 16, 2], "{parent}");
    assert_ne!(&parent[3..35], &"0".repeat(32));
}

#[tokio::test]
async fn the_mark_of_an_unprocessed_call_is_no_app_s_to_set_nor_to_see() {
    let app = peer::app(None, |request, mut respond| async move {
        let mark = ("outrigger-unprocessed", "1");
        match request.headers()["x-where"].to_str() {
            Ok("only") => drop(respond.send_response(peer::head(&[("grpc-status", "14"), mark]), true)),
            _ => {
                let mut stream = respond.send_response(peer::head(&[mark]), false).expect("a head");
                let _ = stream.send_trailers(peer::headers(&[("grpc-status", "14"), mark]));
            }
        }
    })
    .await;
    let (_site, _callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    for place in ["only", "amid"] {
        let spec = CallSpec::new(ECHO, UNARY).header("x-where", place);
        let outcome = soon(place, client.unary_with(spec, b"x")).await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(14), "{place}: {outcome:?}");
        for fields in [Some(&outcome.headers), outcome.trailers.as_ref()].into_iter().flatten() {
            assert!(!fields.contains_key("outrigger-unprocessed"), "{place}: {outcome:?}");
        }
    }
    let attempts = pair::metric(&caller, "outrigger_attempts_total", &[("service", ECHO)]).await;
    assert_eq!(attempts, 2, "the app's word is no reason to repeat a call");
}

#[tokio::test]
async fn a_failure_of_ours_says_hop_phase_endpoint_and_attempts() {
    let mut pair = Pair::start().await;
    let client = pair.client().await;
    let app = pair.app.addr.to_string();
    let callee = pair.callee.inbound().to_string();

    let spec = CallSpec::new(ECHO, UNARY).header("x-script", "reset:INTERNAL_ERROR");
    let outcome = soon("a reset", client.unary_with(spec, b"x")).await.expect("a call");
    let want = [("hop", "inbound"), ("phase", "response"), ("endpoint", &app), ("attempts", "1")];
    assert_details(&outcome, 13, "ENDPOINT_RESET", &want);

    let spec = CallSpec::new(ECHO, UNARY).header("x-script", "hang").header("grpc-timeout", "100m");
    let outcome = soon("a deadline", client.unary_with(spec, b"x")).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");

    pair.app.kill().await;
    let outcome = soon("no app", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
    let want = [("hop", "outbound"), ("phase", "response"), ("endpoint", &callee), ("attempts", "2")];
    assert_details(&outcome, 14, "REFUSED", &want);

    pair.callee.kill();
    pair.callee.wait().await.expect("its end");
    // The first call may still be placed on the connection that dies; from then on nobody is there.
    let mut outcome = soon("no sidecar", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
    if !outcome.message.contains("phase connect") {
        outcome = soon("no sidecar", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
    }
    let want = [("hop", "outbound"), ("phase", "connect"), ("endpoint", &callee), ("attempts", "1")];
    assert_details(&outcome, 14, "NEVER_SENT", &want);
}

fn assert_details(outcome: &Outcome, code: i32, reason: &str, metadata: &[(&str, &str)]) {
    assert_eq!(outcome.grpc_status, Some(code), "{outcome:?}");
    let text = outcome.trailer("grpc-status-details-bin").expect("details");
    let status = fields(&STANDARD_NO_PAD.decode(text).expect("base64 without padding"));
    assert_eq!(status[1].1, outcome.message.as_bytes(), "both tell the same");
    let any = fields(&status[2].1);
    assert_eq!(any[0].1, b"type.googleapis.com/google.rpc.ErrorInfo");
    let info = fields(&any[1].1);
    assert_eq!(info[0].1, reason.as_bytes(), "{}", outcome.message);
    assert_eq!(info[1].1, b"outrigger");
    let got: Vec<(String, String)> = info[2..]
        .iter()
        .map(|(_, entry)| {
            let pair = fields(entry);
            let text = |at: usize| String::from_utf8(pair[at].1.clone()).expect("UTF-8");
            (text(0), text(1))
        })
        .collect();
    let want: Vec<_> = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    assert_eq!(got, want, "{}", outcome.message);
    assert!(metadata.iter().all(|(_, value)| outcome.message.contains(value)), "{}", outcome.message);
}

/// The fields of a protobuf message, in order; lengths below 16 KiB and varints of one byte are all that
/// occur.
fn fields(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut fields = Vec::new();
    while let [tag, rest @ ..] = bytes {
        match tag & 7 {
            0 => {
                fields.push((tag >> 3, vec![rest[0]]));
                bytes = &rest[1..];
            }
            2 => {
                let (length, skip) = match rest[0] {
                    low @ 0..0x80 => (usize::from(low), 1),
                    low => (usize::from(low & 0x7f) | usize::from(rest[1]) << 7, 2),
                };
                fields.push((tag >> 3, rest[skip..skip + length].to_vec()));
                bytes = &rest[skip + length..];
            }
            other => panic!("wire type {other}"),
        }
    }
    fields
}
