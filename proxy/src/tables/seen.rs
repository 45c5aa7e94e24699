//! What is known of a call's headers when its caller is judged.

use std::hash::BuildHasher as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use rustc_hash::{FxBuildHasher, FxHashSet};

/// The headers as far as they are here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) headers: &'a HeaderMap,
    /// Of a call that is under way only some were kept; `None`: all are here.
    had: Option<&'a Traces>,
}

impl<'a> Seen<'a> {
    /// All of them are here.
    pub(crate) fn all(headers: &'a HeaderMap) -> Self {
        Self { headers, had: None }
    }

    /// Only some are, each with all its values; the call had those of `had`.
    pub(crate) fn some(headers: &'a HeaderMap, had: &'a Traces) -> Self {
        Self { headers, had: Some(had) }
    }

    /// Whether it is known what the call has of this name: nothing, or what was kept.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.had.is_none_or(|had| !had.may_have(trace(name)) || self.headers.contains_key(name))
    }
}

/// Some names, as traces that they leave: to say of most others that they are not among them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traces([u64; 4]);

impl Traces {
    fn add(&mut self, trace: u8) {
        self.0[usize::from(trace >> 6)] |= 1 << (trace & 63);
    }

    fn may_have(&self, trace: u8) -> bool {
        self.0[usize::from(trace >> 6)] & 1 << (trace & 63) != 0
    }
}

/// The trace of a name, one of 256. The same for as long as the process runs.
fn trace(name: &str) -> u8 {
    let [top, ..] = FxBuildHasher.hash_one(name).to_be_bytes();
    top
}

/// The names of headers that rules go by.
#[derive(Debug, Default)]
pub(crate) struct Names {
    all: FxHashSet<HeaderName>,
    traces: Traces,
}

impl FromIterator<HeaderName> for Names {
    fn from_iter<I: IntoIterator<Item = HeaderName>>(names: I) -> Self {
        let mut made = Self::default();
        for name in names {
            made.traces.add(trace(name.as_str()));
            made.all.insert(name);
        }
        made
    }
}

/// What is kept of a call's headers while it is under way.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    had: Traces,
    /// Those that some rule named when it began. `None`, and no memory: it had none of them.
    headers: Option<Box<HeaderMap>>,
}

impl Kept {
    /// Of a call with these headers; `names`: by which rules go.
    pub(crate) fn of(headers: &HeaderMap, names: Option<&Names>) -> Self {
        let mut kept = Self::default();
        for name in headers.keys() {
            let trace = trace(name.as_str());
            kept.had.add(trace);
            if let Some(names) = names
                && names.traces.may_have(trace)
                && names.all.contains(name)
            {
                let into = kept.headers.get_or_insert_default();
                let values: http::header::GetAll<'_, HeaderValue> = headers.get_all(name);
                for value in values {
                    into.append(name, value.clone());
                }
            }
        }
        kept
    }

    /// Looks at what was kept.
    pub(crate) fn look<T>(&self, look: impl FnOnce(Seen<'_>) -> T) -> T {
        match &self.headers {
            Some(headers) => look(Seen::some(headers, &self.had)),
            None => look(Seen::some(&HeaderMap::new(), &self.had)),
        }
    }
}
