//! The rules of a service, found by caller and method: what a call pays does not grow with their number.
//!
//! ```text
//! caller --once per connection--> groups    \
//!                                            (group, scope) -> rules without headers: the first one
//! method --two lookups per call--> scopes   /                  rules with headers: each, in their order
//! ```
//!
//! A group is whom rules name: anyone, any proved caller, an id, a beginning of ids. A scope is what they name: everything, a
//! service, a method.

use std::collections::BTreeSet;

use config::model::{Action, Caller, CoveredMethods, HeaderMatch, HeaderValueMatch, Rule};
use config::spiffe::SpiffeId;
use config::words;
use http::HeaderMap;
use rustc_hash::FxHashMap;

use crate::tables::routes::header_matches;
use crate::tables::seen::Seen;

/// A rule that names several callers and several methods stands at each pair of them while these are no more; else its callers
/// are a group of their own. So an index is never much larger than the file.
const PAIRS_MAX: usize = 256;

/// No rule.
const NONE: u32 = u32::MAX;

/// Everybody, also without an identity.
const ANYONE: u32 = 0;
/// Everybody with an identity.
const PROVED: u32 = 1;
/// Every method.
const EVERYTHING: u32 = 0;

const ACTIONS: usize = 3;

/// What the rules know a caller by.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// The groups that it is in.
    all: Box<[u32]>,
    /// Some rule denies it something.
    pub(crate) is_denied_some: bool,
    /// Some rule that lets in or denies goes by the method that it calls.
    pub(crate) by_method: bool,
}

/// What the rules make of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// The place of the rule that decides; `None`: none does, and it is the default.
    pub(crate) by: Option<u32>,
    /// The place of the first rule that has the call told of.
    pub(crate) audit: Option<u32>,
    /// It is refused whatever the rules say: servers may take its path for another one than rules compare.
    pub(crate) ambiguous: bool,
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    ids: FxHashMap<SpiffeId, Vec<u32>>,
    prefixes: FxHashMap<Box<str>, Vec<u32>>,
    /// The lengths of those beginnings, each once.
    lengths: BTreeSet<usize>,
    methods: FxHashMap<Box<str>, u32>,
    /// With the slash.
    services: FxHashMap<Box<str>, u32>,
    /// By action.
    cells: [FxHashMap<(u32, u32), Cell>; ACTIONS],
    /// Of each group that rules name: whether one denies, and whether one that lets in or denies goes by methods.
    marks: FxHashMap<u32, (bool, bool)>,
}

/// The rules of one action at one group and scope.
#[derive(Debug)]
struct Cell {
    /// The first that asks for no header.
    first: u32,
    /// Those before it, which do.
    conditional: Vec<u32>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut draft = Draft { index: Self::default(), groups: 2, scopes: 1, lists: FxHashMap::default() };
        for (at, rule) in rules.iter().enumerate() {
            if let Ok(at) = u32::try_from(at) {
                draft.add(at, rule);
            }
        }
        draft.index
    }

    /// The groups that a caller (`None`: without an identity) is in.
    pub(crate) fn groups(&self, caller: Option<&SpiffeId>) -> Groups {
        let mut groups = vec![ANYONE];
        if let Some(id) = caller {
            groups.push(PROVED);
            groups.extend(self.ids.get(id).into_iter().flatten());
            for length in &self.lengths {
                let Some(beginning) = id.as_str().get(..*length) else { break };
                groups.extend(self.prefixes.get(beginning).into_iter().flatten());
            }
        }
        groups.sort_unstable();
        groups.dedup();
        let marks = || groups.iter().filter_map(|group| self.marks.get(group));
        let (is_denied_some, by_method) = (marks().any(|(denies, _)| *denies), marks().any(|(_, by)| *by));
        Groups { all: groups.into(), is_denied_some, by_method }
    }

    /// The scopes that a method is in.
    #[inline]
    pub(crate) fn scopes(&self, method: &str) -> [u32; 3] {
        count();
        let exact = self.methods.get(method);
        // What follows a service is one segment, and not nothing.
        let service = match method.rfind('/') {
            Some(slash) if slash + 1 < method.len() => {
                count();
                self.services.get(&method[..=slash])
            }
            _ => None,
        };
        [EVERYTHING, exact.copied().unwrap_or(NONE), service.copied().unwrap_or(NONE)]
    }

    /// The first rule of an action that covers the call.
    #[inline]
    pub(crate) fn find(
        &self,
        rules: &[Rule],
        action: Action,
        groups: &Groups,
        scopes: [u32; 3],
        seen: Seen<'_>,
    ) -> Option<u32> {
        let cells = &self.cells[action as usize];
        if cells.is_empty() {
            return None;
        }
        let mut best = NONE;
        for group in &groups.all {
            for scope in scopes {
                if scope == NONE {
                    continue;
                }
                count();
                let Some(cell) = cells.get(&(*group, scope)) else { continue };
                best = best.min(cell.first);
                let mut before = cell.conditional.iter().take_while(|at| **at < best);
                let holds = |at: &&u32| {
                    count();
                    rules.get(**at as usize).is_some_and(|rule| all_hold(&rule.headers, action, seen))
                };
                if let Some(at) = before.find(holds) {
                    best = *at;
                }
            }
        }
        (best != NONE).then_some(best)
    }

    /// Whether a rule of an action covers every call of a caller, whatever it says.
    pub(crate) fn covers_all(&self, action: Action, groups: &Groups) -> bool {
        let cells = &self.cells[action as usize];
        groups.all.iter().any(|group| cells.get(&(*group, EVERYTHING)).is_some_and(|cell| cell.first != NONE))
    }
}

