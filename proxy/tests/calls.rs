//! What a call may rely on between its app and another: content, metadata, status, cancel, deadline.

mod pair;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use bench::record::CallEnd;
use bench::tls::TlsIdentity;
use bytes::Bytes;
use h2::Reason;

use crate::pair::{
    BIDI, CLIENT_STREAM, ECHO, ECHO_ID, PATIENCE, Pair, SERVER_STREAM, SHOPPER_ID, UNARY, around, peer, soon,
    until,
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn all_four_kinds_bring_their_content_there_and_back() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let mut random = fastrand::Rng::with_seed(1);
    let payloads: Vec<Vec<u8>> = [0, 1, 5, 16_384, 65_531, 300_000, 3 << 20]
        .into_iter()
        .map(|size| (0..size).map(|_| random.u8(..)).collect())
        .collect();
    let total: usize = payloads.iter().map(Vec::len).sum();

    for payload in &payloads {
        let outcome = soon("unary", client.unary(ECHO, UNARY, payload)).await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
        assert!(
            outcome.last.as_deref() == Some(payload.as_slice()),
            "{} bytes are not the same",
            payload.len()
        );
    }

    let mut bidi = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    for payload in &payloads {
        bidi.send(payload).await.expect("sent");
        let echo = soon("bidi", bidi.recv()).await.expect("an echo before the next message");
        assert!(echo == payload, "{} bytes are not the same", payload.len());
    }
    assert!(soon("bidi's end", bidi.finish()).await.is_ok());

    let mut up = client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
    for payload in &payloads {
        up.send(payload).await.expect("sent");
    }
    let outcome = soon("client stream", up.finish()).await;
    assert_eq!(outcome.last.as_deref(), Some(format!("{} {total}", payloads.len()).as_bytes()));

    let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "500").header("x-size", "10007");
    let outcome = soon("server stream", client.unary_with(spec, b"go")).await.expect("a call");
    assert_eq!((outcome.is_ok(), outcome.messages, outcome.bytes), (true, 500, 5_003_500));
    assert!(pair.app.calls().iter().all(|call| call.end == CallEnd::Clean), "{:?}", pair.app.calls());
}

#[tokio::test]
async fn the_end_of_a_request_goes_on_by_itself() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    // END_STREAM on HEADERS, on an empty DATA frame and on the last DATA frame.
    let empty = CallSpec { end_stream: true, ..CallSpec::new(ECHO, CLIENT_STREAM) };
    let call = client.call(empty).await.expect("a call");
    assert_eq!(soon("on HEADERS", call.finish()).await.last.as_deref(), Some(&b"0 0"[..]));
    let mut call = client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
    call.send(b"abc").await.expect("sent");
    call.half_close();
    assert_eq!(soon("on an empty frame", call.recv()).await.as_deref(), Some(&b"1 3"[..]));
    let outcome = soon("on the last frame", client.unary(ECHO, CLIENT_STREAM, b"abc")).await.expect("a call");
    assert_eq!(outcome.last.as_deref(), Some(&b"1 3"[..]));
}

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
    assert!(soon("a call", client.unary_with(spec, b"x")).await.expect("a call").is_ok());
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
async fn every_status_arrives_in_the_place_where_it_was_said() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for code in 0..=17 {
        for (script, in_trailers, messages) in
            [("status", true, 1), ("status-no-message", true, 0), ("trailers-only", false, 0)]
        {
            let script = format!("{script}:{code}");
            let spec = CallSpec::new(ECHO, UNARY).header("x-script", &script);
            let outcome = soon(&script, client.unary_with(spec, b"x")).await.expect("a call");
            let seen = (outcome.grpc_status, outcome.trailers.is_some(), outcome.messages);
            assert_eq!(seen, (Some(code), in_trailers, messages), "{script}: {outcome:?}");
            let message = if code == 0 { "" } else { "as the script says" };
            assert_eq!(outcome.message, message, "{script}");
        }
    }
}

#[tokio::test]
async fn a_cancel_by_the_caller_reaches_the_app_before_and_amid_the_answer() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let hang = CallSpec::new(ECHO, UNARY).header("x-script", "hang").header("x-nonce", "hang");
    let mut before = client.call(hang).await.expect("a call");
    before.send(b"x").await.expect("sent");
    let bidi = CallSpec::new(ECHO, BIDI).header("x-nonce", "bidi");
    let mut amid = client.call(bidi).await.expect("a call");
    amid.send(b"x").await.expect("sent");
    assert!(soon("an echo", amid.recv()).await.is_some());
    let end = |nonce: &str| pair.app.calls_with_nonce(nonce).first().map(|call| (call.messages, call.end));
    until("both calls at the app", async || end("hang") == Some((1, CallEnd::Open))).await;

    before.cancel();
    amid.cancel();
    let cancelled = Some((1, CallEnd::ResetByPeer(Reason::CANCEL)));
    until("the cancel before the answer", async || end("hang") == cancelled).await;
    until("the cancel amid the answer", async || end("bidi") == cancelled).await;
    assert!(soon("another call", client.unary(ECHO, UNARY, b"x")).await.expect("a call").is_ok());
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_calls() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let mut call = client.call(CallSpec::new(ECHO, BIDI).header("x-nonce", "n")).await.expect("a call");
    call.send(b"x").await.expect("sent");
    assert!(soon("an echo", call.recv()).await.is_some());
    client.abort();
    let end = || pair.app.calls_with_nonce("n")[0].end;
    until("the cancel", async || end() == CallEnd::ResetByPeer(Reason::CANCEL)).await;
}

