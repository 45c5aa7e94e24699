//! Which root signs, which are trusted, and until when that stays so: a pure function of the roots and the time.
//!
//! ```text
//!  introduced        + overlap                       successor takes over   + leaf_life + skew
//!      |  trusted only   |  trusted, and signs              |  trusted only       |  gone
//!      '-----------------'----------------------------------'---------------------'------->
//! ```
//!
//! A new root is trusted by everybody before it signs for anybody, and an old one for as long as something that it signed may
//! live. Nothing need be remembered: whoever starts on the same folder at the same time comes to the same result. A root that was
//! stolen signs nothing while there is another.

use std::time::{Duration, SystemTime};

use identity::material::CLOCK_SKEW_MAX;

/// What matters of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Since when everybody may know it, by its own dates. Which root is the newer one goes by this.
    pub introduced: SystemTime,
    /// It is good until then.
    pub not_after: SystemTime,
    /// Without one it is trusted and signs nothing.
    pub has_key: bool,
    /// When it was seen to come, whatever its dates say; `None`: it was there when the process began.
    pub seen: Option<SystemTime>,
    /// The same of its key.
    pub key_seen: Option<SystemTime>,
    /// Somebody else has its key.
    pub is_stolen: bool,
}

/// How a root comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How long a root is trusted before it signs.
    pub overlap: Duration,
    /// What it signs lives so long at most.
    pub leaf_life: Duration,
}

/// Roots by their places in what was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which signs; `None`: no root that is good has a key.
    pub signer: Option<usize>,
    /// Those that are trusted: the signer first, then the newest first.
    pub trusted: Vec<usize>,
    /// When this changes.
    pub next: Option<SystemTime>,
}

/// How roots stand at `now`. Of two that came at the same time, the one given later is the newer.
///
/// The signer is the newest root with a key that has been trusted for the overlap, else the oldest with a key; one that was stolen only
/// where there is no other. A root with a key leaves once another one has signed in its place for as long as leaves live. One without a
/// key stays for as long as its file does.
pub fn standing(roots: &[Times], rule: Rule, now: SystemTime) -> Standing {
    let (signer, trusted) = at(roots, rule, now);
    let mut moments: Vec<SystemTime> = (0..roots.len())
        .flat_map(|root| {
            [Some(roots[root].not_after), signs_from(&roots[root], rule), leaves(roots, root, rule)]
        })
        .flatten()
        .filter(|moment| *moment > now)
        .collect();
    moments.sort_unstable();
    let next = moments.into_iter().find(|moment| at(roots, rule, *moment) != (signer, trusted.clone()));
    Standing { signer, trusted, next }
}

fn at(roots: &[Times], rule: Rule, now: SystemTime) -> (Option<usize>, Vec<usize>) {
    let mut newest: Vec<usize> = (0..roots.len()).filter(|root| roots[*root].not_after > now).collect();
    newest.sort_by_key(|root| std::cmp::Reverse((roots[*root].introduced, *root)));
    let is_safe = |root: &Times| root.has_key && !root.is_stolen;
    let any_safe = newest.iter().any(|root| is_safe(&roots[*root]));
    let signs = |root: &Times| if any_safe { is_safe(root) } else { root.has_key };
    let with_key = || newest.iter().copied().filter(|root| signs(&roots[*root]));
    let may_sign = |root: &usize| signs_from(&roots[*root], rule).is_some_and(|from| from <= now);
    let signer = with_key().find(may_sign).or_else(|| with_key().next_back());
    let stays = |root: &usize| leaves(roots, *root, rule).is_none_or(|leaves| leaves > now);
    let others = newest.iter().copied().filter(|root| Some(*root) != signer && stays(root));
    (signer, signer.into_iter().chain(others).collect())
}

/// From when on it may sign.
fn signs_from(root: &Times, rule: Rule) -> Option<SystemTime> {
    let known = root.seen.map_or(root.introduced, |seen| seen.max(root.introduced));
    let overlapped = known.checked_add(rule.overlap)?;
    root.has_key.then(|| root.key_seen.map_or(overlapped, |key| key.max(overlapped)))
}

