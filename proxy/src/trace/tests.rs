use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::trace::b3::{self, B3, Decision, FLAGS, PARENT_SPAN_ID, SAMPLED, SPAN_ID, TRACE_ID};
use crate::trace::context::{Formats, Incoming, Span, continue_or_begin};
use crate::trace::hex;
use crate::trace::w3c::{self, TRACEPARENT, TRACESTATE};

const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SHORT: &str = "a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const W3C: Formats = Formats { w3c: true, b3: false, b3multi: false };

fn map(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// What goes on of a call that nobody here records.
fn after(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = map(pairs);
    continue_or_begin(&mut headers, W3C, &mut fastrand::Rng::with_seed(1));
    headers
}

/// What goes on of a call about which the sampler says `record`, and our span.
fn settled(pairs: &[(HeaderName, &str)], propagate: Formats, record: bool) -> (HeaderMap, Span) {
    let mut headers = map(pairs);
    let incoming = Incoming::read(&headers);
    let span = Span::settle(&incoming, propagate, &mut fastrand::Rng::with_seed(2), |_| record);
    span.write(&mut headers);
    (headers, span)
}

/// Whether a header is kept out of HPACK's table.
fn is_unlisted(headers: &HeaderMap, name: HeaderName) -> bool {
    headers[name].is_sensitive()
}

fn ours(span: &Span) -> String {
    hex::span(span.here.unwrap().span)
}

#[test]
fn a_valid_parent_and_its_state_pass_through() {
    for headers in [
        after(&[(TRACEPARENT, VALID), (TRACESTATE, "a=1")]),
        settled(&[(TRACEPARENT, VALID), (TRACESTATE, "a=1")], W3C, false).0,
    ] {
        assert_eq!(headers[TRACEPARENT], VALID);
        assert_eq!(headers[TRACESTATE], "a=1");
        assert!(is_unlisted(&headers, TRACEPARENT));
    }
}

#[test]
fn a_call_without_a_parent_begins_a_valid_trace_that_is_not_sampled() {
    for headers in [after(&[]), settled(&[], W3C, false).0] {
        let (_, sampled) = w3c::read(&headers).unwrap();
        assert!(!sampled);
        assert_eq!(headers.len(), 1);
    }
}

#[test]
fn an_invalid_parent_is_replaced_and_its_state_dropped() {
    for bad in [
        "",
        "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
    ] {
        let given = [(TRACEPARENT, bad), (TRACESTATE, "a=1")];
        for headers in [after(&given), settled(&given, W3C, false).0, settled(&given, W3C, true).0] {
            assert!(w3c::is_there(&headers), "{bad}");
            assert_ne!(headers[TRACEPARENT], bad);
            assert!(!headers.contains_key(TRACESTATE));
        }
    }
    assert_eq!(after(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID)]).get_all(TRACEPARENT).iter().count(), 1);
}

#[test]
fn a_later_version_may_be_longer() {
    let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
    assert_eq!(after(&[(TRACEPARENT, later)])[TRACEPARENT], later);
    assert!(Incoming::read(&map(&[(TRACEPARENT, later)])).parent.is_some());
}

#[test]
fn a_call_with_b3_alone_gets_no_second_parent() {
    let single = format!("{TRACE}-{CALLER}-0");
    for given in [
        vec![(B3, single.as_str())],
        vec![(B3, "0")],
        vec![(TRACE_ID, TRACE), (SPAN_ID, CALLER)],
        vec![(SAMPLED, "0")],
    ] {
        assert_eq!(after(&given), map(&given));
        assert_eq!(settled(&given, W3C, false).0, map(&given));
    }
    let beside = [(B3, single.as_str()), (TRACEPARENT, "nonsense"), (TRACESTATE, "a=1")];
    for headers in [after(&beside), settled(&beside, W3C, false).0] {
        assert_eq!(headers, map(&[(B3, &single)]));
        assert!(is_unlisted(&headers, B3));
    }
}

#[test]
fn whether_a_call_is_logged_makes_no_difference_to_what_goes_on() {
    // A logged call that is not recorded goes by `Span::write`, any other by `continue_or_begin`.
    let single = format!("{TRACE}-{CALLER}");
    for given in [
        vec![(TRACEPARENT, VALID), (B3, single.as_str())],
        vec![(TRACEPARENT, "nonsense"), (TRACESTATE, "a=1"), (B3, &single)],
        vec![(TRACEPARENT, "nonsense"), (TRACESTATE, "a=1"), (SAMPLED, "0")],
        vec![(TRACEPARENT, "nonsense"), (TRACESTATE, "a=1")],
        vec![(TRACE_ID, TRACE), (SPAN_ID, CALLER)],
        vec![],
    ] {
        for propagate in [W3C, Formats::default()] {
            let logged = settled(&given, propagate, false).0;
            let mut plain = map(&given);
            continue_or_begin(&mut plain, propagate, &mut fastrand::Rng::with_seed(2));
            assert_eq!(logged, plain, "{given:?} {propagate:?}");
            for (name, value) in &logged {
                assert_eq!(value.is_sensitive(), plain[name].is_sensitive(), "{name} of {given:?}");
            }
        }
    }
}

