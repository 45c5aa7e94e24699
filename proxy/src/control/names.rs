//! The names of endpoints: asked again when their time is over, and the last answer kept while none comes.
//!
//! ```text
//! new -> asked -> good: again after the TTL, at least `dns.min_ttl`
//!                 else: again after a back-off, and what was known before stays
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use config::model::{Dns, Mesh, Target};
use files::Reports;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::control::journal::{Journal, NameRecord};
use crate::control::lookup::{Found, Lookups};
use crate::dns::{Answer, Answers};

/// Names of one mesh; those past it, in the order of the alphabet, are not asked for.
const NAMES_MAX: usize = 1_000;
/// Addresses of one name; those past it, in their order, are left out and counted.
const ADDRESSES_MAX: usize = 1_000;
/// Names that are asked for at the same time.
const AT_ONCE: usize = 64;
/// The longest time that an answer is kept, whatever its TTL.
const TTL_MAX: Duration = Duration::from_secs(300);
/// After the first question in a row that came to nothing; then twice as long each time, up to `dns.min_ttl` or this.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_LEAST: Duration = Duration::from_secs(1);
const DOUBLINGS_MAX: u32 = 10;
/// A kind of address that has failed this often in a row, and of which none is known, is taken for none while the
/// other kind is good.
const KIND_TRIES: u32 = 3;

/// The names of the mesh in force, and of the one that is about to be.
pub(crate) struct Names {
    lookups: Lookups,
    settings: Dns,
    names: BTreeMap<String, Name>,
    asked: JoinSet<(String, [Found; 2])>,
    doubts: mpsc::Receiver<IpAddr>,
    journal: Arc<Journal>,
    reports: Reports,
}

#[derive(Debug)]
struct Name {
    /// Of both kinds, IPv4 and IPv6.
    kinds: [Kind; 2],
    answered: Option<Instant>,
    failures: u64,
    failed_in_a_row: u32,
    why: Arc<str>,
    due: Instant,
    under_way: bool,
}

/// What a name stands for, of one kind of address.
#[derive(Debug, Default)]
struct Kind {
    /// What the last answer said.
    known: Vec<IpAddr>,
    failed_in_a_row: u32,
}

impl Names {
    /// `doubts`: addresses of names that may be no good any more.
    pub(crate) fn new(
        lookups: Lookups,
        settings: Dns,
        doubts: mpsc::Receiver<IpAddr>,
        journal: Arc<Journal>,
        reports: Reports,
    ) -> Self {
        Self { lookups, settings, names: BTreeMap::new(), asked: JoinSet::new(), doubts, journal, reports }
    }

    /// Asks for the names of these meshes from now on, and for no others.
    pub(crate) fn want(&mut self, meshes: &[&Mesh]) {
        let lines = meshes.iter().flat_map(|mesh| &mesh.services).flat_map(|service| &service.endpoints);
        let hosts = lines.filter_map(|line| match &line.target {
            Target::Name { host, .. } => Some(host),
            Target::Address(_) => None,
        });
        let hosts: BTreeSet<&String> = hosts.collect();
        if hosts.len() > NAMES_MAX {
            let over = hosts.len() - NAMES_MAX;
            self.reports.say(format!("{over} names of endpoints past {NAMES_MAX} are not resolved"));
        }
        let wanted: BTreeSet<&String> = hosts.into_iter().take(NAMES_MAX).collect();
        self.names.retain(|host, _| wanted.contains(host));
        for host in wanted {
            if !self.names.contains_key(host) {
                self.names.insert(host.clone(), Name::new(Instant::now()));
            }
        }
        self.show();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Waits until each name has been answered or has failed once, but not longer than `dns.timeout`.
    pub(crate) async fn first_answers(&mut self) {
        let until = Instant::now() + self.settings.timeout;
        while !self.are_answered() {
            if timeout_at(until, self.step()).await.is_err() {
                return;
            }
        }
    }

    /// Whether each name has been answered or has failed once.
    pub(crate) fn are_answered(&self) -> bool {
        !self.names.values().any(Name::is_new)
    }

    /// Goes on asking until an answer says something new.
    pub(crate) async fn changed(&mut self) {
        while !self.step().await {}
    }

    /// Waits for one answer; whether it says something new.
    async fn step(&mut self) -> bool {
        loop {
            let due = self.ask();
            let due = async move {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(answer) = self.asked.join_next() => {
                    let Ok((host, found)) = answer else { continue };
                    return self.take(&host, found);
                }
                Some(address) = self.doubts.recv() => self.doubt(address),
                () = due => {}
            }
        }
    }

    /// Asks sooner for the names that stand for an address which may be no good any more.
    fn doubt(&mut self, address: IpAddr) {
        let now = Instant::now();
        for name in self.names.values_mut().filter(|name| name.stands_for(address)) {
            name.doubt(&self.settings, now);
        }
    }

    /// Asks for the names that are due, and says when the next one is.
    fn ask(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for (host, name) in &mut self.names {
            if self.asked.len() >= AT_ONCE {
                return None;
            }
            if !name.under_way && name.due <= now {
                name.under_way = true;
                let (lookups, host) = (self.lookups.clone(), host.clone());
                self.asked.spawn(async move {
                    let found = lookups.ask(&host).await;
                    (host, found)
                });
            }
        }
        self.names.values().filter(|name| !name.under_way).map(|name| name.due).min()
    }

    /// Takes in what was found; whether it is news.
    fn take(&mut self, host: &str, found: [Found; 2]) -> bool {
        let Some(name) = self.names.get_mut(host) else { return false };
        let before = name.addresses();
        // Calls to a service without addresses are told why there are none.
        let told = name.told();
        let failing = name.failed_in_a_row > 0;
        name.take(found, &self.settings, Instant::now(), fastrand::f64());
        if name.failed_in_a_row == 0 {
            self.journal.leave_out(name.left_out());
        }
        let changed = name.addresses() != before || name.told() != told;
        if name.failed_in_a_row > 0 && !failing {
            let kept = match name.addresses().len() {
                0 => "it has no address".to_owned(),
                count => format!("the last answer stays, {count} addresses"),
            };
            self.reports.say(format!("dns: {host}: {}; {kept}", name.why));
        } else if name.failed_in_a_row == 0 && failing {
            self.reports.say(format!("dns: {host}: resolved again"));
        }
        self.show();
        changed
    }

    /// What is known now.
    pub(crate) fn answers(&self) -> Answers {
        let answer = |name: &Name| match &name.addresses()[..] {
            [] => Answer::Unknown(name.why.clone()),
            addresses => Answer::Addresses(addresses.into()),
        };
        Answers(self.names.iter().map(|(host, name)| (host.clone(), answer(name))).collect())
    }

    fn show(&self) {
        let record = |name: &Name| NameRecord {
            answered: name.answered,
            failures: name.failures,
            addresses: name.addresses().len(),
            why: (name.failed_in_a_row > 0).then(|| name.why.clone()),
        };
        self.journal.note_names(self.names.iter().map(|(host, name)| (host.clone(), record(name))).collect());
    }
}

impl Name {
    fn new(now: Instant) -> Self {
        Self {
            kinds: Default::default(),
            answered: None,
            failures: 0,
            failed_in_a_row: 0,
            why: "no answer has come yet".into(),
            due: now,
            under_way: false,
        }
    }

