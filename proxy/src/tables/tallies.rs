//! How often rules decided, by service and rule, in every snapshot that has them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use config::model::{self, Action};

use crate::metrics::counter::Counter;
use crate::tables::rules::Verdict;

/// Rules of a service that are told apart; those past it count as [`OTHER`].
const RULES_TOLD_MAX: usize = 100;

/// Labels that are kept, those of rules that are gone among them; past it what is new counts as [`OTHER`].
const LABELS_MAX: usize = 10_000;

/// The label of what no rule decided.
pub(crate) const DEFAULT: &str = "default";

/// The label of what is refused because its path may mean another one.
pub(crate) const AMBIGUOUS: &str = "ambiguous_path";

/// The label of rules that are not told apart.
const OTHER: &str = "other";

/// The labels `decision`: what a rule with `allow`, `deny` or `audit` does.
const DECISIONS: [&str; 3] = ["allowed", "denied", "audited"];

/// What one worker counted; a cache line of its own, so that workers do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Tally(Counter);

type Tallied = Arc<[Tally]>;

/// What is counted: service, decision and rule.
type Label = (Arc<str>, &'static str, Box<str>);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<BTreeMap<Label, Tallied>>);

/// Those of one service's rules.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Of the first rules, in their order.
    rules: Box<[Tallied]>,
    /// Of the others, by action.
    others: [Option<Tallied>; 3],
    /// Where no rule decides: refused, let in.
    default: [Tallied; 2],
    ambiguous: Tallied,
}

impl Tallies {
    /// Where the rules of `service` are counted.
    pub(crate) fn of(&self, service: &Arc<str>, rules: &model::Authorization, workers: usize) -> Counts {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut find = |action: Action, rule: &str| {
            let decision = DECISIONS[action as usize];
            let label = (service.clone(), decision, Box::from(rule));
            let label = match kept.len() < LABELS_MAX || kept.contains_key(&label) {
                true => label,
                false => (service.clone(), decision, OTHER.into()),
            };
            kept.entry(label).or_insert_with(|| (0..workers).map(|_| Tally::default()).collect()).clone()
        };
        let told = rules.rules.iter().enumerate().take(RULES_TOLD_MAX);
        let told = told.map(|(at, rule)| find(rule.action, &name(rules, at))).collect();
        let mut other = |action| {
            let mut rest = rules.rules.iter().skip(RULES_TOLD_MAX);
            rest.any(|rule| rule.action == action).then(|| find(action, OTHER))
        };
        let others = [Action::Allow, Action::Deny, Action::Audit].map(&mut other);
        let default = [find(Action::Deny, DEFAULT), find(Action::Allow, DEFAULT)];
        Counts { rules: told, others, default, ambiguous: find(Action::Deny, AMBIGUOUS) }
    }

    /// Every label with its sum.
    pub(crate) fn each(&self, mut tell: impl FnMut(&str, &str, &str, u64)) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((service, decision, rule), tallied) in kept.iter() {
            tell(service, decision, rule, tallied.iter().map(|tally| tally.0.value()).sum());
        }
    }
}

impl Counts {
    /// Counts a call that was decided; by its worker.
    pub(crate) fn count(&self, rules: &model::Authorization, verdict: Verdict, worker: usize) {
        let one = |at: Option<u32>| {
            let at = at? as usize;
            let other = || self.others[rules.rules.get(at)?.action as usize].as_ref();
            self.rules.get(at).or_else(other)
        };
        let by = match verdict.ambiguous {
            true => &self.ambiguous,
            false => one(verdict.by).unwrap_or(&self.default[usize::from(verdict.allowed)]),
        };
        for tallied in [Some(by), one(verdict.audit)].into_iter().flatten() {
            tallied[worker].0.add(1);
        }
    }
}

/// What a rule is called: by its name, else by its place.
pub(crate) fn name(rules: &model::Authorization, at: usize) -> String {
    match rules.rules.get(at).and_then(|rule| rule.name.as_ref()) {
        Some(name) => name.clone(),
        None => format!("authorization[{at}]"),
    }
}

#[cfg(test)]
mod tests {
    use config::model::{Answer, Authorization, Rule};

    use super::*;

    fn rules(count: usize) -> Authorization {
        let rule = |at: usize| Rule {
            name: (at == 1).then(|| "guests".to_owned()),
            action: if at == 1 { Action::Deny } else { Action::Allow },
            from: Vec::new(),
            methods: Vec::new(),
            headers: Vec::new(),
        };
        Authorization { rules: (0..count).map(rule).collect(), default: Answer::Deny }
    }

    fn sums(tallies: &Tallies) -> Vec<(String, u64)> {
        let mut sums = Vec::new();
        tallies.each(|_, decision, rule, sum| sums.push((format!("{decision} {rule}"), sum)));
        sums.retain(|(_, sum)| *sum > 0);
        sums
    }

    #[test]
    fn what_was_counted_of_a_rule_stays_counted_when_others_change() {
        let (tallies, service) = (Tallies::default(), Arc::from("echo.shop"));
        let by = |at| Verdict { allowed: at != Some(1), by: at, ..Verdict::default() };
        for count in [2, 3] {
            let rules = rules(count);
            let counts = tallies.of(&service, &rules, 1);
            counts.count(&rules, by(Some(0)), 0);
            counts.count(&rules, by(Some(1)), 0);
            counts.count(&rules, Verdict::default(), 0);
        }
        let expected = [("allowed authorization[0]", 2), ("denied default", 2), ("denied guests", 2)];
        assert_eq!(sums(&tallies), expected.map(|(label, sum)| (label.to_owned(), sum)));
    }

    #[test]
    fn rules_past_the_hundredth_count_together() {
        let (tallies, service) = (Tallies::default(), Arc::from("echo.shop"));
        let rules = rules(1_000);
        let counts = tallies.of(&service, &rules, 1);
        for at in [99, 100, 999] {
            counts.count(&rules, Verdict { allowed: true, by: Some(at), ..Verdict::default() }, 0);
        }
        let expected = [("allowed authorization[99]", 1), ("allowed other", 2)];
        assert_eq!(sums(&tallies), expected.map(|(label, sum)| (label.to_owned(), sum)));
    }
}