#[tokio::test]
async fn a_reset_by_the_app_becomes_the_status_that_grpc_gives_it_after_all_messages() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for (reason, code) in [
        ("CANCEL", 1),
        ("ENHANCE_YOUR_CALM", 8),
        ("INADEQUATE_SECURITY", 7),
        ("INTERNAL_ERROR", 13),
        ("REFUSED_STREAM", 14),
    ] {
        for after in [0, 1, 7] {
            let script = format!("reset-after:{after}:{reason}");
            let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "50").header("x-size", "9000");
            let spec = spec.header("x-script", &script).header("x-nonce", &script);
            let outcome = soon(&script, client.unary_with(spec, b"x")).await.expect("a call");
            let seen = (outcome.grpc_status, outcome.messages, outcome.clean_end, outcome.cut_in_message);
            assert_eq!(seen, (Some(code), after, true, false), "{script}: {outcome:?}");
            assert!(outcome.trailers.is_some(), "{script}");
            assert_eq!(outcome.trailer("outrigger-unprocessed"), None, "{script}: it had been answered");
            assert_eq!(pair.app.calls_with_nonce(&script).len(), 1, "{script} must not be repeated");
        }
    }
}

#[tokio::test]
async fn a_deadline_travels_as_what_remains_of_it() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", "2M");
    assert!(soon("a call", client.unary_with(spec, b"x")).await.expect("a call").is_ok());
    let call = &pair.app.calls()[0];
    let seen = call.headers["grpc-timeout"].to_str().expect("ASCII");
    let (digits, unit) = seen.split_at(seen.len() - 1);
    let nanos = match unit {
        "u" => 1_000,
        "m" => 1_000_000,
        _ => panic!("{seen}: the finest unit that holds two minutes in eight digits is u or m"),
    };
    let left = Duration::from_nanos(digits.parse::<u64>().expect("digits") * nanos);
    assert!(left < Duration::from_secs(120) && left > Duration::from_secs(120) - PATIENCE, "{seen}");
}

#[tokio::test]
async fn a_deadline_ends_the_call_for_both_sides_before_and_amid_the_answer() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let limit = Duration::from_millis(300);
    for (nonce, path, script) in [("before", UNARY, "hang"), ("amid", BIDI, "status:0")] {
        let spec = CallSpec::new(ECHO, path).header("x-script", script).header("x-nonce", nonce);
        let began = Instant::now();
        let mut call = client.call(spec.header("grpc-timeout", "300m")).await.expect("a call");
        call.send(b"x").await.expect("sent");
        let outcome = soon(nonce, call.receiver.finish()).await;
        assert!(began.elapsed() >= limit, "{nonce}: {:?}", began.elapsed());
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(4), true), "{nonce}: {outcome:?}");
        assert_eq!(outcome.trailers.is_some(), nonce == "amid", "{nonce}: {outcome:?}");
        let end = || pair.app.calls_with_nonce(nonce)[0].end;
        until(nonce, async || end() == CallEnd::ResetByPeer(Reason::CANCEL)).await;
    }
}

#[tokio::test]
async fn a_malformed_deadline_is_internal_and_none_left_is_exceeded() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for (timeout, code) in [
        ("5", 13),
        ("S", 13),
        ("123456789S", 13),
        ("-1S", 13),
        ("1s", 13),
        ("1 S", 13),
        ("0S", 4),
        ("00000000n", 4),
    ] {
        let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", timeout);
        let outcome = soon(timeout, client.unary_with(spec, b"x")).await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(code), "{timeout:?}: {outcome:?}");
    }
    assert_eq!(pair.app.calls().len(), 0, "none of them is for the app");
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
        assert!(soon("a call", client.unary_with(spec, b"x")).await.expect("a call").is_ok());
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
    assert!(soon("a call", client.unary_with(spec, b"x")).await.expect("a call").is_ok());
    assert!(soon("a call", client.unary(ECHO, UNARY, b"x")).await.expect("a call").is_ok());
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
async fn an_unknown_authority_is_unavailable_and_named() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let outcome = soon("a call", client.unary("nobody.shop:80", UNARY, b"x")).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.message.contains("nobody.shop"), "{}", outcome.message);
    let spec = CallSpec::new(ECHO, UNARY).header("host", "other.shop");
    let outcome = soon("a call", client.unary_with(spec, b"x")).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(13), ":authority and host differ: {outcome:?}");
    assert_eq!(pair.app.calls().len(), 0);
}

#[tokio::test]
async fn what_is_not_grpc_is_an_unsupported_media_type() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for kind in ["application/json", "application/grpcx", "text/plain"] {
        let spec = CallSpec::new(ECHO, UNARY).header("content-type", kind);
        let outcome = soon(kind, client.unary_with(spec, b"x")).await.expect("a call");
        assert_eq!((outcome.http_status, outcome.grpc_status), (Some(415), None), "{kind}: {outcome:?}");
    }
    assert_eq!(pair.app.calls().len(), 0);
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
