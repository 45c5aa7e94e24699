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

/// Where workers have names resolved that no endpoint has.
#[derive(Debug)]
pub(crate) struct Resolver {
    questions: mpsc::Sender<Question>,
    refused: AtomicU64,
}

/// A name that a worker wants resolved.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) host: String,
    pub(crate) answer: oneshot::Sender<Result<Vec<IpAddr>, String>>,
}

impl Resolver {
    /// The resolver, and the questions that come from it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        (Self { questions, refused: AtomicU64::new(0) }, asked)
    }

    /// Every address of `host`, never none; takes `dns.timeout` at most.
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
