//! How long the sidecar can still show who it is, and how loud that is told: on stderr at each step towards the end, and
//! again when all is well.
//!
//! ```text
//! missing -> ok -> late -> urgent -> expired
//!             ^------'--------'---------'   renewed
//! ```

use std::collections::BTreeSet;
use std::time::SystemTime;

use identity::chain::Runway;
use identity::plan::{Life, Urgency};
use identity::state::Trouble;

/// Different reasons that are told until a certificate comes; `/config` and the metrics show them all.
const TOLD_MAX: usize = 8;

/// How an identity stands; the label `state` of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It is good for long enough.
    #[default]
    Ok,
    /// It should have been renewed long ago.
    Late,
    /// It ends soon.
    Urgent,
    /// It has ended, and nobody takes it any more.
    Expired,
    /// There is none yet.
    Missing,
}

/// All of them, in the order of metrics.
pub(crate) const STANDINGS: [Standing; 5] =
    [Standing::Ok, Standing::Late, Standing::Urgent, Standing::Expired, Standing::Missing];

impl Standing {
    /// As pages and metrics name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Late => "late",
            Self::Urgent => "urgent",
            Self::Expired => "expired",
            Self::Missing => "missing",
        }
    }
}

impl From<Urgency> for Standing {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Calm => Self::Ok,
            Urgency::Late => Self::Late,
            Urgency::Urgent => Self::Urgent,
            Urgency::Expired => Self::Expired,
        }
    }
}

/// How it stands at `now`, and which certificate says so: a root that goes speaks as loud as a leaf. `None`: there is none.
pub(crate) fn standing(runway: Option<&Runway>, now: SystemTime) -> (Standing, &'static str) {
    let Some(Runway { leaf, issuer, root }) = runway else { return (Standing::Missing, "leaf") };
    let of = |life: &Option<Life>, name| {
        let urgency = life.map_or(Urgency::Calm, |life| life.root_urgency(now));
        (Standing::from(urgency), name)
    };
    let all = [of(root, "root"), of(issuer, "issuer"), (leaf.urgency(now).into(), "leaf")];
    // The last of equals: a leaf that has ended is what matters.
    all.into_iter().max_by_key(|(standing, _)| *standing).unwrap_or((Standing::Ok, "leaf"))
}

/// What has been told.
#[derive(Debug, Default)]
pub(crate) struct Crier {
    told: Standing,
    why: BTreeSet<String>,
}

