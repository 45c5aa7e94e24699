//! Those who wait until they have proved something, the oldest first. Where there are too many, the oldest goes for the newest
//! (decision 18): whoever comes and says nothing must not keep out those who have something to show.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// Each guest holds the other end of its channel for as long as it waits.
#[derive(Debug, Default)]
pub(crate) struct Lobby(VecDeque<oneshot::Sender<()>>);

impl Lobby {
    /// One more guest, who is told when it has to go.
    pub(crate) fn enter(&mut self) -> oneshot::Receiver<()> {
        let (dismiss, dismissed) = oneshot::channel();
        self.0.push_back(dismiss);
        dismissed
    }

    /// How many wait.
    pub(crate) fn count(&mut self) -> usize {
        self.0.retain(|guest| !guest.is_closed());
        self.0.len()
    }

    /// Sends the one away that came first; `false`: there is none.
    pub(crate) fn dismiss_oldest(&mut self) -> bool {
        while let Some(oldest) = self.0.pop_front() {
            if oldest.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}
