//! A bounded way from all workers to one reader, which never makes a worker wait.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::record::call::CallRecord;

/// The workers' end.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Arc<CallRecord>>,
    crowd: usize,
    crowded: Arc<Notify>,
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) records: mpsc::Receiver<Arc<CallRecord>>,
    /// Notified when so many wait that the reader should not let time pass.
    pub(crate) crowded: Arc<Notify>,
}

/// A queue of at most `bound`; `crowd` or more of them are told at once.
pub(crate) fn queue(bound: usize, crowd: usize) -> (Queue, Outlet) {
    let (sender, records) = mpsc::channel(bound);
    let crowded = Arc::new(Notify::new());
    (Queue { sender, crowd, crowded: crowded.clone() }, Outlet { records, crowded })
}

impl Queue {
    /// Takes a record in, or `false` if there is no place for it.
    pub(crate) fn offer(&self, record: Arc<CallRecord>) -> bool {
        if self.sender.try_send(record).is_err() {
            return false;
        }
        if self.sender.max_capacity() - self.sender.capacity() >= self.crowd {
            self.crowded.notify_one();
        }
        true
    }
}
