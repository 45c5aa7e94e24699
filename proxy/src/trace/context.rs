//! The trace of a call: what its headers say of it, in W3C trace context or B3, and what goes on.
//!
//! A sidecar that does not record a call leaves the parent that came alone, as the standard asks (Trace Context,
//! section 3.4): a parent that nobody exports would tear the caller's trace apart. One that records it puts its own
//! span there, in the headers that came, or, where a trace begins, in those of `tracing.propagate`.

use config::model::Propagation;
use http::HeaderMap;

use crate::trace::b3::{self, Decision};
use crate::trace::parent::{Parent, set_unlisted};
use crate::trace::w3c;

/// Ways to write a trace into headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Formats {
    pub(crate) w3c: bool,
    pub(crate) b3: bool,
    pub(crate) b3multi: bool,
}

/// What a caller said of its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Incoming {
    /// In which headers something came that can be read.
    pub(crate) formats: Formats,
    pub(crate) parent: Option<Parent>,
    pub(crate) decision: Option<Decision>,
}

/// A call's place in its trace, here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The span that goes on in headers: ours if it is recorded, else what came, or what begins here.
    /// `None`: nobody records the call, and no header names a span.
    pub(crate) here: Option<Parent>,
    /// The caller's span, if this one is recorded and the caller named one; else 0.
    pub(crate) parent: u64,
    /// This sidecar records the call.
    pub(crate) recorded: bool,
    debug: bool,
    /// The headers to write; none: they pass as they came.
    formats: Formats,
    /// The trace begins here.
    begins: bool,
}

impl Formats {
    /// Those of `tracing.propagate`.
    pub(crate) fn of(list: &[Propagation]) -> Self {
        let has = |wanted| list.contains(&wanted);
        Self { w3c: has(Propagation::W3c), b3: has(Propagation::B3), b3multi: has(Propagation::B3Multi) }
    }

    /// Those that names of headers belong to. One look at each name costs less than a search for each that may be there.
    fn told_in(headers: &HeaderMap) -> Self {
        let mut told = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "traceparent" | "tracestate" => told.w3c = true,
                "b3" => told.b3 = true,
                name if name.starts_with("x-b3-") => told.b3multi = true,
                _ => {}
            }
        }
        told
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Incoming {
    /// Reads all headers; where they disagree, W3C counts, then `b3`.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let told = Formats::told_in(headers);
        let mut incoming = Self::default();
        if let Some((parent, sampled)) = told.w3c.then(|| w3c::read(headers)).flatten() {
            incoming.formats.w3c = true;
            incoming.parent = Some(parent);
            incoming.decision = Some(if sampled { Decision::Accept } else { Decision::Deny });
        }
        let single = told.b3.then(|| b3::read_single(headers)).flatten();
        let several = told.b3multi.then(|| b3::read_multi(headers)).flatten();
        for (said, multi) in [(single, false), (several, true)] {
            let Some(said) = said else { continue };
            let first = incoming.formats.is_none();
            if multi {
                incoming.formats.b3multi = true;
            } else {
                incoming.formats.b3 = true;
            }
            if first {
                (incoming.parent, incoming.decision) = (said.parent, said.decision);
            }
        }
        incoming
    }
}

impl Span {
    /// The place of a call of which `incoming` came. `record` is asked about the trace's id; `random` is drawn upon
    /// where an id is needed.
    pub(crate) fn settle(
        incoming: &Incoming,
        propagate: Formats,
        random: &mut fastrand::Rng,
        record: impl FnOnce(u128) -> bool,
    ) -> Self {
        let begins = incoming.parent.is_none();
        let parent = incoming.parent.unwrap_or_else(|| begin(random));
        let recorded = record(parent.trace);
        let came = !incoming.formats.is_none();
        let (here, formats) = match (recorded, came) {
            (true, true) => (Some(Parent { span: random.u64(1..), ..parent }), incoming.formats),
            (true, false) => (Some(parent), propagate),
            (false, true) => (incoming.parent, Formats::default()),
            (false, false) => ((!propagate.is_none()).then_some(parent), propagate),
        };
        let debug = incoming.decision == Some(Decision::Debug);
        let span = if recorded && !begins { parent.span } else { 0 };
        Self { here, parent: span, recorded, debug, formats, begins: begins && !formats.is_none() }
    }

    /// Whether the trace begins here, in headers that are to be written.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// Makes the headers that came those that go on.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let Some(here) = self.here.as_ref().filter(|_| !self.formats.is_none()) else {
            return pass(headers);
        };
        // What is not written anew must not stay beside what is.
        if self.begins || !self.formats.w3c {
            w3c::remove(headers);
        }
        if !self.formats.b3 {
            headers.remove(b3::B3);
        }
        if !self.formats.b3multi {
            b3::remove_multi(headers);
        }
        self.put(headers, here);
    }

    fn put(&self, headers: &mut HeaderMap, here: &Parent) {
        let decision = match self.recorded {
            true if self.debug => Decision::Debug,
            true => Decision::Accept,
            false => Decision::Deny,
        };
        if self.formats.w3c {
            w3c::write(headers, here, self.recorded);
        }
        if self.formats.b3 {
            b3::write_single(headers, here, decision, self.parent);
        }
        if self.formats.b3multi {
            b3::write_multi(headers, here, decision, self.parent);
        }
    }
}

/// Continues or begins the trace of a call that nobody here records or logs: as [`Span::write`], and at once for the
/// many that bring a `traceparent` or nothing of a trace.
pub(crate) fn continue_or_begin(headers: &mut HeaderMap, propagate: Formats, random: &mut fastrand::Rng) {
    if w3c::is_there(headers) {
        return set_unlisted(headers, &[w3c::TRACEPARENT]);
    }
    if !Formats::told_in(headers).is_none() {
        return Span::settle(&Incoming::read(headers), propagate, random, |_| false).write(headers);
    }
    let span = Span::settle(&Incoming::default(), propagate, random, |_| false);
    if let Some(here) = &span.here {
        span.put(headers, here);
    }
}

/// Lets what came go on. Of a trace that is told in B3, or in nothing, a `traceparent` that cannot be read is no part.
fn pass(headers: &mut HeaderMap) {
    if w3c::is_there(headers) {
        set_unlisted(headers, &[w3c::TRACEPARENT]);
    } else {
        w3c::remove(headers);
        set_unlisted(headers, &[b3::B3, b3::TRACE_ID, b3::SPAN_ID, b3::PARENT_SPAN_ID]);
    }
}

fn begin(random: &mut fastrand::Rng) -> Parent {
    Parent { trace: random.u128(1..), span: random.u64(1..), short: false, random: false }
}
