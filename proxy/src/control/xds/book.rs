//! What is known of the control plane's resources, and which of them are asked for. Pure; the protocols (`delta`, `sotw`)
//! stand above it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use xds::Kind;

use crate::control::xds::held::{Accepted, Held};
use crate::control::xds::judge::{Verdict, What};
use crate::control::xds::settle::{needed, settle};
use crate::control::xds::state::{Lacks, Refused};
use crate::control::xds::wire::{Answer, Entry};

/// Resources that are held, at most.
pub(crate) const RESOURCES_MAX: usize = 100_000;
/// Memory that resources take which are held, at most, in bytes; about, and each version of them by itself.
pub(crate) const WEIGHT_MAX: usize = 128 << 20;
/// Refused resources that are remembered, at most; more are refused all the same.
const REFUSED_MAX: usize = 1_000;
/// Our own inbound listeners are asked for under this name and the service's.
const INBOUND: &str = "inbound/";

/// The book of one control plane.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Listeners that are asked for whatever calls want.
    own: BTreeSet<String>,
    /// The newest good version of each resource.
    newest: Held,
    /// How much memory they take together.
    weight: usize,
    /// What was put in force last.
    in_force: Held,
    refused: BTreeMap<(Kind, String), Refused>,
    /// Names that are asked for and do not exist.
    absent: BTreeSet<(Kind, String)>,
    /// Names that are to be asked for; listeners besides all that the control plane shows unasked.
    wanted: BTreeMap<Kind, BTreeSet<String>>,
    incomplete: Lacks,
}

/// What came of an answer.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// `NAME: PATH: REASON` of each resource that was refused.
    pub(crate) refused: Vec<String>,
    /// Those of them that are news.
    pub(crate) news: Vec<String>,
    /// Resources that nobody asked for, and that were left out.
    pub(crate) unasked: u64,
}

impl Book {
    /// Of a sidecar that has inbound calls of `services`, and `held` from before.
    pub(crate) fn new(services: &[String], held: Held) -> Self {
        let own = services.iter().flat_map(|service| [service.clone(), format!("{INBOUND}{service}")]);
        let weight = held.iter().map(|(_, _, one)| one.weight()).sum();
        let mut book =
            Self { own: own.collect(), newest: held.clone(), weight, in_force: held, ..Self::default() };
        book.want(&BTreeSet::new());
        book.trim();
        book
    }

    /// What calls ask for changes.
    pub(crate) fn want(&mut self, hosts: &BTreeSet<String>) {
        let listeners: BTreeSet<String> = self.own.union(hosts).cloned().collect();
        self.absent.retain(|(kind, name)| *kind != Kind::Listener || listeners.contains(name));
        self.wanted.insert(Kind::Listener, listeners);
    }

    /// The names of a kind that are to be asked for.
    pub(crate) fn wanted(&self, kind: Kind) -> &BTreeSet<String> {
        const NONE: &BTreeSet<String> = &BTreeSet::new();
        self.wanted.get(&kind).unwrap_or(NONE)
    }

    /// The newest good versions.
    pub(crate) fn newest(&self) -> &Held {
        &self.newest
    }

    /// Which resources of an answer are held as they are, so that they need no second look. `by_version`: each has a
    /// version of its own, which must be the same too.
    pub(crate) fn is_held(&self, answer: &Answer, kind: Kind, by_version: bool) -> Vec<bool> {
        let is_held = |entry: &Entry| {
            let Some(held) = self.newest.get(kind, &entry.name) else { return false };
            let is_same = entry.bytes.as_ref().is_none_or(|bytes| *bytes == held.bytes);
            let says_so = entry.type_url == kind.type_url() || entry.bytes.is_none();
            is_same && says_so && (!by_version || entry.version == held.version)
        };
        answer.entries.iter().map(is_held).collect()
    }

    /// Takes over what was found good of an answer about `kind`.
    pub(crate) fn take(&mut self, kind: Kind, verdicts: Vec<Verdict>, now: SystemTime) -> Outcome {
        let mut outcome = Outcome::default();
        for Verdict { name, version, what } in verdicts {
            if name.is_empty() {
                outcome.refused.push("a resource without a name".to_owned());
                continue;
            }
            let asked = kind == Kind::Listener || self.wanted(kind).contains(&name);
            if !asked {
                outcome.unasked += 1;
                continue;
            }
            let key = (kind, name);
            let why = match what {
                What::Held => None,
                What::Refused(why) => Some(why),
                What::Accepted(resource) => match self.room(&key, resource.weight()) {
                    Err(why) => Some(why),
                    Ok(()) => {
                        for (kind, name) in &resource.needs {
                            self.wanted.entry(*kind).or_default().insert(name.clone());
                        }
                        self.newest.insert(kind, &key.1, resource);
                        None
                    }
                },
            };
            self.absent.remove(&key);
            match why {
                None => _ = self.refused.remove(&key),
                Some(why) => self.refuse(key, version, why, now, &mut outcome),
            }
        }
        outcome
    }