    /// What a call is told that finds no address.
    fn told(&self) -> Option<Arc<str>> {
        self.answered.is_none().then(|| self.why.clone())
    }

    fn is_new(&self) -> bool {
        self.answered.is_none() && self.failures == 0
    }

    /// Every address, sorted, so that the same answer in another order is no news.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.known().collect();
        all.sort_unstable();
        all.dedup();
        all.truncate(ADDRESSES_MAX);
        all
    }

    fn left_out(&self) -> usize {
        self.known().count().saturating_sub(ADDRESSES_MAX)
    }

    fn known(&self) -> impl Iterator<Item = IpAddr> {
        self.kinds.iter().flat_map(|kind| &kind.known).copied()
    }

    fn stands_for(&self, address: IpAddr) -> bool {
        self.known().any(|known| known == address)
    }

    /// Is asked for at once, but not within `dns.min_ttl` of the last answer, nor sooner while answers fail.
    fn doubt(&mut self, settings: &Dns, now: Instant) {
        if let Some(answered) = self.answered.filter(|_| self.failed_in_a_row == 0) {
            self.due = self.due.min(now.max(answered + settings.min_ttl));
        }
    }

    /// Takes in what was found at `now`; `chance` between 0 and 1 spreads the next question.
    fn take(&mut self, found: [Found; 2], settings: &Dns, now: Instant, chance: f64) {
        self.under_way = false;
        let good = found.iter().any(|found| matches!(found, Found::Some(..)));
        let mut ttl = TTL_MAX;
        let mut failed = None;
        for (kind, found) in self.kinds.iter_mut().zip(found) {
            match found {
                Found::Some(addresses, holds) => {
                    ttl = ttl.min(holds);
                    *kind = Kind { known: addresses, failed_in_a_row: 0 };
                }
                // A name with addresses of one kind has none of the other.
                Found::None(_) if good => *kind = Kind::default(),
                // A name that had addresses and has none all at once: more often a fault than the truth.
                Found::None(why) => failed = failed.or(Some(why)),
                Found::Failed(why) => {
                    kind.failed_in_a_row += 1;
                    // Some servers never have an answer of a kind that a network does not use.
                    if !good || !kind.known.is_empty() || kind.failed_in_a_row < KIND_TRIES {
                        failed = Some(why);
                    }
                }
            }
        }
        if good {
            self.answered = Some(now);
        }
        let wait = match failed {
            Some(why) => {
                self.why = why.into();
                self.failures += 1;
                self.failed_in_a_row += 1;
                let doubled = AGAIN_FIRST * (1 << (self.failed_in_a_row - 1).min(DOUBLINGS_MAX));
                doubled.min(settings.min_ttl.max(AGAIN_LEAST))
            }
            None => {
                self.failed_in_a_row = 0;
                ttl.max(settings.min_ttl)
            }
        };
        // Up to a tenth later, so that sidecars do not all ask at the same time.
        self.due = now + wait.mul_f64(1.0 + chance / 10.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(addresses: &[&str], ttl: u64) -> Found {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Found::Some(addresses, Duration::from_secs(ttl))
    }

    fn none() -> Found {
        Found::None("NXDOMAIN".to_owned())
    }

    fn failed() -> Found {
        Found::Failed("SERVFAIL".to_owned())
    }

    #[test]
    fn what_was_known_stays_while_no_answer_comes() {
        let now = Instant::now();
        let mut name = Name::new(now);
        let count = |name: &mut Name, found| {
            name.take(found, &Dns::default(), now, 0.0);
            name.addresses().len()
        };
        assert_eq!(count(&mut name, [none(), none()]), 0);
        assert_eq!(&*name.why, "NXDOMAIN");
        assert!(!name.is_new());
        assert_eq!(count(&mut name, [some(&["10.0.0.1", "10.0.0.2"], 30), some(&["::1"], 30)]), 3);
        assert_eq!(name.failed_in_a_row, 0);
        for nothing in [[failed(), failed()], [none(), none()], [none(), failed()], [failed(), none()]] {
            assert_eq!(count(&mut name, nothing.clone()), 3, "{nothing:?}");
        }
        assert_eq!(name.failures, 5);
        assert_eq!(count(&mut name, [some(&["10.0.0.3"], 30), failed()]), 2, "one kind is new, one is kept");
        assert_eq!(
            count(&mut name, [some(&["10.0.0.3"], 30), none()]),
            1,
            "there are none of the other kind"
        );
    }

    #[test]
    fn a_name_is_asked_for_when_its_time_is_over_within_bounds() {
        let now = Instant::now();
        let wait = |name: &mut Name, found: Found, chance| {
            name.take([found, none()], &Dns::default(), now, chance);
            name.due - now
        };
        let mut name = Name::new(now);
        assert_eq!(wait(&mut name, some(&["10.0.0.1"], 0), 0.0), Duration::from_secs(5), "the floor");
        assert_eq!(wait(&mut name, some(&["10.0.0.1"], 60), 0.0), Duration::from_secs(60));
        assert_eq!(wait(&mut name, some(&["10.0.0.1"], 60), 1.0), Duration::from_secs(66), "spread");
        assert_eq!(wait(&mut name, some(&["10.0.0.1"], 86_400), 0.0), TTL_MAX, "the ceiling");
        let waits: Vec<u128> = (0..8).map(|_| wait(&mut name, failed(), 0.0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000]);
    }

    #[test]
    fn a_kind_that_never_has_an_answer_does_not_keep_the_other_from_its_ttl() {
        let (now, mut name) = (Instant::now(), Name::new(Instant::now()));
        let mut wait = |found| {
            name.take(found, &Dns::default(), now, 0.0);
            ((name.due - now).as_millis(), name.failures, name.failed_in_a_row)
        };
        let half = || [some(&["10.0.0.1"], 60), failed()];
        assert_eq!(wait(half()), (250, 1, 1));
        assert_eq!(wait(half()), (500, 2, 2));
        assert_eq!(wait(half()), (60_000, 2, 0), "it is taken for none");
        assert_eq!(wait(half()), (60_000, 2, 0), "and stays so");
        assert_eq!(wait([some(&["10.0.0.1"], 60), some(&["::1"], 60)]), (60_000, 2, 0));
        assert_eq!(wait(half()), (250, 3, 1), "what is known of it is not given up");
        assert_eq!(name.addresses().len(), 2);
    }

    #[test]
    fn a_doubt_asks_sooner_but_not_sooner_than_the_floor() {
        let (now, mut name) = (Instant::now(), Name::new(Instant::now()));
        let after = |seconds| now + Duration::from_secs(seconds);
        let address = "10.0.0.1".parse().unwrap();
        assert!(!name.stands_for(address));
        name.take([some(&["10.0.0.1"], 60), none()], &Dns::default(), now, 0.0);
        assert!(name.stands_for(address));
        name.doubt(&Dns::default(), after(1));
        assert_eq!(name.due, after(5), "the floor");
        name.due = after(60);
        name.doubt(&Dns::default(), after(20));
        assert_eq!(name.due, after(20));
        name.take([failed(), failed()], &Dns::default(), after(20), 0.0);
        let due = name.due;
        name.doubt(&Dns::default(), after(20));
        assert_eq!(name.due, due, "the back-off is kept");
    }

    #[test]
    fn addresses_are_bounded_and_what_is_left_out_is_counted() {
        let many: Vec<IpAddr> = (0..1_500_u32).map(|i| IpAddr::V4((0x0a00_0000 + i).into())).collect();
        let mut name = Name::new(Instant::now());
        name.take([Found::Some(many, TTL_MAX), none()], &Dns::default(), Instant::now(), 0.0);
        assert_eq!((name.addresses().len(), name.left_out()), (ADDRESSES_MAX, 500));
    }
}
