//! Names and their addresses, as the snapshot and the workers see them.
//!
//! Questions are asked on the control thread (`control::names`); what is here is what it hands out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

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