    /// Names of a kind that are no more, or never were. An assignment that goes while its cluster stays has no endpoints
    /// from then on; else those it had would be called for ever.
    pub(crate) fn remove(&mut self, kind: Kind, names: impl IntoIterator<Item = String>) {
        for name in names {
            let gone = self.newest.remove(kind, &name);
            self.weight -= gone.as_ref().map_or(0, |gone| gone.weight());
            let is_wanted = self.wanted(kind).contains(&name);
            if gone.is_some() && kind == Kind::Endpoints && self.is_named_by_a_cluster(&name) {
                let none = Arc::new(Accepted::no_endpoints(&name));
                self.weight += none.weight();
                self.newest.insert(kind, &name, none);
            }
            let key = (kind, name);
            self.refused.remove(&key);
            if is_wanted {
                self.absent.insert(key);
            }
        }
    }

    fn is_named_by_a_cluster(&self, assignment: &str) -> bool {
        let names = |cluster: &Arc<Accepted>| cluster.needs.iter().any(|(_, need)| need == assignment);
        let clusters = self.newest.of(Kind::Cluster);
        // Most of them have the name of their cluster.
        clusters.get(assignment).is_some_and(names) || clusters.values().any(names)
    }

    /// Chooses what is to be in force now; `None`: what is.
    pub(crate) fn settle(&mut self) -> Option<Held> {
        let settled = settle(&self.newest, &self.in_force);
        self.incomplete = settled.incomplete;
        let is_new = !settled.held.is(&self.in_force);
        self.in_force = settled.held;
        self.trim();
        is_new.then(|| self.in_force.clone())
    }

    /// Asks no more for what nothing names any more, and lets go of it.
    fn trim(&mut self) {
        let mut wanted: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
        for (kind, name) in needed(&self.newest, &self.in_force) {
            wanted.entry(kind).or_default().insert(name);
        }
        wanted.insert(Kind::Listener, self.wanted.remove(&Kind::Listener).unwrap_or_default());
        self.wanted = wanted;
        let stale: Vec<(Kind, Arc<str>)> = self
            .newest
            .iter()
            .filter(|(kind, name, _)| *kind != Kind::Listener && !self.wanted(*kind).contains(&***name))
            .map(|(kind, name, _)| (kind, name.clone()))
            .collect();
        for (kind, name) in stale {
            self.weight -= self.newest.remove(kind, &name).map_or(0, |gone| gone.weight());
        }
        let wanted =
            |key: &(Kind, String)| self.wanted.get(&key.0).is_some_and(|names| names.contains(&key.1));
        self.absent.retain(|key| wanted(key));
        self.refused.retain(|key, _| key.0 == Kind::Listener || wanted(key));
    }

    /// Whether everything that is asked for has been answered in one way or the other.
    pub(crate) fn is_answered(&self) -> bool {
        self.wanted.iter().all(|(kind, names)| {
            names.iter().all(|name| {
                let key = || (*kind, name.clone());
                self.newest.holds(*kind, name)
                    || self.absent.contains(&key())
                    || self.refused.contains_key(&key())
            })
        })
    }

    /// Listeners that were asked for by name and do not exist.
    pub(crate) fn absent(&self) -> BTreeSet<String> {
        let listeners = self.absent.iter().filter(|(kind, _)| *kind == Kind::Listener);
        listeners.map(|(_, name)| name.clone()).collect()
    }

    /// Resources that cannot be honoured.
    pub(crate) fn refused(&self) -> &BTreeMap<(Kind, String), Refused> {
        &self.refused
    }

    /// What lacks something.
    pub(crate) fn incomplete(&self) -> &Lacks {
        &self.incomplete
    }

    /// Makes room for a resource of this weight.
    fn room(&mut self, key: &(Kind, String), weight: usize) -> Result<(), String> {
        let before = self.newest.get(key.0, &key.1).map(|held| held.weight());
        if before.is_none() && self.newest.len() >= RESOURCES_MAX {
            return Err(format!("more than {RESOURCES_MAX} resources"));
        }
        let after = self.weight - before.unwrap_or(0) + weight;
        if after > WEIGHT_MAX {
            return Err(format!("resources that take more than {WEIGHT_MAX} bytes of memory together"));
        }
        self.weight = after;
        Ok(())
    }

