//! What an app has seen of its own calls, so that a mesh's numbers can be held against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::targets::full_name;

/// Failures whose words are kept; later ones are counted only.
pub const FAULTS_MAX: usize = 20;

/// Counts of calls by target service and method; clones share them. As many entries as the app calls
/// methods.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    methods: BTreeMap<Method, Count>,
    /// What the first failures said, a line each.
    faults: Vec<String>,
}

/// A target as the mesh names it (`users.shop`) and a method (`shop.UserService/GetUser`).
pub type Method = (String, &'static str);

/// The calls of one method so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Begun.
    pub started: u64,
    /// Ended with OK.
    pub ok: u64,
    /// Ended otherwise, by the name of the code.
    pub failed: BTreeMap<&'static str, u64>,
    /// Those of `failed` that are streams which had brought messages before they ended.
    pub cut: BTreeMap<&'static str, u64>,
    /// How long the slowest took, of all that ended.
    pub slowest: Duration,
}

impl Count {
    /// Begun and not ended.
    pub fn open(&self) -> u64 {
        self.started - self.ok - self.failed.values().sum::<u64>()
    }
}

impl Counts {
    /// Counts a call to `service` (a short name) as started.
    pub fn start(&self, service: &str, method: &'static str) -> OpenCall {
        let method = (full_name(service), method);
        self.change(&method, |count| count.started += 1);
        OpenCall { counts: self.clone(), method, began: Instant::now(), ended: false }
    }

    /// The counts as they are now.
    pub fn snapshot(&self) -> BTreeMap<Method, Count> {
        self.counted().methods.clone()
    }

    /// The counts as one JSON object; `last` says that nothing will be counted any more.
    pub fn to_json(&self, last: bool) -> Value {
        let calls = self.snapshot().into_iter().map(|((service, method), count)| {
            json!({
                "service": service, "method": method, "started": count.started, "ok": count.ok,
                "failed": count.failed, "cut": count.cut, "open": count.open(),
                "slowest_ms": count.slowest.as_millis().try_into().unwrap_or(u64::MAX),
            })
        });
        let calls: Vec<_> = calls.collect();
        json!({ "final": last, "calls": calls, "faults": self.counted().faults })
    }

    fn change(&self, method: &Method, change: impl FnOnce(&mut Count)) {
        change(self.counted().methods.entry(method.clone()).or_default());
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was started. Dropped without an end it counts as cancelled, which is what the peer sees.
#[derive(Debug)]
pub struct OpenCall {
    counts: Counts,
    method: Method,
    began: Instant,
    ended: bool,
}

impl OpenCall {
    /// Counts the call's end and hands the outcome on.
    ///
    /// # Errors
    /// Only the one it was given.
    pub fn end<T>(mut self, outcome: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &outcome {
            self.keep(status);
        }
        self.finish(outcome.as_ref().map_or_else(Status::code, |_| Code::Ok), false);
        outcome
    }

    /// Counts the end of a stream that had brought messages and then failed with `status`.
    pub fn cut(mut self, status: &Status) {
        self.finish(status.code(), true);
    }

    fn finish(&mut self, code: Code, cut: bool) {
        self.ended = true;
        let took = self.began.elapsed();
        self.counts.change(&self.method, |count| {
            count.slowest = count.slowest.max(took);
            match code {
                Code::Ok => count.ok += 1,
                failed => *count.failed.entry(code_name(failed)).or_default() += 1,
            }
            if cut {
                *count.cut.entry(code_name(code)).or_default() += 1;
            }
        });
    }

    /// Keeps what a failure said, as long as there is room.
    fn keep(&self, status: &Status) {
        let (code, took) = (code_name(status.code()), self.began.elapsed().as_millis());
        let line = format!("{} ended {code} after {took} ms: {}", self.method.1, status.message());
        let mut counted = self.counts.counted();
        if counted.faults.len() < FAULTS_MAX {
            counted.faults.push(line);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Code::Cancelled, false);
        }
    }
}

/// The code's name as grpc-go and the usual gRPC metrics write it (`OK`, `Canceled`, `Unavailable`).
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &str = "shop.UserService/GetUser";

    fn only(counts: &Counts) -> Count {
        counts.snapshot().remove(&("users.shop".to_owned(), METHOD)).expect("a count")
    }

    #[test]
    fn started_is_always_ok_and_failed_and_open() {
        let counts = Counts::default();
        let open = counts.start("users", METHOD);
        let _ = counts.start("users", METHOD).end(Ok(()));
        let _ = counts.start("users", METHOD).end::<()>(Err(Status::unavailable("gone")));
        let count = only(&counts);
        assert_eq!((count.started, count.ok, count.open()), (3, 1, 1));
        assert_eq!(count.failed, BTreeMap::from([("Unavailable", 1)]));
        drop(open.end(Ok(())));
        assert_eq!(only(&counts).open(), 0);
    }

    #[test]
    fn a_stream_that_was_cut_counts_among_the_failed_and_by_itself() {
        let counts = Counts::default();
        counts.start("users", METHOD).cut(&Status::unavailable("gone"));
        let _ = counts.start("users", METHOD).end::<()>(Err(Status::unavailable("never there")));
        let count = only(&counts);
        assert_eq!(count.failed, BTreeMap::from([("Unavailable", 2)]));
        assert_eq!((count.cut, count.started), (BTreeMap::from([("Unavailable", 1)]), 2));
    }

    #[test]
    fn the_words_of_the_first_failures_are_kept_and_of_no_more() {
        let counts = Counts::default();
        for number in 0..=FAULTS_MAX {
            let _ = counts.start("users", METHOD).end::<()>(Err(Status::internal(number.to_string())));
        }
        let told = counts.to_json(true)["faults"].as_array().cloned().expect("faults");
        assert_eq!(told.len(), FAULTS_MAX);
        let first = told[0].as_str().expect("text");
        assert!(first.starts_with("shop.UserService/GetUser ended Internal after "), "{first}");
        assert!(first.ends_with(" ms: 0"), "{first}");
    }

    #[test]
    fn a_call_that_is_dropped_counts_as_cancelled_once() {
        let counts = Counts::default();
        drop(counts.start("users", METHOD));
        assert_eq!(only(&counts).failed, BTreeMap::from([("Canceled", 1)]));
        assert_eq!(counts.to_json(true)["calls"][0]["failed"]["Canceled"], 1);
    }
}
