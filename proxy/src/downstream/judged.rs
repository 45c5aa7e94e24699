//! What open calls were judged by last, so that a snapshot that changes nothing of it disturbs none.

use std::sync::Arc;

use rustls::RootCertStore;

use crate::tables::Tables;
use crate::tables::authorize::Authorization;

/// The rules of each entry, and the roots.
#[derive(Default)]
pub(crate) struct Judged {
    rules: Vec<Arc<Authorization>>,
    trust: Option<Arc<RootCertStore>>,
}

/// What is judged otherwise than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Who may call: every open call is asked about.
    Rules,
    /// Who is believed, and maybe the rules too.
    Trust { rules: bool },
}

impl Judged {
    /// What `tables` judge otherwise than those before; from now on they count. A renewed certificate of our own is nothing.
    pub(crate) fn differs(&mut self, tables: &Tables) -> Option<Change> {
        let rules: Vec<_> = tables.entries.iter().map(|entry| entry.authorization.clone()).collect();
        let same_rules = rules.len() == self.rules.len()
            && rules.iter().zip(&self.rules).all(|(one, other)| Arc::ptr_eq(one, other));
        let trust = tables.credentials.as_ref().map(|credentials| credentials.material.trust.clone());
        let same_trust = match (&self.trust, &trust) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now) || before.roots == now.roots,
            (before, now) => before.is_none() && now.is_none(),
        };
        (self.rules, self.trust) = (rules, trust);
        match (same_rules, same_trust) {
            (true, true) => None,
            (false, true) => Some(Change::Rules),
            (_, false) => Some(Change::Trust { rules: !same_rules }),
        }
    }
}
