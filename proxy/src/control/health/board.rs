//! What the checks have found, as the pages and the metrics show it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustc_hash::FxHashMap;

use crate::endpoint::Endpoint;

/// Services that are checked no more and whose counts are still shown; past it the first by name is forgotten.
const GONE_MAX: usize = 1_000;

/// What one check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Finding {
    /// SERVING, or, where only a connection is asked for, connected.
    Healthy,
    /// The server does not know the health service: nothing is said against it.
    Unimplemented,
    /// It says that it does not serve.
    NotServing,
    /// Another status, or no proper answer.
    Error,
    /// Nothing came within the check's timeout.
    Timeout,
    /// No connection, or it broke.
    Unreachable,
}

/// Every finding's label, in the order of its number.
pub(crate) const FINDINGS: [&str; 6] =
    ["healthy", "unimplemented", "not_serving", "error", "timeout", "unreachable"];

impl Finding {
    /// Whether it speaks for the endpoint. As in gRPC's own checks of clients, UNIMPLEMENTED does (gRFC A17).
    pub(crate) fn is_success(self) -> bool {
        matches!(self, Self::Healthy | Self::Unimplemented)
    }
}

/// How often each finding came, in the order of [`FINDINGS`].
pub(crate) type Findings = [u64; FINDINGS.len()];

/// What is known of an endpoint that is checked.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    service: Arc<str>,
    /// `None`: its first check has not come to an end.
    pub(crate) healthy: Option<bool>,
    /// When that was found.
    pub(crate) since: SystemTime,
    /// Those that have come to an end.
    pub(crate) checks: u64,
    /// The last one was answered UNIMPLEMENTED.
    pub(crate) unimplemented: bool,
    pub(crate) last_failure: Option<Failed>,
}

/// A check that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) at: SystemTime,
    pub(crate) why: String,
}

/// Written by the checks, read by the pages; all on the control thread.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    /// By the endpoint's place in memory: whoever checks it keeps it there.
    records: FxHashMap<usize, Record>,
    findings: BTreeMap<Arc<str>, Findings>,
    /// Services of which it has been told that a server does not know the health service.
    told: BTreeSet<Arc<str>>,
    put_off: u64,
}

impl Board {
    /// An endpoint is checked from now on.
    pub(crate) fn begin(&self, service: &Arc<str>, endpoint: &Arc<Endpoint>) {
        let mut notes = self.lock();
        notes.findings.entry(service.clone()).or_default();
        let record = Record {
            service: service.clone(),
            healthy: None,
            since: SystemTime::now(),
            checks: 0,
            unimplemented: false,
            last_failure: None,
        };
        notes.records.insert(key(endpoint), record);
        notes.forget();
    }

    /// An endpoint is checked no more.
    pub(crate) fn end(&self, endpoint: &Arc<Endpoint>) {
        self.lock().records.remove(&key(endpoint));
    }

    /// A check has come to an end; `state` where it changed the endpoint's. Returns whether this is the first time that a
    /// server of the service was found not to know the health service.
    pub(crate) fn note(
        &self,
        endpoint: &Arc<Endpoint>,
        finding: Finding,
        why: &str,
        state: Option<bool>,
    ) -> bool {
        let mut notes = self.lock();
        let now = SystemTime::now();
        let Notes { records, findings, told, .. } = &mut *notes;
        let Some(record) = records.get_mut(&key(endpoint)) else { return false };
        record.checks += 1;
        record.unimplemented = finding == Finding::Unimplemented;
        if state.is_some() {
            (record.healthy, record.since) = (state, now);
        }
        if !finding.is_success() {
            record.last_failure = Some(Failed { at: now, why: why.to_owned() });
        }
        findings.entry(record.service.clone()).or_default()[finding as usize] += 1;
        record.unimplemented && told.insert(record.service.clone())
    }

    /// A check has to wait, because too many are under way.
    pub(crate) fn put_off(&self) {
        self.lock().put_off += 1;
    }

    /// How many checks had to wait.
    pub(crate) fn waited(&self) -> u64 {
        self.lock().put_off
    }

    /// What is known of an endpoint, if it is checked.
    pub(crate) fn record(&self, endpoint: &Arc<Endpoint>) -> Option<Record> {
        self.lock().records.get(&key(endpoint)).cloned()
    }

    /// For each service that is checked, or was: what checks came to.
    pub(crate) fn findings(&self) -> BTreeMap<Arc<str>, Findings> {
        self.lock().findings.clone()
    }

    /// For each service that is checked: how many of its endpoints are unhealthy now.
    pub(crate) fn unhealthy(&self) -> BTreeMap<Arc<str>, u64> {
        let mut counts = BTreeMap::new();
        for record in self.lock().records.values() {
            *counts.entry(record.service.clone()).or_default() += u64::from(record.healthy == Some(false));
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// Forgets the counts of services that are gone, when there are too many of them.
    fn forget(&mut self) {
        let Self { records, findings, told, .. } = self;
        if findings.len() <= GONE_MAX {
            return;
        }
        let checked: BTreeSet<&Arc<str>> = records.values().map(|record| &record.service).collect();
        let gone: Vec<Arc<str>> =
            findings.keys().filter(|service| !checked.contains(service)).cloned().collect();
        let excess = gone.len().saturating_sub(GONE_MAX);
        for service in gone.iter().take(excess) {
            findings.remove(service);
            told.remove(service);
        }
    }
}

fn key(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint).addr()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::plain(SocketAddr::from(([203, 0, 113, 7], 80))))
    }

    #[test]
    fn what_was_counted_of_a_service_stays_when_its_endpoints_go() {
        let (board, service, one) = (Board::default(), Arc::from("echo.shop"), endpoint());
        board.begin(&service, &one);
        assert!(!board.note(&one, Finding::Timeout, "no answer", Some(false)));
        assert_eq!(board.unhealthy()[&service], 1);
        let record = board.record(&one).unwrap();
        assert_eq!((record.healthy, record.checks), (Some(false), 1));
        assert_eq!(record.last_failure.unwrap().why, "no answer");
        board.end(&one);
        assert!(board.record(&one).is_none() && board.unhealthy().is_empty());
        assert_eq!(board.findings()[&service][Finding::Timeout as usize], 1);
    }

    #[test]
    fn that_a_server_does_not_know_the_health_service_is_told_once() {
        let (board, service, one, two) = (Board::default(), Arc::from("echo.shop"), endpoint(), endpoint());
        board.begin(&service, &one);
        board.begin(&service, &two);
        assert!(!board.note(&one, Finding::Healthy, "", Some(true)));
        assert!(board.note(&one, Finding::Unimplemented, "", None));
        assert!(!board.note(&one, Finding::Unimplemented, "", None));
        assert!(!board.note(&two, Finding::Unimplemented, "", Some(true)));
    }

    #[test]
    fn what_is_kept_of_services_that_are_gone_is_bounded() {
        let board = Board::default();
        for number in 0..GONE_MAX + 10 {
            let one = endpoint();
            board.begin(&format!("{number:05}").into(), &one);
            board.end(&one);
        }
        let left = board.findings();
        assert!(left.len() <= GONE_MAX + 1, "{}", left.len());
        assert!(!left.contains_key("00000"));
    }
}
