//! What the echo server saw of each call.

use std::sync::{Arc, Mutex};
use std::time::Instant;

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
    /// [`digest`] of them.
    pub digest: u64,
    /// When it came.
    pub began: Instant,
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
            digest: digest(None::<&[u8]>),
            began: Instant::now(),
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

    pub(crate) fn message(&self, message: &[u8]) {
        self.change(|record| {
            record.messages += 1;
            record.bytes += message.len() as u64;
            record.digest = digest_on(record.digest, message);
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

/// Tells messages apart by their bytes, order and lengths (FNV-1a, 64 bits).
pub fn digest<M: AsRef<[u8]>>(messages: impl IntoIterator<Item = M>) -> u64 {
    messages.into_iter().fold(0xcbf2_9ce4_8422_2325, |digest, message| digest_on(digest, message.as_ref()))
}

fn digest_on(digest: u64, message: &[u8]) -> u64 {
    let length = (message.len() as u64).to_be_bytes();
    length
        .iter()
        .chain(message)
        .fold(digest, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A header's value, if it is there and is ASCII.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
