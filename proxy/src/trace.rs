//! W3C trace context: a valid `traceparent` passes through as it came; a call without one gets a new one.
//!
//! The sidecar does not record spans, and the standard (Trace Context, section 3.4) asks one that does not
//! record to leave the parent id alone: a parent that nobody exports would tear the caller's trace apart.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Continues or begins the trace of a call; `random` is drawn upon only when one begins.
pub(crate) fn continue_or_begin(headers: &mut HeaderMap, random: &mut fastrand::Rng) {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (values.next(), values.next());
    if first.is_some_and(|value| second.is_none() && is_valid(value.as_bytes())) {
        return headers.get_mut(TRACEPARENT).map_or((), unlisted);
    }
    // Without a parent that can be trusted, a state has nothing to belong to (section 3.3).
    headers.remove(TRACESTATE);
    let mut value = begin(random.u128(1..), random.u64(1..));
    unlisted(&mut value);
    headers.insert(TRACEPARENT, value);
}

/// Keeps a value that differs from call to call out of HPACK's table, where it would drive others out and
/// every call would look through it (RFC 7541, section 6.2.3).
fn unlisted(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// A new trace, not sampled: nobody here records it.
fn begin(trace: u128, parent: u64) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[3..35], trace);
    write_hex(&mut text[36..52], u128::from(parent));
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

fn write_hex(out: &mut [u8], mut number: u128) {
    for byte in out.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// `version-traceid-parentid-flags`: lower-case hex, no id of zeros, version ff forbidden, version 00 of
/// exactly this length and later ones of at least it (section 3.2).
fn is_valid(value: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        value[range].iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    };
    let zeros = |range: std::ops::Range<usize>| value[range].iter().all(|b| *b == b'0');
    if value.len() < 55 || [2, 35, 52].iter().any(|dash| value[*dash] != b'-') {
        return false;
    }
    if &value[..2] == b"00" && value.len() != 55 || value.len() > 55 && value[55] != b'-' {
        return false;
    }
    &value[..2] != b"ff"
        && hex(0..2)
        && hex(3..35)
        && hex(36..52)
        && hex(53..55)
        && !zeros(3..35)
        && !zeros(36..52)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn after(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        continue_or_begin(&mut headers, &mut fastrand::Rng::with_seed(1));
        headers
    }

    #[test]
    fn a_valid_parent_and_its_state_pass_through() {
        let headers = after(&[(TRACEPARENT, VALID), (TRACESTATE, "a=1")]);
        assert_eq!(headers[TRACEPARENT], VALID);
        assert_eq!(headers[TRACESTATE], "a=1");
    }

    #[test]
    fn a_call_without_a_parent_begins_a_valid_trace() {
        let headers = after(&[]);
        assert!(is_valid(headers[TRACEPARENT].as_bytes()));
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
        ] {
            let headers = after(&[(TRACEPARENT, bad), (TRACESTATE, "a=1")]);
            assert!(is_valid(headers[TRACEPARENT].as_bytes()), "{bad}");
            assert_ne!(headers[TRACEPARENT], bad);
            assert!(!headers.contains_key(TRACESTATE));
        }
        assert_eq!(
            after(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID)]).get_all(TRACEPARENT).iter().count(),
            1
        );
    }

    #[test]
    fn a_later_version_may_be_longer() {
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert_eq!(after(&[(TRACEPARENT, later)])[TRACEPARENT], later);
    }
}
