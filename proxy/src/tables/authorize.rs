//! Who may call what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use config::model::{self, Action, Answer};
use config::spiffe::SpiffeId;
use http::{HeaderMap, HeaderName};

use crate::tables::rules::{Groups, Index, Verdict};
use crate::tables::seen::{Names, Seen};
use crate::tables::tallies::{self, AMBIGUOUS, Counts, DEFAULT, Tallies};

/// A service's rules. One that denies wins over those that allow.
#[derive(Debug, Default)]
pub(crate) struct Authorization {
    /// No other rules that ask something have the same; 0: they ask nothing.
    number: u64,
    /// `None`: everyone may call everything.
    rules: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rules {
    model: model::Authorization,
    index: Index,
    /// The headers that rules go by.
    headers: Names,
    /// `None`: of who asks without a call.
    counts: Option<Counts>,
}

impl Authorization {
    pub(crate) fn new(authorization: Option<&model::Authorization>) -> Self {
        let rules = authorization.map(|model| {
            let names = model.rules.iter().flat_map(|rule| &rule.headers);
            let names = names.filter_map(|header| header.name.parse::<HeaderName>().ok());
            Box::new(Rules {
                index: Index::new(&model.rules),
                headers: names.collect(),
                model: model.clone(),
                counts: None,
            })
        });
        // A number and not a pointer: whoever remembers which rules they were need not keep them, nor count at what all workers share.
        static MADE: AtomicU64 = AtomicU64::new(1);
        let number = if rules.is_some() { MADE.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Self { number, rules }
    }

    /// By which they are told from others.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The same, where calls are counted that come to `service`.
    pub(crate) fn counted(
        authorization: Option<&model::Authorization>,
        service: &Arc<str>,
        tallies: &Tallies,
        workers: usize,
    ) -> Self {
        let mut made = Self::new(authorization);
        if let Some(rules) = &mut made.rules {
            rules.counts = Some(tallies.of(service, &rules.model, workers));
        }
        made
    }

    /// Where nobody knows who may call, nobody may.
    pub(crate) fn nobody() -> Self {
        Self::new(Some(&model::Authorization { rules: Vec::new(), default: Answer::Deny }))
    }

    /// As the mesh says it; `None`: everyone may call everything.
    pub(crate) fn model(&self) -> Option<&model::Authorization> {
        self.rules.as_ref().map(|rules| &rules.model)
    }

    /// The headers that rules go by.
    pub(crate) fn headers(&self) -> Option<&Names> {
        self.rules.as_ref().map(|rules| &rules.headers)
    }

    /// What the rules know `caller` by (`None`: without an identity). It does not change while a connection lasts.
    pub(crate) fn groups(&self, caller: Option<&SpiffeId>) -> Groups {
        self.rules.as_ref().map(|rules| rules.index.groups(caller)).unwrap_or_default()
    }

    /// What they make of a call of `method`, `package.Service/Method` exactly as it is forwarded, by a caller of these groups.
    #[inline]
    pub(crate) fn decide(&self, groups: &Groups, method: &str, seen: Seen<'_>) -> Verdict {
        let Some(rules) = &self.rules else { return Verdict { allowed: true, ..Verdict::default() } };
        let scopes = rules.index.scopes(method);
        let find = |action| rules.index.find(&rules.model.rules, action, groups, scopes, seen);
        let denied = find(Action::Deny);
        let by = denied.or_else(|| find(Action::Allow));
        let allowed = denied.is_none() && (by.is_some() || rules.model.default == Answer::Allow);
        Verdict { allowed, by, audit: find(Action::Audit), ambiguous: false }
    }

    /// Counts what was decided; by its worker. Without rules there is nothing to count.
    #[inline]
    pub(crate) fn count(&self, verdict: Verdict, worker: usize) {
        if let Some(rules) = &self.rules
            && let Some(counts) = &rules.counts
        {
            counts.count(&rules.model, verdict, worker);
        }
    }

    /// What the rule that decided is called, and the one that has the call told of; `None`: there are no rules.
    pub(crate) fn names(&self, verdict: Verdict) -> Option<(Box<str>, Option<Box<str>>)> {
        let rules = &self.rules.as_ref()?.model;
        let name = |at: u32| tallies::name(rules, at as usize).into();
        let by = match verdict.ambiguous {
            true => AMBIGUOUS.into(),
            false => verdict.by.map_or_else(|| DEFAULT.into(), name),
        };
        Some((by, verdict.audit.map(name)))
    }

    /// Whether a caller of these groups may call everything, so that its bytes need not be understood.
    pub(crate) fn allows_all(&self, groups: &Groups) -> bool {
        let Some(rules) = &self.rules else { return true };
        !groups.is_denied_some
            && (rules.model.default == Answer::Allow || rules.index.covers_all(Action::Allow, groups))
    }

    /// [`Authorization::decide`] for who asks once only.
    pub(crate) fn judge(&self, caller: Option<&SpiffeId>, method: &str, headers: &HeaderMap) -> Verdict {
        self.decide(&self.groups(caller), method, Seen::all(headers))
    }
}