#[test]
fn who_propagates_nothing_leaves_a_call_without_a_trace_and_lets_one_with_a_trace_keep_it() {
    for record in [false, true] {
        let (headers, span) = settled(&[("x-other".parse().unwrap(), "1")], Formats::default(), record);
        assert_eq!(headers.len(), 1);
        assert_eq!(span.here.is_some(), record, "only a span that somebody has is told of");
    }
    assert_eq!(settled(&[(TRACEPARENT, VALID)], Formats::default(), false).0[TRACEPARENT], VALID);
    let (headers, span) = settled(&[(TRACEPARENT, VALID)], Formats::default(), true);
    assert_eq!(headers[TRACEPARENT], format!("00-{TRACE}-{}-01", ours(&span)).as_str());
}

#[test]
fn a_word_on_sampling_counts_beside_ids_that_cannot_be_read() {
    let said = |more: (HeaderName, &str)| {
        Incoming::read(&map(&[(TRACE_ID, "nonsense"), (SPAN_ID, CALLER), more])).decision
    };
    assert_eq!(said((SAMPLED, "0")), Some(Decision::Deny));
    assert_eq!(said((SAMPLED, "1")), Some(Decision::Accept));
    assert_eq!(said((FLAGS, "1")), Some(Decision::Debug));
    let (headers, span) = settled(&[(TRACE_ID, "nonsense"), (SPAN_ID, CALLER), (FLAGS, "1")], W3C, true);
    let told = b3::read_multi(&headers).unwrap();
    assert_eq!((told.parent, told.decision), (span.here, Some(Decision::Debug)));
    assert!(span.begins() && span.parent == 0);
}

#[test]
fn b3_that_cannot_be_read_begins_a_trace() {
    for bad in [
        "",
        "2",
        "x",
        "-",
        "1-",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-1",
        "4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-1",
        "00000000000000000000000000000000-00f067aa0ba902b7-1",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-2",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b9",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90-1",
        "4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
    ] {
        let headers = after(&[(B3, bad)]);
        assert!(w3c::is_there(&headers), "{bad}");
        assert!(!headers.contains_key(B3), "{bad}");
    }
    for bad in [(TRACE_ID, "xyz"), (SPAN_ID, "1"), (TRACE_ID, "0000000000000000")] {
        let mut given = vec![(TRACE_ID, TRACE), (SPAN_ID, CALLER)];
        given.retain(|(name, _)| *name != bad.0);
        given.push(bad.clone());
        let headers = after(&given);
        assert!(w3c::is_there(&headers) && headers.len() == 1, "{bad:?} {headers:?}");
    }
}