/// What keeps a rule from covering a call, in words; `None`: nothing does. For who explains: calls go by [`Index::find`].
pub(crate) fn unmet(
    rule: &Rule,
    caller: Option<&SpiffeId>,
    method: &str,
    headers: &HeaderMap,
) -> Option<String> {
    let alone = Index::new(std::slice::from_ref(&Rule { headers: Vec::new(), ..rule.clone() }));
    let cells = &alone.cells[rule.action as usize];
    let (groups, scopes) = (alone.groups(caller), alone.scopes(method));
    if !cells.keys().any(|(group, _)| groups.all.contains(group)) {
        return Some("it names other callers".to_owned());
    }
    if !cells.keys().any(|(_, scope)| scopes.contains(scope)) {
        return Some("it names other methods".to_owned());
    }
    let header = rule.headers.iter().find(|header| !header_matches(header, headers))?;
    Some(format!("it wants {}", words::header_in_words(header)))
}

/// Whether all conditions hold. What is not known any more, or is no text where an expression asks, speaks for a rule that denies
/// and against one that allows.
fn all_hold(headers: &[HeaderMatch], action: Action, seen: Seen<'_>) -> bool {
    headers.iter().all(|header| match seen.knows(&header.name) && is_readable(header, seen.headers) {
        true => header_matches(header, seen.headers),
        false => action == Action::Deny,
    })
}

/// Whether what the call has of a header can be compared.
fn is_readable(header: &HeaderMatch, headers: &HeaderMap) -> bool {
    let is_text = || headers.get_all(&header.name).iter().all(|value| value.to_str().is_ok());
    !matches!(header.value, HeaderValueMatch::Regex(_)) || is_text()
}

/// An index while it is made.
struct Draft<'a> {
    index: Index,
    groups: u32,
    scopes: u32,
    /// Callers that are a group together.
    lists: FxHashMap<&'a [Caller], u32>,
}

