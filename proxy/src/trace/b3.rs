//! B3, as one header and as several (openzipkin/b3-propagation).
//!
//! ```text
//! b3: TRACEID-SPANID[-SAMPLED[-PARENTSPANID]]   or SAMPLED alone; SAMPLED is 1, 0 or d
//! x-b3-traceid, x-b3-spanid, x-b3-parentspanid, x-b3-sampled: 1 or 0, x-b3-flags: 1
//! ```
//!
//! A trace's id has 32 digits or 16. Without a word on sampling the decision is left to the next, which may be us.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::trace::hex;
use crate::trace::parent::{Parent, unlisted};

pub(crate) const B3: HeaderName = HeaderName::from_static("b3");
pub(crate) const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
pub(crate) const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
pub(crate) const PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub(crate) const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub(crate) const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What B3 headers say. Not both parts are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) parent: Option<Parent>,
    pub(crate) decision: Option<Decision>,
}

/// What was decided about recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Deny,
    Accept,
    /// Accept, whatever samplers say.
    Debug,
}

/// Reads `b3`.
pub(crate) fn read_single(headers: &HeaderMap) -> Option<Said> {
    parse(only(headers, &B3)?)
}

fn parse(value: &[u8]) -> Option<Said> {
    if let Some(decision) = decision(value) {
        return Some(Said { parent: None, decision: Some(decision) });
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let parent = parent(trace, span)?;
    let decision = match parts.next() {
        None => None,
        Some(part) => Some(decision(part)?),
    };
    if parts.next().is_some_and(|id| hex::read_id(id, 16).is_none()) || parts.next().is_some() {
        return None;
    }
    Some(Said { parent: Some(parent), decision })
}

/// Reads `x-b3-*`. A word on sampling counts beside ids that cannot be read, too.
pub(crate) fn read_multi(headers: &HeaderMap) -> Option<Said> {
    let debug = only(headers, &FLAGS) == Some(b"1");
    let decision = match only(headers, &SAMPLED) {
        _ if debug => Some(Decision::Debug),
        Some(b"1" | b"true") => Some(Decision::Accept),
        Some(b"0" | b"false") => Some(Decision::Deny),
        _ => None,
    };
    let parent = match (only(headers, &TRACE_ID), only(headers, &SPAN_ID)) {
        (Some(trace), Some(span)) => parent(trace, span),
        _ => None,
    };
    (parent.is_some() || decision.is_some()).then_some(Said { parent, decision })
}

/// Writes `b3`; `grandparent` is the span that the parent's own parent was, 0 if it had none.
pub(crate) fn write_single(headers: &mut HeaderMap, parent: &Parent, decision: Decision, grandparent: u64) {
    let mut text = Vec::with_capacity(68);
    push(&mut text, parent.trace, parent.trace_digits());
    text.push(b'-');
    push(&mut text, u128::from(parent.span), 16);
    text.extend_from_slice(match decision {
        Decision::Deny => b"-0",
        Decision::Accept => b"-1",
        Decision::Debug => b"-d",
    });
    if grandparent != 0 {
        text.push(b'-');
        push(&mut text, u128::from(grandparent), 16);
    }
    insert(headers, B3, &text);
}

/// Writes `x-b3-*`, as [`write_single`].
pub(crate) fn write_multi(headers: &mut HeaderMap, parent: &Parent, decision: Decision, grandparent: u64) {
    remove_multi(headers);
    let mut text = Vec::with_capacity(32);
    push(&mut text, parent.trace, parent.trace_digits());
    insert(headers, TRACE_ID, &text);
    text.clear();
    push(&mut text, u128::from(parent.span), 16);
    insert(headers, SPAN_ID, &text);
    if grandparent != 0 {
        text.clear();
        push(&mut text, u128::from(grandparent), 16);
        insert(headers, PARENT_SPAN_ID, &text);
    }
    match decision {
        Decision::Deny => headers.insert(SAMPLED, HeaderValue::from_static("0")),
        Decision::Accept => headers.insert(SAMPLED, HeaderValue::from_static("1")),
        Decision::Debug => headers.insert(FLAGS, HeaderValue::from_static("1")),
    };
}

/// Takes off what was read as nothing.
pub(crate) fn remove_multi(headers: &mut HeaderMap) {
    for name in [TRACE_ID, SPAN_ID, PARENT_SPAN_ID, SAMPLED, FLAGS] {
        headers.remove(name);
    }
}

fn decision(part: &[u8]) -> Option<Decision> {
    match part {
        b"0" => Some(Decision::Deny),
        b"1" => Some(Decision::Accept),
        b"d" => Some(Decision::Debug),
        _ => None,
    }
}

fn parent(trace: &[u8], span: &[u8]) -> Option<Parent> {
    let short = trace.len() == 16;
    let trace = hex::read_id(trace, if short { 16 } else { 32 })?;
    Some(Parent { trace, span: hex::read_id(span, 16)? as u64, short, random: false })
}

/// The value of a header that stands there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

fn push(text: &mut Vec<u8>, number: u128, digits: usize) {
    let from = text.len();
    text.resize(from + digits, 0);
    hex::write(&mut text[from..], number);
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(text) {
        headers.insert(name, unlisted(value));
    }
}