    fn refuse(
        &mut self,
        key: (Kind, String),
        version: Arc<str>,
        why: String,
        now: SystemTime,
        outcome: &mut Outcome,
    ) {
        let said = format!("{}: {why}", key.1);
        let before = self.refused.get(&key);
        if before.is_none_or(|before| before.why != why) {
            outcome.news.push(format!("{} {said}", word(key.0)));
        }
        let is_new = before.is_none_or(|before| before.why != why || before.version != version);
        // Of our own it is always known: who may call us hangs on it.
        let is_own = key.0 == Kind::Listener && self.own.contains(&key.1);
        if is_new && (before.is_some() || is_own || self.refused.len() < REFUSED_MAX) {
            self.refused.insert(key, Refused { version, why, at: now });
        }
        outcome.refused.push(said);
    }
}

/// A kind as people call it.
pub(crate) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "cluster",
        Kind::Endpoints => "endpoints",
        Kind::Listener => "listener",
        Kind::Routes => "routes",
    }
}

#[cfg(test)]
mod tests {
    use xds::decode::{Own, Part, decode};

    use super::*;
    use crate::control::xds::fixture::{answer, resource, service, set, shown, take, verdict};

    const NONE: Option<Held> = None;

    fn names(book: &Book, kind: Kind) -> Vec<&str> {
        book.wanted(kind).iter().map(String::as_str).collect()
    }

    fn book() -> Book {
        Book::new(&["a.n".to_owned()], Held::default())
    }

    #[test]
    fn what_a_listener_leads_to_is_asked_for_step_by_step_and_let_go_with_it() {
        let mut book = book();
        assert_eq!(names(&book, Kind::Listener), ["a.n", "inbound/a.n"]);
        assert!(names(&book, Kind::Routes).is_empty());
        let [listener, routes, cluster, endpoints] = service("b.n", "1");
        take(&mut book, &[listener]);
        assert_eq!(names(&book, Kind::Routes), ["b.n"]);
        take(&mut book, &[routes]);
        assert_eq!(names(&book, Kind::Cluster), ["b.n"]);
        take(&mut book, &[cluster, endpoints]);
        assert_eq!(book.settle().map(|held| held.len()), Some(4));
        book.remove(Kind::Listener, ["b.n".to_owned()]);
        assert_eq!(book.settle().map(|held| held.len()), Some(0));
        assert!(Kind::ALL[..2].iter().all(|kind| names(&book, *kind).is_empty()));
        assert_eq!((book.newest().len(), book.weight), (0, 0), "nothing of it is kept");
    }

    #[test]
    fn routes_in_force_are_asked_for_until_those_that_follow_are_whole() {
        let mut book = book();
        take(&mut book, &service("b.n", "1"));
        book.settle();
        take(&mut book, &[(Kind::Listener, "b.n", resource("2", &[(Kind::Routes, "other")]))]);
        assert_eq!(book.settle().map(|held| held.len()), NONE.map(|held| held.len()));
        assert_eq!(names(&book, Kind::Routes), ["b.n", "other"]);
        assert_eq!(names(&book, Kind::Cluster), ["b.n"]);
        take(&mut book, &[(Kind::Routes, "other", resource("2", &[(Kind::Cluster, "b.n")]))]);
        book.settle();
        assert_eq!(names(&book, Kind::Routes), ["other"]);
    }

    #[test]
    fn a_refused_resource_keeps_its_last_good_version_and_is_news_once() {
        let mut book = book();
        take(&mut book, &service("b.n", "1"));
        book.settle();
        let refuse = |book: &mut Book, why: &str| {
            verdict(book, Kind::Routes, "b.n", "2", What::Refused(why.to_owned()))
        };
        let first = refuse(&mut book, "virtual_hosts: none");
        assert_eq!(first.refused, ["b.n: virtual_hosts: none"]);
        assert_eq!(first.news, ["routes b.n: virtual_hosts: none"]);
        let again = refuse(&mut book, "virtual_hosts: none");
        assert_eq!((again.refused.len(), again.news.len()), (1, 0), "refused again, told once");
        assert_eq!(refuse(&mut book, "another").news.len(), 1);
        assert!(book.settle().is_none());
        assert_eq!(book.refused().len(), 1);
        take(&mut book, &service("b.n", "3"));
        assert!(book.refused().is_empty());
        assert!(book.settle().is_some());
    }

    #[test]
    fn a_host_that_does_not_exist_is_known_as_long_as_it_is_asked_for() {
        let mut book = book();
        let host = || BTreeSet::from(["nobody:80".to_owned()]);
        book.want(&host());
        assert!(!book.is_answered());
        book.remove(Kind::Listener, ["nobody:80".to_owned(), "a.n".to_owned(), "stray".to_owned()]);
        assert_eq!(book.absent().into_iter().collect::<Vec<_>>(), ["a.n", "nobody:80"]);
        book.remove(Kind::Listener, ["inbound/a.n".to_owned()]);
        assert!(book.is_answered());
        take(&mut book, &[(Kind::Listener, "nobody:80", resource("1", &[]))]);
        assert!(!book.absent().contains("nobody:80"), "it has come to be");
        book.remove(Kind::Listener, host());
        book.want(&BTreeSet::new());
        assert!(!book.absent().contains("nobody:80"));
    }

