//! The leave that a call from the mesh has to go on: given when it begins, and asked for again when rules or roots change.
//!
//! ```text
//! snapshot with other rules -> Link::recheck -> every open call of the connection is woken, once
//!   -> the call looks at its own rules: the same, or other ones that let it in -> it goes on
//!                                       it is refused now -> PERMISSION_DENIED
//! roots without the caller's -> Link::distrust -> all its calls end so, and the connection
//! ```
//!
//! While nothing changes, a call compares two numbers whenever it is polled.

use std::rc::Rc;
use std::task::Waker;

use http::HeaderMap;
use http::uri::PathAndQuery;

use crate::call::origin::{Origin, Way};
use crate::call::plan::may;
use crate::local::Local;
use crate::metrics::events::Revocation;
use crate::tables::seen::Kept;

/// The leave of one call.
#[derive(Debug)]
pub(crate) struct Leave {
    origin: Rc<Origin>,
    /// Its place among those who are woken.
    place: usize,
    /// The change that it has seen last.
    change: u32,
    /// The number of the rules that let it in last.
    rules: u64,
    path: PathAndQuery,
    grpc: bool,
    kept: Kept,
}

impl Leave {
    /// That of a call that has just been let in by the snapshot of `local`; `None`: it needs none.
    pub(crate) fn given(
        origin: &Rc<Origin>,
        local: &Local,
        path: Option<&PathAndQuery>,
        headers: &HeaderMap,
        grpc: bool,
        task: &Waker,
    ) -> Option<Self> {
        let Way::Inbound { entry, .. } = &origin.way else { return None };
        let (rules, path) = (&local.tables.entries.get(*entry)?.authorization, path?.clone());
        // What changed since the call was taken in has woken nobody for it: it looks at once.
        let seen = origin.link.change();
        let change = if origin.locals.is_newest(local) { seen } else { seen.wrapping_sub(1) };
        let (rules, kept) = (rules.number(), Kept::of(headers, rules.headers()));
        // From here on nothing may fail: whoever has a place gives it back at its end.
        let place = origin.link.enter(task);
        Some(Self { origin: origin.clone(), place, change, rules, path, grpc, kept })
    }

    /// Why the call may not go on; `None`: it may.
    #[inline]
    pub(crate) fn revoked(&mut self) -> Option<Revocation> {
        let change = self.origin.link.change();
        if change == self.change {
            return None;
        }
        self.change = change;
        self.look()
    }

    #[cold]
    fn look(&mut self) -> Option<Revocation> {
        if self.origin.link.is_distrusted() {
            return Some(Revocation::Trust);
        }
        let Way::Inbound { entry, peer, standing, .. } = &self.origin.way else { return None };
        let local = self.origin.locals.newest();
        // A mesh that lacks the service says nothing of its callers.
        let entry = local.tables.entries.get(*entry).filter(|entry| entry.in_mesh)?;
        let rules = &entry.authorization;
        if rules.number() == self.rules {
            return None;
        }
        let groups = standing.groups(rules, peer.as_ref());
        let method = self.path.path().strip_prefix('/').unwrap_or_default();
        if !self.kept.look(|seen| may(rules, &groups, method, seen, self.grpc)).allowed {
            return Some(Revocation::Policy);
        }
        self.rules = rules.number();
        None
    }

    /// What is told of a call that may not go on.
    pub(crate) fn told(&self, why: Revocation) -> String {
        let peer = match &self.origin.way {
            Way::Inbound { peer: Some(peer), .. } => peer.as_str(),
            _ => "a caller without an identity",
        };
        let method = self.path.path().strip_prefix('/').unwrap_or_default();
        match why {
            Revocation::Policy => format!("{peer} may not call {method} any more: the rules have changed"),
            Revocation::Trust => {
                format!("the certificate of {peer} no longer leads to a root that is trusted here")
            }
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.origin.link.leave(self.place);
    }
}