impl<'a> Draft<'a> {
    fn add(&mut self, at: u32, rule: &'a Rule) {
        let scopes: Vec<u32> = match rule.methods.is_empty() {
            true => vec![EVERYTHING],
            false => rule.methods.iter().map(|methods| self.scope(methods)).collect(),
        };
        let apart = rule.from.len() < 2 || rule.from.len() * scopes.len() <= PAIRS_MAX;
        let groups: Vec<u32> = if rule.from.is_empty() {
            vec![ANYONE]
        } else if rule.from.contains(&Caller::AnyAuthenticated) {
            vec![PROVED]
        } else if apart {
            rule.from.iter().map(|caller| self.group(std::slice::from_ref(caller))).collect()
        } else {
            vec![self.group(&rule.from)]
        };
        let cells = &mut self.index.cells[rule.action as usize];
        for group in groups {
            let (denies, by_method) = self.index.marks.entry(group).or_default();
            *denies |= rule.action == Action::Deny;
            *by_method |= rule.action != Action::Audit && !rule.methods.is_empty();
            for scope in &scopes {
                let cell =
                    cells.entry((group, *scope)).or_insert(Cell { first: NONE, conditional: Vec::new() });
                if cell.first != NONE || cell.conditional.last() == Some(&at) {
                    // Whatever it covers is settled by one before it.
                } else if rule.headers.is_empty() {
                    cell.first = at;
                } else {
                    cell.conditional.push(at);
                }
            }
        }
    }

    fn group(&mut self, callers: &'a [Caller]) -> u32 {
        if let Some(group) = self.lists.get(callers) {
            return *group;
        }
        let group = self.groups;
        self.groups += 1;
        self.lists.insert(callers, group);
        for caller in callers {
            match caller {
                Caller::AnyAuthenticated => {}
                Caller::Id(id) => self.index.ids.entry(id.clone()).or_default().push(group),
                Caller::Prefix(prefix) => {
                    self.index.lengths.insert(prefix.len());
                    self.index.prefixes.entry(prefix.as_str().into()).or_default().push(group);
                }
            }
        }
        group
    }

    fn scope(&mut self, methods: &CoveredMethods) -> u32 {
        let (into, name) = match methods {
            CoveredMethods::Method(name) => (&mut self.index.methods, name),
            CoveredMethods::Service(name) => (&mut self.index.services, name),
        };
        *into.entry(name.as_str().into()).or_insert_with(|| {
            let scope = self.scopes;
            self.scopes += 1;
            scope
        })
    }
}