#[test]
fn a_recorded_call_goes_on_under_our_span_in_the_headers_that_it_came_in() {
    let (headers, span) = settled(&[(TRACEPARENT, VALID), (TRACESTATE, "a=1")], W3C, true);
    assert_eq!(headers[TRACEPARENT], format!("00-{TRACE}-{}-01", ours(&span)).as_str());
    assert_eq!(headers[TRACESTATE], "a=1");
    assert_eq!((hex::span(span.parent).as_str(), span.recorded), (CALLER, true));

    let single = format!("{TRACE}-{CALLER}-1-05e3ac9a4f6e3b90");
    let (headers, span) = settled(&[(B3, &single)], W3C, true);
    assert_eq!(headers[B3], format!("{TRACE}-{}-1-{CALLER}", ours(&span)).as_str());
    assert_eq!((headers.len(), hex::span(span.parent).as_str()), (1, CALLER));

    let multi = [(TRACE_ID, TRACE), (SPAN_ID, CALLER), (PARENT_SPAN_ID, "05e3ac9a4f6e3b90"), (SAMPLED, "1")];
    let (headers, span) = settled(&multi, W3C, true);
    assert_eq!(headers[TRACE_ID], TRACE);
    assert_eq!(headers[SPAN_ID], ours(&span).as_str());
    assert_eq!(
        (&headers[PARENT_SPAN_ID], &headers[SAMPLED]),
        (&CALLER.parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(headers.len(), 4);
}

#[test]
fn a_trace_of_64_bits_keeps_its_width_and_is_filled_with_zeros_elsewhere() {
    let single = format!("{SHORT}-{CALLER}");
    let (headers, span) = settled(&[(B3, &single)], W3C, true);
    assert_eq!(headers[B3], format!("{SHORT}-{}-1-{CALLER}", ours(&span)).as_str());
    assert_eq!(hex::trace(span.here.unwrap().trace), format!("{:0>32}", SHORT));
}

#[test]
fn where_headers_disagree_w3c_counts_and_all_say_the_same_afterwards() {
    let other = format!("{SHORT}-05e3ac9a4f6e3b90-0");
    let given = [(TRACEPARENT, VALID), (B3, other.as_str()), (TRACE_ID, SHORT), (SPAN_ID, CALLER)];
    let (headers, span) = settled(&given, W3C, true);
    assert_eq!(headers[TRACEPARENT], format!("00-{TRACE}-{}-01", ours(&span)).as_str());
    assert_eq!(headers[B3], format!("{TRACE}-{}-1-{CALLER}", ours(&span)).as_str());
    assert_eq!(
        (&headers[TRACE_ID], &headers[SPAN_ID]),
        (&TRACE.parse().unwrap(), &ours(&span).parse().unwrap())
    );
}

#[test]
fn a_decision_alone_is_kept_and_debug_stays_debug() {
    let decision = |pairs: &[(HeaderName, &str)]| Incoming::read(&map(pairs)).decision;
    assert_eq!(decision(&[(B3, "0")]), Some(Decision::Deny));
    assert_eq!(decision(&[(B3, "1")]), Some(Decision::Accept));
    assert_eq!(decision(&[(B3, "d")]), Some(Decision::Debug));
    assert_eq!(decision(&[(SAMPLED, "0")]), Some(Decision::Deny));
    assert_eq!(decision(&[(SAMPLED, "0"), (FLAGS, "1")]), Some(Decision::Debug));
    assert_eq!(decision(&[(TRACE_ID, TRACE), (SPAN_ID, CALLER)]), None);
    assert_eq!(decision(&[(TRACEPARENT, VALID)]), Some(Decision::Accept));

    let (headers, span) = settled(&[(B3, "d")], W3C, true);
    assert_eq!(headers[B3], format!("{}-{}-d", hex::trace(span.here.unwrap().trace), ours(&span)).as_str());
    let (headers, _) = settled(&[(TRACE_ID, TRACE), (SPAN_ID, CALLER), (FLAGS, "1")], W3C, true);
    assert!(headers[FLAGS] == "1" && !headers.contains_key(SAMPLED));
    let (headers, span) = settled(&[(B3, "0")], W3C, false);
    assert!(headers[B3] == "0" && headers.len() == 1 && span.here.is_none());
}

#[test]
fn a_trace_begins_in_the_formats_that_were_asked_for() {
    let all = Formats { w3c: true, b3: true, b3multi: true };
    for record in [false, true] {
        let (headers, span) = settled(&[], all, record);
        let (parent, sampled) = w3c::read(&headers).unwrap();
        assert_eq!(sampled, record);
        let decision = Some(if record { Decision::Accept } else { Decision::Deny });
        for said in [b3::read_single(&headers), b3::read_multi(&headers)] {
            assert_eq!(said.map(|said| (said.parent, said.decision)), Some((Some(parent), decision)));
        }
        assert_eq!((Some(parent), span.parent), (span.here, 0));
    }
    let (headers, span) = settled(&[(TRACESTATE, "a=1")], Formats { b3: true, ..Formats::default() }, false);
    assert!(headers.contains_key(B3) && headers.len() == 1 && span.here.is_some());
    assert!(settled(&[], Formats::default(), true).0.is_empty(), "asked for none");
}

#[test]
fn whatever_comes_is_read_without_fault_and_what_goes_on_can_be_read_again() {
    let mut random = fastrand::Rng::with_seed(11);
    let names = [TRACEPARENT, B3, TRACE_ID, SPAN_ID, PARENT_SPAN_ID, SAMPLED, FLAGS, TRACESTATE];
    let good = [VALID, &format!("{TRACE}-{CALLER}-1"), TRACE, CALLER, SHORT, "1", "0", "d"];
    let all = Formats { w3c: true, b3: true, b3multi: true };
    for round in 0..20_000 {
        let mut headers = HeaderMap::new();
        for _ in 0..random.usize(0..6) {
            let mut value = random.choice(good).unwrap().as_bytes().to_vec();
            for _ in 0..random.usize(0..3) {
                let at = random.usize(0..value.len());
                match random.u8(0..3) {
                    0 => value[at] = random.choice(*b"0af-zA1\xff").unwrap(),
                    1 => value.truncate(at.max(1)),
                    _ => value.insert(at, random.choice(*b"0-f").unwrap()),
                }
            }
            let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
            headers.append(random.choice(names.clone()).unwrap(), value);
        }
        let before = headers.clone();
        let record = random.bool();
        let incoming = Incoming::read(&headers);
        let span = Span::settle(&incoming, all, &mut random, |_| record);
        span.write(&mut headers);
        let again = Incoming::read(&headers);
        if record {
            assert_eq!(again.parent, span.here, "round {round}: {before:?}");
            assert_ne!(again.decision, Some(Decision::Deny), "round {round}: {before:?}");
        } else if incoming.formats.is_none() {
            assert_eq!(again.parent, span.here, "round {round}: {before:?}");
        } else {
            let mut expected = before.clone();
            if !w3c::is_there(&before) {
                w3c::remove(&mut expected);
            }
            assert_eq!(headers, expected, "round {round}");
        }
        let mut passed = before.clone();
        continue_or_begin(&mut passed, all, &mut random);
        assert!(!Incoming::read(&passed).formats.is_none(), "round {round}: {before:?}");
    }
}
