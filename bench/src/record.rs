//! What the echo server saw of each call.

use std::sync::{Arc, Mutex};

use h2::Reason;
use http::{HeaderMap, Request};

/// The most calls that are kept; later ones are counted only.
pub const RECORDS_MAX: usize = 200_000;

/// One call as the server saw it.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// `:path`.
    pub path: String,
    /// `:authority`.
    pub authority: String,
    /// All other request headers.
    pub headers: HeaderMap,
    /// The value of `x-nonce`, by which a test knows its call again.
    pub nonce: Option<String>,
    /// Whole messages received.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// How it ended.
    pub end: CallEnd,
}

/// How a call ended at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// It has not.
    Open,
    /// The request ended with END_STREAM and the whole answer was handed to the connection.
    Clean,
    /// The peer sent RST_STREAM.
    ResetByPeer(Reason),
    /// The connection went away under it.
    ConnectionLost,
    /// The script ended it.
    Scripted,
}

/// The calls of one server.
#[derive(Default)]
pub(crate) struct Records {
    kept: Mutex<Vec<Arc<Mutex<CallRecord>>>>,
}

impl Records {
    pub(crate) fn begin<B>(&self, request: &Request<B>) -> Guard {
        let record = CallRecord {
            path: request.uri().path().to_owned(),
            authority: request.uri().authority().map(ToString::to_string).unwrap_or_default(),
            nonce: text(request.headers(), "x-nonce").map(str::to_owned),
            headers: request.headers().clone(),
            messages: 0,
            bytes: 0,
            end: CallEnd::Open,
        };
        let record = Arc::new(Mutex::new(record));
        let mut kept = self.kept.lock().expect("nobody panics with it held");
        if kept.len() < RECORDS_MAX {
            kept.push(record.clone());
        }
        Guard { record: Some(record) }
    }

    pub(crate) fn all(&self) -> Vec<CallRecord> {
        let kept = self.kept.lock().expect("nobody panics with it held");
        kept.iter().map(|record| record.lock().expect("nobody panics with it held").clone()).collect()
    }

    pub(crate) fn clear(&self) {
        self.kept.lock().expect("nobody panics with it held").clear();
    }
}

/// Writes one record. A handler that is dropped without a word lost its connection.
pub(crate) struct Guard {
    record: Option<Arc<Mutex<CallRecord>>>,
}

impl Guard {
    /// Records nothing: load must not measure the book-keeping.
    pub(crate) fn off() -> Self {
        Self { record: None }
    }

    pub(crate) fn message(&self, bytes: usize) {
        self.change(|record| {
            record.messages += 1;
            record.bytes += bytes as u64;
        });
    }

    pub(crate) fn end(&self, end: CallEnd) {
        self.change(|record| record.end = end);
    }

    fn change(&self, change: impl FnOnce(&mut CallRecord)) {
        if let Some(record) = &self.record {
            change(&mut record.lock().expect("nobody panics with it held"));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.change(|record| {
            if record.end == CallEnd::Open {
                record.end = CallEnd::ConnectionLost;
            }
        });
    }
}

/// A header's value, if it is there and is ASCII.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
