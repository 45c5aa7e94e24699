//! Connections by the certificates that were shown on them: when the trust changes, those for whom nobody vouches any more end.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use tokio::sync::oneshot;

use crate::tls::Callers;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<Vec<Guest>>);

#[derive(Debug)]
struct Guest {
    /// The leaf, and what came with it.
    chain: Vec<CertificateDer<'static>>,
    dismiss: oneshot::Sender<()>,
}

impl Roster {
    /// One more connection, which is told when it has to end.
    pub(crate) fn enter(&self, chain: &[CertificateDer<'_>]) -> oneshot::Receiver<()> {
        let (dismiss, dismissed) = oneshot::channel();
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Guest { chain, dismiss });
        dismissed
    }

    /// Ends those who would not be let in any more; how many. Takes its time where there are many: for threads that may block.
    pub(crate) fn look(&self, callers: &Callers, now: SystemTime) -> u64 {
        let mut guests = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ended = 0;
        let mut stay = Vec::with_capacity(guests.len());
        for guest in guests.drain(..).filter(|guest| !guest.dismiss.is_closed()) {
            if callers.let_in(&guest.chain, now) {
                stay.push(guest);
            } else if guest.dismiss.send(()).is_ok() {
                ended += 1;
            }
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut stay);
        ended
    }

    /// Lets go of those that have ended by themselves.
    pub(crate) fn tidy(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|guest| !guest.dismiss.is_closed());
    }
}