    #[test]
    fn what_nobody_asked_for_is_left_out() {
        let mut book = book();
        let what = What::Accepted(resource("1", &[]));
        assert_eq!(verdict(&mut book, Kind::Cluster, "stray", "1", what).unasked, 1);
        assert!(book.newest().is_empty());
    }

    #[test]
    fn what_is_held_as_it_is_needs_no_second_look() {
        let mut book = book();
        take(&mut book, &service("b.n", "1"));
        let same = |version: &str, by_version| {
            let mut answer = answer(Kind::Cluster, "x", "1", &["b.n", "c.n"], &[]);
            answer.entries.iter_mut().for_each(|entry| entry.version = version.into());
            book.is_held(&answer, Kind::Cluster, by_version)
        };
        assert_eq!(same("1", true), [true, false]);
        assert_eq!(same("2", true), [false, false], "its version is news to who asks for it");
        assert_eq!(same("2", false), [true, false]);
    }

    #[test]
    fn a_book_begins_with_what_was_kept_and_asks_for_it() {
        let mut book = Book::new(&["a.n".to_owned()], set(service("b.n", "1")));
        assert_eq!(names(&book, Kind::Endpoints), ["b.n"]);
        assert!(book.settle().is_none(), "it is in force");
        take(&mut book, &[(Kind::Endpoints, "b.n", resource("2", &[]))]);
        let held = book.settle().unwrap();
        assert_eq!(shown(&held), ["Cluster b.n 1", "Endpoints b.n 2", "Listener b.n 1", "Routes b.n 1"]);
    }

    #[test]
    fn an_assignment_that_goes_while_its_cluster_stays_has_no_endpoints_from_then_on() {
        let mut book = book();
        take(&mut book, &service("b.n", "1"));
        book.settle();
        book.remove(Kind::Endpoints, ["b.n".to_owned(), "never.here".to_owned()]);
        let held = book.settle().expect("it is news");
        let one = held.get(Kind::Endpoints, "b.n").unwrap();
        assert!(matches!(&one.part, Part::Endpoints(part) if part.endpoints.is_empty()), "{one:?}");
        let own = Own { trust_domain: "cluster.local".to_owned(), namespace: "n".to_owned() };
        assert!(decode(Kind::Endpoints, "b.n", &one.bytes, &own).is_ok(), "it can be read again from disk");
        assert!(!held.holds(Kind::Endpoints, "never.here"));
        take(&mut book, &[(Kind::Endpoints, "b.n", resource("2", &[]))]);
        assert_eq!(&*book.settle().unwrap().get(Kind::Endpoints, "b.n").unwrap().version, "2");
        book.remove(Kind::Listener, ["b.n".to_owned()]);
        book.settle();
        assert_eq!((book.newest().len(), book.weight), (0, 0));
    }

    #[test]
    fn what_is_refused_again_in_another_version_is_shown_in_that_version() {
        let mut book = book();
        for (version, seconds) in [("1", 1), ("2", 2), ("2", 3)] {
            let what = What::Refused("no".to_owned());
            let verdict = Verdict { name: "b.n".to_owned(), version: version.into(), what };
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            book.take(Kind::Listener, vec![verdict], at);
        }
        let Refused { version, at, .. } = &book.refused()[&(Kind::Listener, "b.n".to_owned())];
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!((&**version, since), ("2", 2));
    }

    #[test]
    fn however_much_is_refused_our_own_is_known() {
        let mut book = book();
        let refuse = |book: &mut Book, name: &str| {
            verdict(book, Kind::Listener, name, "1", What::Refused("no".to_owned()))
        };
        for number in 0..2 * REFUSED_MAX {
            refuse(&mut book, &number.to_string());
        }
        assert_eq!(book.refused().len(), REFUSED_MAX);
        refuse(&mut book, "inbound/a.n");
        assert!(book.refused().contains_key(&(Kind::Listener, "inbound/a.n".to_owned())));
    }

    #[test]
    fn many_small_resources_have_a_bound_together() {
        let mut book = book();
        book.weight = WEIGHT_MAX - 2 * resource("1", &[]).weight();
        let mut offer = |name: &str| {
            verdict(&mut book, Kind::Listener, name, "1", What::Accepted(resource("1", &[]))).refused.len()
        };
        assert_eq!([offer("a"), offer("b"), offer("c"), offer("a")], [0, 0, 1, 0]);
    }
}
