//! The downstream connections of one worker, so that drain and force reach them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::call::origin::{Command, Link};
use crate::downstream::judged::Change;
use crate::metrics::calls::Direction;

/// Every open downstream connection, by number of arrival.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    links: RefCell<BTreeMap<u64, (Direction, Rc<Link>)>>,
    arrivals: Cell<u64>,
    /// By direction, what everyone was asked last: also meant for those that arrive later.
    asked: [Cell<Option<Command>>; 2],
}

/// A connection's place in the roster; left when dropped.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    roster: &'a Roster,
    number: u64,
}

impl Roster {
    pub(crate) fn enter(&self, direction: Direction, link: &Rc<Link>) -> Entered<'_> {
        let number = self.arrivals.get();
        self.arrivals.set(number + 1);
        self.links.borrow_mut().insert(number, (direction, link.clone()));
        if let Some(command) = self.asked[direction as usize].get() {
            link.ask(command);
        }
        Entered { roster: self, number }
    }

    /// Has all that came from the mesh look again at who calls and what they may.
    pub(crate) fn recheck(&self, change: Change) {
        for (of, link) in self.links.borrow().values() {
            if *of == Direction::Inbound {
                match change {
                    Change::Trust { rules: false } => link.recheck_trust(),
                    Change::Rules | Change::Trust { rules: true } => link.recheck(),
                }
            }
        }
    }

    /// Asks something of every connection of a direction, those that still shake hands included.
    pub(crate) fn ask(&self, direction: Direction, command: Command) {
        self.asked[direction as usize].set(Some(command));
        for (of, link) in self.links.borrow().values() {
            if *of == direction {
                link.ask(command);
            }
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.roster.links.borrow_mut().remove(&self.number);
    }
}