/// When nothing that it has signed is good any more.
fn leaves(roots: &[Times], root: usize, rule: Rule) -> Option<SystemTime> {
    if !roots[root].has_key {
        return None;
    }
    let order = |other: usize| (roots[other].introduced, other);
    let successors = (0..roots.len()).filter(|other| order(*other) > order(root));
    let takes_over = successors.filter_map(|other| signs_from(&roots[other], rule)).min()?;
    takes_over.checked_add(rule.leaf_life)?.checked_add(CLOCK_SKEW_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const DAY: u64 = 24 * 3_600;
    const SKEW: u64 = CLOCK_SKEW_MAX.as_secs();

    fn time(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000 * DAY + seconds)
    }

    fn rule() -> Rule {
        Rule { overlap: Duration::from_secs(DAY), leaf_life: Duration::from_secs(DAY) }
    }

    /// A root that came then, with its key.
    fn root(introduced: u64) -> Times {
        let introduced = time(introduced);
        let not_after = time(3_650 * DAY);
        Times { introduced, not_after, has_key: true, seen: None, key_seen: None, is_stolen: false }
    }

    fn of(roots: &[Times], now: u64) -> (Option<usize>, Vec<usize>, Option<SystemTime>) {
        let Standing { signer, trusted, next } = standing(roots, rule(), time(now));
        (signer, trusted, next)
    }

    #[test]
    fn the_first_root_signs_at_once() {
        assert_eq!(of(&[root(0)], 1), (Some(0), vec![0], Some(time(3_650 * DAY))));
        assert_eq!(of(&[], 1), (None, vec![], None));
    }

    #[test]
    fn a_new_root_is_trusted_first_then_signs_and_the_old_one_leaves_last() {
        let roots = [root(0), root(10 * DAY)];
        let takes_over = 11 * DAY;
        let gone = takes_over + DAY + SKEW;
        assert_eq!(of(&roots, 10 * DAY), (Some(0), vec![0, 1], Some(time(takes_over))));
        assert_eq!(of(&roots, takes_over - 1), (Some(0), vec![0, 1], Some(time(takes_over))));
        assert_eq!(of(&roots, takes_over), (Some(1), vec![1, 0], Some(time(gone))));
        assert_eq!(of(&roots, gone - 1), (Some(1), vec![1, 0], Some(time(gone))));
        assert_eq!(of(&roots, gone), (Some(1), vec![1], Some(time(3_650 * DAY))));
    }

    #[test]
    fn every_moment_that_is_foretold_changes_something_and_nothing_changes_between() {
        let handed_in = Times { has_key: false, ..root(7 * DAY) };
        let short = Times { not_after: time(40 * DAY), ..root(0) };
        let roots = [short, root(10 * DAY), handed_in, root(10 * DAY + 100), root(30 * DAY)];
        let mut now = time(0);
        let mut steps = 0;
        loop {
            let Standing { signer, trusted, next } = standing(&roots, rule(), now);
            let Some(next) = next else { break };
            assert!(next > now);
            let just_before = standing(&roots, rule(), next - Duration::from_secs(1));
            assert_eq!((signer, &trusted), (just_before.signer, &just_before.trusted));
            let then = standing(&roots, rule(), next);
            assert_ne!((signer, trusted), (then.signer, then.trusted));
            now = next;
            steps += 1;
        }
        assert!(steps >= 6, "{steps}");
    }

    #[test]
    fn a_certificate_that_is_handed_in_first_is_trusted_and_signs_once_its_key_is_there() {
        let mut roots = [root(0), Times { has_key: false, ..root(10 * DAY) }];
        assert_eq!(of(&roots, 20 * DAY).0, Some(0));
        assert_eq!(of(&roots, 20 * DAY).1, [0, 1]);
        // The key comes long after the overlap: what the old root has just signed must still be good.
        (roots[1].has_key, roots[1].key_seen) = (true, Some(time(20 * DAY)));
        let gone = 21 * DAY + SKEW;
        assert_eq!(of(&roots, 20 * DAY), (Some(1), vec![1, 0], Some(time(gone))));
        assert_eq!(of(&roots, gone).1, [1]);
    }

    #[test]
    fn a_root_whose_key_is_gone_stays_trusted_and_the_next_signs_at_once() {
        let roots = [Times { has_key: false, ..root(0) }, root(10 * DAY)];
        assert_eq!(of(&roots, 10 * DAY).0, Some(1));
        assert_eq!(of(&roots, 20 * DAY).1, [1, 0]);
    }

    #[test]
    fn a_root_of_an_old_date_that_was_seen_to_come_is_held_back_for_the_overlap() {
        let roots = [root(0), Times { seen: Some(time(50 * DAY)), ..root(10 * DAY) }];
        assert_eq!(of(&roots, 50 * DAY), (Some(0), vec![0, 1], Some(time(51 * DAY))));
        assert_eq!(of(&roots, 51 * DAY).0, Some(1));
        assert_eq!(of(&roots, 52 * DAY + SKEW).1, [1]);
    }

    #[test]
    fn a_root_that_was_stolen_stays_trusted_and_signs_only_where_there_is_no_other() {
        let stolen = Times { is_stolen: true, ..root(0) };
        assert_eq!(of(&[stolen], 5).0, Some(0));
        let roots = [stolen, root(10 * DAY)];
        assert_eq!(of(&roots, 10 * DAY), (Some(1), vec![1, 0], Some(time(12 * DAY + SKEW))));
    }

    #[test]
    fn a_root_that_has_expired_neither_signs_nor_is_trusted() {
        let roots = [Times { not_after: time(5), ..root(0) }];
        assert_eq!(of(&roots, 4), (Some(0), vec![0], Some(time(5))));
        assert_eq!(of(&roots, 5), (None, vec![], None));
    }

    #[test]
    fn without_an_overlap_a_new_root_signs_at_once() {
        let rule = Rule { overlap: Duration::ZERO, leaf_life: Duration::from_secs(10) };
        let Standing { signer, trusted, next } = standing(&[root(0), root(100)], rule, time(100));
        assert_eq!((signer, trusted), (Some(1), vec![1, 0]));
        assert_eq!(next, Some(time(110 + SKEW)));
    }
}
