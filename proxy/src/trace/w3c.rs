//! `traceparent`: `version-traceid-parentid-flags` (W3C Trace Context, section 3.2).

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::trace::hex;
use crate::trace::parent::{Parent, unlisted};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flags that are known: sampled, and that the trace's id is random (level 2).
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// Whether there is one `traceparent`, and it is valid; more than one is none.
pub(crate) fn is_there(headers: &HeaderMap) -> bool {
    only(headers).is_some_and(|value| is_valid(value.as_bytes()))
}

/// Reads the one `traceparent`, and whether the caller records the call.
pub(crate) fn read(headers: &HeaderMap) -> Option<(Parent, bool)> {
    let value = only(headers).map(HeaderValue::as_bytes).filter(|value| is_valid(value))?;
    let (trace, span) = (hex::read(&value[3..35])?, hex::read(&value[36..52])? as u64);
    let flags = hex::read(&value[53..55])? as u8;
    Some((Parent { trace, span, short: false, random: flags & RANDOM != 0 }, flags & SAMPLED != 0))
}

fn only(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (values.next()?, values.next());
    second.is_none().then_some(first)
}

/// Lower-case hex, no id of zeros, version ff forbidden, version 00 of exactly this length and later ones of at
/// least it. Only looks: almost every call passes by here.
fn is_valid(value: &[u8]) -> bool {
    // To the end each time, which is faster than to look whether to go on.
    let hex = |range: std::ops::Range<usize>| {
        value[range].iter().fold(true, |good, b| good & (b.is_ascii_digit() | matches!(b, b'a'..=b'f')))
    };
    let zeros = |range: std::ops::Range<usize>| value[range].iter().fold(0, |all, b| all | (b ^ b'0')) == 0;
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

/// Writes `traceparent`, in place of any that is there.
pub(crate) fn write(headers: &mut HeaderMap, parent: &Parent, sampled: bool) {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex::write(&mut text[3..35], parent.trace);
    hex::write(&mut text[36..52], u128::from(parent.span));
    let flags = if sampled { SAMPLED } else { 0 } | if parent.random { RANDOM } else { 0 };
    hex::write(&mut text[53..55], u128::from(flags));
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, unlisted(value));
    }
}

/// Takes off what was read as no parent. A state has nothing to belong to then (section 3.3).
pub(crate) fn remove(headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
}