/// Counts what a call compares or looks up, for tests.
#[inline(always)]
fn count() {
    #[cfg(test)]
    tests::COMPARED.set(tests::COMPARED.get() + 1);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell as StdCell;

    use config::model::{Answer, Authorization as Model, HeaderValueMatch};
    use fastrand::Rng;
    use http::HeaderMap;

    use super::*;
    use crate::tables::authorize::Authorization;
    use crate::tables::seen::{Kept, Names};

    thread_local! {
        pub(super) static COMPARED: StdCell<usize> = const { StdCell::new(0) };
    }

    fn id(account: &str) -> SpiffeId {
        SpiffeId::of_account("cluster.local", "shop", account)
    }

    fn rule(action: Action, from: Vec<Caller>, methods: Vec<CoveredMethods>) -> Rule {
        Rule { name: None, action, from, methods, headers: Vec::new() }
    }

    fn method(name: &str) -> CoveredMethods {
        CoveredMethods::Method(name.to_owned())
    }

    fn service(name: &str) -> CoveredMethods {
        CoveredMethods::Service(format!("{name}/"))
    }

    fn decide(rules: &[Rule], default: Answer, caller: Option<&SpiffeId>, method: &str) -> Verdict {
        let model = Model { rules: rules.to_vec(), default };
        Authorization::new(Some(&model)).judge(caller, method, &HeaderMap::new())
    }

    fn allows(rules: &[Rule], caller: Option<&SpiffeId>, method: &str) -> bool {
        decide(rules, Answer::Deny, caller, method).allowed
    }

    /// What the rules say, read one by one in the words of the documentation.
    fn plainly(model: &Model, caller: Option<&SpiffeId>, method: &str, headers: &HeaderMap) -> Verdict {
        let covers = |rule: &Rule| {
            let who = rule.from.is_empty()
                || caller.is_some_and(|id| {
                    rule.from.iter().any(|from| match from {
                        Caller::AnyAuthenticated => true,
                        Caller::Id(one) => one == id,
                        Caller::Prefix(prefix) => id.as_str().starts_with(prefix),
                    })
                });
            let what = rule.methods.is_empty()
                || rule.methods.iter().any(|methods| match methods {
                    CoveredMethods::Method(name) => name == method,
                    CoveredMethods::Service(prefix) => method
                        .strip_prefix(prefix)
                        .is_some_and(|name| !name.is_empty() && !name.contains('/')),
                });
            who && what && rule.headers.iter().all(|header| header_matches(header, headers))
        };
        let first = |action| {
            let at = model.rules.iter().position(|rule| rule.action == action && covers(rule));
            at.map(|at| u32::try_from(at).unwrap())
        };
        let (denied, allowed) = (first(Action::Deny), first(Action::Allow));
        Verdict {
            allowed: denied.is_none() && (allowed.is_some() || model.default == Answer::Allow),
            by: denied.or(allowed),
            audit: first(Action::Audit),
            ambiguous: false,
        }
    }

    #[test]
    fn the_index_says_what_the_rules_say_one_by_one() {
        let ids: Vec<SpiffeId> = ["a", "b", "c", "shop-2"].map(id).to_vec();
        let methods = ["a.B/C", "a.B/D", "a.B/", "a.Bc/D", "a.B/C/D", "B/C", "", "healthz"];
        let pick = |rng: &mut Rng| rng.usize(..4);
        for seed in 0..3_000 {
            let rng = &mut Rng::with_seed(seed);
            let rules = (0..rng.usize(..8)).map(|_| Rule {
                name: None,
                action: [Action::Allow, Action::Deny, Action::Audit][rng.usize(..3)],
                // Sometimes so many that they are a group of their own.
                from: (0..[0, 1, 2, 20][pick(rng)])
                    .map(|_| match rng.u8(..8) {
                        0 => Caller::AnyAuthenticated,
                        1 => Caller::Prefix("spiffe://cluster.local/ns/shop/".into()),
                        2 => Caller::Prefix("spiffe://cluster.local/ns/shop/sa/shop".into()),
                        3 => Caller::Prefix("spiffe://cluster.local/ns/guests/".into()),
                        _ => Caller::Id(ids[pick(rng)].clone()),
                    })
                    .collect(),
                methods: (0..[0, 1, 2, 20][pick(rng)])
                    .map(|_| match rng.bool() {
                        true => method(["a.B/C", "a.B/D", "B/C"][rng.usize(..3)]),
                        false => service(["a.B", "a", "B"][rng.usize(..3)]),
                    })
                    .collect(),
                headers: (0..[0, 0, 1, 2][pick(rng)])
                    .map(|_| HeaderMatch {
                        name: ["x-a", "x-b"][rng.usize(..2)].into(),
                        value: match rng.u8(..3) {
                            0 => HeaderValueMatch::Exact("1".into()),
                            1 => HeaderValueMatch::Prefix("1".into()),
                            _ => HeaderValueMatch::Present(rng.bool()),
                        },
                        invert: rng.bool(),
                    })
                    .collect(),
            });
            let rules = rules.collect();
            let model = Model { rules, default: if rng.bool() { Answer::Allow } else { Answer::Deny } };
            let indexed = Authorization::new(Some(&model));
            for _ in 0..20 {
                let caller = (rng.u8(..5) > 0).then(|| &ids[pick(rng)]);
                let method = methods[rng.usize(..methods.len())];
                let mut headers = HeaderMap::new();
                for name in ["x-a", "x-b"] {
                    for _ in 0..rng.usize(..3) {
                        headers.append(name, ["1", "12", "2"][rng.usize(..3)].parse().unwrap());
                    }
                }
                let (indexed, plain) =
                    (indexed.judge(caller, method, &headers), plainly(&model, caller, method, &headers));
                assert_eq!(indexed, plain, "seed {seed}: {caller:?} {method} {headers:?} {model:#?}");
            }
        }
    }

    /// Each caller has rules of its own, all of them share some, and the services are called by all.
    fn many(rules: usize) -> Authorization {
        let rules = (0..rules).map(|at| {
            let from = match at % 3 {
                0 => vec![Caller::Id(id(&format!("caller-{}", at % 100)))],
                1 => vec![Caller::Prefix(format!("spiffe://cluster.local/ns/shop-{at}/"))],
                _ => vec![Caller::AnyAuthenticated],
            };
            let action = [Action::Allow, Action::Deny, Action::Audit][at / 3 % 3];
            rule(action, from, vec![method(&format!("a.B/M{at}")), service(&format!("a.C{at}"))])
        });
        let model = Model { rules: rules.collect(), default: Answer::Deny };
        Authorization::new(Some(&model))
    }

    #[test]
    fn a_call_compares_as_little_with_ten_thousand_rules_as_with_ten() {
        let compared = |rules: usize| {
            let authorization = many(rules);
            let caller = id("caller-0");
            let groups = authorization.groups(Some(&caller));
            let headers = HeaderMap::new();
            let mut most = 0;
            for method in ["a.B/M0", "a.B/M2", "a.B/M9", "a.C0/Any", "a.Unknown/Any"] {
                COMPARED.set(0);
                std::hint::black_box(authorization.decide(&groups, method, Seen::all(&headers)));
                most = most.max(COMPARED.get());
            }
            most
        };
        let (few, many) = (compared(10), compared(10_000));
        // Two for the method; by action at most three groups and three scopes.
        assert!(many <= few + 9 && many <= 2 + 27, "{few} comparisons with 10 rules, {many} with 10,000");
    }

    #[test]
    fn an_index_of_rules_that_name_many_callers_and_methods_is_not_larger_than_they_are() {
        let from: Vec<Caller> = (0..1_000).map(|at| Caller::Id(id(&format!("caller-{at}")))).collect();
        let methods: Vec<CoveredMethods> = (0..1_000).map(|at| method(&format!("a.B/M{at}"))).collect();
        let rules = [rule(Action::Allow, from, methods)];
        let index = Index::new(&rules);
        assert_eq!(index.cells[Action::Allow as usize].len(), 1_000);
        assert!(allows(&rules, Some(&id("caller-7")), "a.B/M9"));
        assert!(!allows(&rules, Some(&id("caller-1000")), "a.B/M9"));
    }

    #[test]
    fn without_rules_all_may_and_with_none_of_them_nobody() {
        assert!(Authorization::new(None).judge(None, "a.B/C", &HeaderMap::new()).allowed);
        assert!(!Authorization::nobody().judge(Some(&id("orders")), "a.B/C", &HeaderMap::new()).allowed);
    }

    #[test]
    fn one_rule_must_cover_both_caller_and_method() {
        let rules = [
            rule(Action::Allow, vec![Caller::Id(id("orders"))], vec![method("a.B/C")]),
            rule(Action::Allow, vec![Caller::AnyAuthenticated], vec![service("a.Health")]),
        ];
        assert!(allows(&rules, Some(&id("orders")), "a.B/C"));
        assert!(!allows(&rules, Some(&id("orders")), "a.B/D"));
        assert!(!allows(&rules, Some(&id("users")), "a.B/C"));
        assert!(allows(&rules, Some(&id("users")), "a.Health/Check"));
        assert!(!allows(&rules, None, "a.Health/Check"));
        assert!(!allows(&rules, Some(&id("users")), "a.Healthy/Check"));
        assert!(!allows(&rules, Some(&id("users")), "a.Health/Check/x"));
        assert!(!allows(&rules, Some(&id("users")), "a.Health/"));
    }

    #[test]
    fn a_rule_that_denies_wins_wherever_it_stands() {
        let allow = rule(Action::Allow, vec![], vec![]);
        let deny = rule(Action::Deny, vec![Caller::Id(id("users"))], vec![method("a.B/C")]);
        for rules in [[allow.clone(), deny.clone()], [deny, allow]] {
            let at = rules.iter().position(|rule| rule.action == Action::Deny).unwrap() as u32;
            let refused = decide(&rules, Answer::Allow, Some(&id("users")), "a.B/C");
            assert_eq!((refused.allowed, refused.by), (false, Some(at)));
            assert!(decide(&rules, Answer::Deny, Some(&id("users")), "a.B/D").allowed);
        }
    }

    #[test]
    fn who_may_call_everything_is_denied_nothing() {
        let all = |rules: Vec<Rule>, default| {
            let authorization = Authorization::new(Some(&Model { rules, default }));
            [None, Some(id("a"))]
                .map(|caller| authorization.allows_all(&authorization.groups(caller.as_ref())))
        };
        let (a, allow, deny) = (|| vec![Caller::Id(id("a"))], Action::Allow, Action::Deny);
        assert_eq!(all(vec![rule(allow, a(), vec![])], Answer::Deny), [false, true]);
        assert_eq!(all(vec![rule(allow, a(), vec![service("a.B")])], Answer::Deny), [false, false]);
        assert_eq!(all(vec![rule(deny, a(), vec![method("a.B/C")])], Answer::Allow), [true, false]);
        assert_eq!(all(vec![rule(Action::Audit, a(), vec![])], Answer::Allow), [true, true]);
        let tenants = HeaderMatch { name: "x".into(), value: HeaderValueMatch::Present(true), invert: false };
        let conditional = Rule { headers: vec![tenants], ..rule(allow, vec![], vec![]) };
        assert_eq!(all(vec![conditional.clone()], Answer::Deny), [false, false]);
        assert_eq!(all(vec![Rule { action: deny, ..conditional }], Answer::Allow), [false, false]);
    }

    #[test]
    fn a_value_that_is_no_text_is_compared_by_bytes_and_speaks_for_a_denial_where_an_expression_asks() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", http::HeaderValue::from_bytes(b"ab\xe9").unwrap());
        let regex = || match config::parse_mesh(config::Source {
            name: "mesh",
            text: "version: 1\nservices: [{name: a, inbound: {authorization: [{allow: {headers: [{name: x-a, regex: c}]}}]}}]",
        }) {
            Ok(mesh) => mesh.services[0].authorization.clone().unwrap().rules[0].headers[0].value.clone(),
            Err(faults) => panic!("{faults}"),
        };
        for (action, value, invert, allowed) in [
            (Action::Allow, HeaderValueMatch::Prefix("ab".into()), false, true),
            (Action::Deny, HeaderValueMatch::Prefix("ab".into()), false, false),
            (Action::Deny, HeaderValueMatch::Exact("ab".into()), false, true),
            (Action::Deny, regex(), false, false),
            (Action::Allow, regex(), false, false),
            (Action::Allow, regex(), true, false),
        ] {
            let header = HeaderMatch { name: "x-a".into(), value, invert };
            let rules = vec![Rule { headers: vec![header], ..rule(action, vec![], vec![]) }];
            let default = if action == Action::Deny { Answer::Allow } else { Answer::Deny };
            let model = Model { rules, default };
            let judged = Authorization::new(Some(&model)).judge(None, "a.B/C", &headers);
            assert_eq!(judged.allowed, allowed, "{model:?}");
        }
    }

    #[test]
    fn a_header_that_was_not_kept_speaks_for_a_denial_and_against_an_allowance() {
        let header = |name: &str| HeaderMatch {
            name: name.into(),
            value: HeaderValueMatch::Exact("1".into()),
            invert: false,
        };
        let with = |action, name| Rule { headers: vec![header(name)], ..rule(action, vec![], vec![]) };
        let mut headers = HeaderMap::new();
        headers.insert("x-known", "1".parse().unwrap());
        headers.insert("x-new", "2".parse().unwrap());
        let names: Names = [http::HeaderName::from_static("x-known")].into_iter().collect();
        let kept = Kept::of(&headers, Some(&names));
        for (action, name, allowed) in [
            (Action::Allow, "x-known", true),
            (Action::Allow, "x-new", false),
            (Action::Allow, "x-absent", false),
            (Action::Deny, "x-known", false),
            (Action::Deny, "x-new", false),
            // It is known that it was not there.
            (Action::Deny, "x-absent", true),
        ] {
            let default = if action == Action::Deny { Answer::Allow } else { Answer::Deny };
            let authorization = Authorization::new(Some(&Model { rules: vec![with(action, name)], default }));
            let verdict = kept.look(|seen| authorization.decide(&authorization.groups(None), "a.B/C", seen));
            assert_eq!(verdict.allowed, allowed, "{action:?} {name}");
        }
    }
}