impl Crier {
    /// What is to be said now, if anything.
    pub(crate) fn look(
        &mut self,
        runway: Option<&Runway>,
        trouble: Option<&Trouble>,
        now: SystemTime,
    ) -> Option<String> {
        let (standing, which) = standing(runway, now);
        let before = std::mem::replace(&mut self.told, standing);
        let why = trouble.map(|trouble| trouble.why.as_str());
        if standing == Standing::Missing && why.is_none() {
            // It has just been asked for.
            self.told = before;
            return None;
        }
        if standing == Standing::Ok && why.is_none() {
            let healed = before != Standing::Ok || !self.why.is_empty();
            self.why.clear();
            return healed.then(|| "identity: a good certificate is in force".to_owned());
        }
        let is_news = why.is_some_and(|why| {
            !self.why.contains(why) && self.why.len() < TOLD_MAX && self.why.insert(why.to_owned())
        });
        if standing <= before && !is_news {
            return None;
        }
        let left = runway.map(|Runway { leaf, issuer, root }| {
            let life = match which {
                "issuer" => issuer.unwrap_or(*leaf),
                "root" => root.unwrap_or(*leaf),
                _ => *leaf,
            };
            life.left(now).as_secs()
        });
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let seconds = left.unwrap_or_default();
        Some(match standing {
            Standing::Missing => {
                format!("identity: there is no certificate yet, and calls wait{why}; tried again")
            }
            Standing::Expired => {
                format!("identity: THE {which} HAS EXPIRED, and nobody takes us for one of the mesh{why}")
            }
            Standing::Urgent => format!("identity: the {which} expires in {seconds} s, URGENT{why}"),
            Standing::Late => {
                format!("identity: the {which} expires in {seconds} s and is late to be renewed{why}")
            }
            Standing::Ok => {
                format!("identity: it cannot be renewed, and is good for {seconds} s more{why}; tried again")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use identity::state::Reason;

    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn lives(leaf: u64, root: u64) -> Runway {
        let root = Some(Life { begin: at(0) - Duration::from_secs(3_650 * DAY), end: at(root) });
        Runway { leaf: Life { begin: at(0), end: at(leaf) }, issuer: root, root }
    }

    fn trouble(why: &str) -> Trouble {
        Trouble { reason: Reason::Connect, why: why.to_owned(), since: at(0), attempts: 1 }
    }

    #[test]
    fn the_worst_of_leaf_issuer_and_root_says_how_it_stands() {
        let of = |leaf, root, now| standing(Some(&lives(leaf, root)), at(now));
        assert_eq!(of(DAY, 3_650 * DAY, 0).0, Standing::Ok);
        assert_eq!(of(DAY, 3_650 * DAY, DAY * 17 / 24), (Standing::Late, "leaf"));
        assert_eq!(of(DAY, 3_650 * DAY, DAY * 21 / 24), (Standing::Urgent, "leaf"));
        assert_eq!(of(DAY, 3_650 * DAY, DAY), (Standing::Expired, "leaf"));
        assert_eq!(of(DAY, 20 * DAY, 0).0, Standing::Late);
        assert_eq!(of(DAY, 5 * DAY, 0).0, Standing::Urgent);
        assert_eq!(of(DAY, DAY, DAY), (Standing::Expired, "leaf"));
        assert_eq!(standing(None, at(0)).0, Standing::Missing);
    }

    #[test]
    fn each_step_towards_the_end_is_told_once_and_its_end_as_well() {
        let (day, mut crier, mut told) = (lives(DAY, 3_650 * DAY), Crier::default(), Vec::new());
        for hour in 0..30 {
            let line = crier.look(Some(&day), Some(&trouble("no way")), at(hour * 3_600));
            told.extend(line.map(|line| (hour, line)));
        }
        let hours: Vec<u64> = told.iter().map(|(hour, _)| *hour).collect();
        assert_eq!(hours, [0, 17, 21, 24], "{told:?}");
        assert!(told.iter().all(|(_, line)| line.contains("no way")), "{told:?}");
        let fresh = lives(10 * DAY, 3_650 * DAY);
        let well = crier.look(Some(&fresh), None, at(30 * 3_600));
        assert_eq!(well.as_deref(), Some("identity: a good certificate is in force"));
        assert_eq!(crier.look(Some(&fresh), None, at(31 * 3_600)), None);
    }

    #[test]
    fn new_reasons_are_told_until_there_were_many_and_old_ones_are_not() {
        let mut crier = Crier::default();
        let first = crier.look(None, Some(&trouble("refused")), at(0));
        assert!(first.is_some_and(|line| line.contains("no certificate yet") && line.contains("refused")));
        assert_eq!(crier.look(None, Some(&trouble("refused")), at(1)), None);
        assert!(crier.look(None, Some(&trouble("late")), at(2)).is_some());
        assert_eq!(crier.look(None, Some(&trouble("refused")), at(3)), None);
        let more = (0..100).filter(|n| crier.look(None, Some(&trouble(&n.to_string())), at(4)).is_some());
        assert_eq!(more.count(), TOLD_MAX - 2);
    }

    #[test]
    fn an_identity_that_is_there_at_once_is_nothing_to_tell() {
        assert_eq!(Crier::default().look(Some(&lives(DAY, 3_650 * DAY)), None, at(0)), None);
    }
}
