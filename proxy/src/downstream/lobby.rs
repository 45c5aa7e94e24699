//! Connections of one worker that have not got through TLS and preface yet.
//!
//! When there are too many, the one that came first is sent away: it has had the most time, and whoever
//! opens sockets to say nothing cannot keep those out that do speak.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::metrics::counter::Counter;

/// Everyone who waits, by number of arrival.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    guests: RefCell<BTreeMap<u64, Rc<Notify>>>,
    arrivals: Cell<u64>,
}

/// A connection in the lobby, counted while it is there.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    lobby: &'a Lobby,
    gauge: &'a Counter,
    number: u64,
    dismissed: Rc<Notify>,
}

impl Lobby {
    /// Lets a connection in; `gauge` is this worker's count of those that are here.
    pub(crate) fn enter<'a>(&'a self, gauge: &'a Counter) -> Guest<'a> {
        let number = self.arrivals.get();
        self.arrivals.set(number + 1);
        let dismissed = Rc::new(Notify::new());
        self.guests.borrow_mut().insert(number, dismissed.clone());
        gauge.add(1);
        Guest { lobby: self, gauge, number, dismissed }
    }

    /// Sends the one away that came first, unless there is only one: the others are with other workers, and it
    /// may be about to speak. So the bound is soft by the number of workers.
    pub(crate) fn dismiss_oldest(&self, gauge: &Counter) {
        let mut guests = self.guests.borrow_mut();
        if guests.len() > 1
            && let Some((_, oldest)) = guests.pop_first()
        {
            gauge.sub(1);
            oldest.notify_one();
        }
    }
}

impl Guest<'_> {
    /// Ready once it has been sent away.
    pub(crate) async fn dismissed(&self) {
        self.dismissed.notified().await;
    }

    /// Leaves, because it has said what it wants and waits for others now: it is not to be sent away any more.
    pub(crate) fn leave(&self) {
        if self.lobby.guests.borrow_mut().remove(&self.number).is_some() {
            self.gauge.sub(1);
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_came_first_goes_first_and_is_counted_out_once() {
        let (lobby, gauge) = (Lobby::default(), Counter::default());
        let first = lobby.enter(&gauge);
        let second = lobby.enter(&gauge);
        lobby.dismiss_oldest(&gauge);
        assert_eq!(gauge.value(), 1);
        first.dismissed().await;
        drop(first);
        lobby.dismiss_oldest(&gauge);
        assert_eq!(gauge.value(), 1, "who is alone stays");
        drop(second);
        assert_eq!(gauge.value(), 0);
    }
}
