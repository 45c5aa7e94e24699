//! Names and their addresses, as the snapshot and the workers see them.
//!
//! Questions are asked on the control thread (`control::names`); what is here is what it hands out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

/// Questions of workers that wait to be asked; one more is refused and counted.
const QUESTIONS_MAX: usize = 256;
/// Doubts that wait to be looked at. More are dropped: names are asked for again anyway.
const DOUBTS_MAX: usize = 64;

/// What is known of each name that an endpoint has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(pub(crate) BTreeMap<String, Answer>);

/// What is known of one name.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Its addresses, never none, sorted: those of the last good answer.
    Addresses(Arc<[IpAddr]>),
    /// There never was a good answer; why the last one was none.
    Unknown(Arc<str>),
}

impl Answers {
    /// What is known of `host`.
    pub(crate) fn of(&self, host: &str) -> Answer {
        let unknown = || Answer::Unknown("it was not asked for".into());
        self.0.get(host).cloned().unwrap_or_else(unknown)
    }
}

/// What workers have to say about names: those that no endpoint has they want resolved, and of those that endpoints
/// have they say when an address may be no good any more.
#[derive(Debug)]
pub(crate) struct Resolver {
    questions: mpsc::Sender<Question>,
    doubts: mpsc::Sender<IpAddr>,
    refused: AtomicU64,
}

/// A name that a worker wants resolved.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) host: String,
    pub(crate) answer: oneshot::Sender<Result<Vec<IpAddr>, String>>,
}

impl Resolver {
    /// The resolver, the questions and the doubts that come from it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question>, mpsc::Receiver<IpAddr>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (doubts, doubted) = mpsc::channel(DOUBTS_MAX);
        (Self { questions, doubts, refused: AtomicU64::new(0) }, asked, doubted)
    }

    /// An endpoint could not be connected to, or has ended a connection: what its name stands for may have changed.
    pub(crate) fn doubt(&self, address: IpAddr) {
        let _ = self.doubts.try_send(address);
    }

    /// Every address of `host`, never none. Waits for its turn and then up to `dns.timeout`.
    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Question { host: host.to_owned(), answer }).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(format!("more than {QUESTIONS_MAX} names wait to be resolved"));
        }
        answered.await.unwrap_or_else(|_| Err("the sidecar is shutting down".to_owned()))
    }

    /// Questions that were turned away.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
