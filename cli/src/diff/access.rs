//! Who could call what, and who could not any more.

use std::collections::BTreeSet;

use config::model::{Caller, CoveredMethods, HeaderMatch, HeaderValueMatch, Rule, Service};
use config::spiffe::SpiffeId;
use config::words::header_in_words;
use http::{HeaderMap, HeaderName, HeaderValue};
use proxy::explain::Access;

/// What is told: of whom (`None`: everybody), of what, and which change.
type Said<'a> = BTreeSet<(Option<&'a str>, String, &'a (String, String))>;

/// What a new set of rules lets in and keeps out, as far as the rules of either side name callers and methods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift {
    /// `WHO may call WHAT`.
    pub(crate) wider: Vec<String>,
    /// The same for what was allowed.
    pub(crate) narrower: Vec<String>,
}

/// Stands for every method that no rule names.
const ANY_METHOD: &str = "any.Other/Method";

/// Calls that both sides are asked about; past it only the rules are told.
const CALLS_MAX: usize = 1_000_000;

/// Asks both sets of rules about everybody, everything and the headers that either names, about a caller that none names, one
/// without an identity, and calls without headers. The rules know no more than that, so that little that differs is missed: only
/// what takes two rules about headers together, or a header like a regular expression of which no example is known.
pub(crate) fn shift(old: &Service, new: &Service) -> Shift {
    let mut shift = Shift::default();
    if old.authorization == new.authorization {
        return shift;
    }
    let rules =
        || [old, new].into_iter().filter_map(|side| side.authorization.as_ref()).flat_map(|it| &it.rules);
    let (callers, methods, headers) = (callers(rules()), methods(rules()), headers(rules()));
    if callers.len() * methods.len() * headers.len() > CALLS_MAX {
        let [before, after] =
            [old, new].map(|side| side.authorization.as_ref().map_or(0, |it| it.rules.len()));
        let said = format!("{before} rules became {after}, too many to ask about every caller and method");
        shift.wider.push(said);
        return shift;
    }
    let [old, new] = [old, new].map(|side| Access::new(side.authorization.as_ref()));
    let all =
        |side: &Access, caller: Option<&SpiffeId>, headers: &HeaderMap| -> BTreeSet<&(String, String)> {
            methods.iter().filter(|(method, _)| side.lets_in(caller, method, headers)).collect()
        };
    // What holds for everybody, or without headers, is not told again for each.
    let mut said: [Said<'_>; 2] = Default::default();
    for (condition, headers) in &headers {
        for (id, name) in &callers {
            let (before, after) = (all(&old, id.as_ref(), headers), all(&new, id.as_ref(), headers));
            for (at, gained, into) in [
                (0, after.difference(&before), &mut shift.wider),
                (1, before.difference(&after), &mut shift.narrower),
            ] {
                // Who else it may have been told of so that it holds here: what is told of any caller with an identity says nothing
                // of one without.
                let wider = [None, Some(STRANGER).filter(|_| id.is_some()), Some(name.as_str())];
                let is_told = |method: &&(String, String)| {
                    let by = |when: &str| {
                        wider.iter().any(|who| said[at].contains(&(*who, when.to_owned(), *method)))
                    };
                    by("") || by(condition)
                };
                let gained: Vec<&(String, String)> =
                    gained.copied().filter(|method| !is_told(method)).collect();
                if gained.is_empty() {
                    continue;
                }
                into.push(format!("{name}{condition}: {}", in_words(&gained, methods.len())));
                let who = id.is_some().then_some(name.as_str());
                said[at].extend(gained.into_iter().map(|method| (who, condition.clone(), method)));
            }
        }
    }
    shift
}

const STRANGER: &str = "any caller with an identity";

/// Everybody whom rules name, and those whom none does, with what they are called.
fn callers<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<(Option<SpiffeId>, String)> {
    let mut callers = vec![
        (None, "a caller without an identity".to_owned()),
        (Some(SpiffeId::of_account("any.invalid", "any", "any")), STRANGER.to_owned()),
    ];
    let named: BTreeSet<(Option<SpiffeId>, String)> = rules
        .flat_map(|rule| &rule.from)
        .filter_map(|caller| match caller {
            Caller::Id(id) => Some((Some(id.clone()), id.to_string())),
            // Stands for those of them whom no rule names.
            Caller::Prefix(prefix) => {
                let id = SpiffeId::parse(&format!("{prefix}any-other")).ok()?;
                Some((Some(id), format!("{prefix}*")))
            }
            Caller::AnyAuthenticated => None,
        })
        .collect();
    callers.extend(named);
    callers
}

fn methods<'a>(rules: impl Iterator<Item = &'a Rule>) -> BTreeSet<(String, String)> {
    rules
        .flat_map(|rule| &rule.methods)
        .map(|methods| match methods {
            CoveredMethods::Method(name) => (name.clone(), name.clone()),
            CoveredMethods::Service(prefix) => (format!("{prefix}\u{1}"), format!("{prefix}*")),
        })
        .chain([(ANY_METHOD.to_owned(), "every other method".to_owned())])
        .collect()
}

/// No headers, and for each rule that goes by headers some that are as it wants them, in words.
fn headers<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<(String, HeaderMap)> {
    let mut all = vec![(String::new(), HeaderMap::new())];
    for rule in rules.filter(|rule| !rule.headers.is_empty()) {
        let words: Vec<String> = rule.headers.iter().map(header_in_words).collect();
        let words = format!(" with {}", words.join(", "));
        if all.iter().any(|(known, _)| *known == words) {
            continue;
        }
        let mut headers = HeaderMap::new();
        let fits = rule.headers.iter().all(|header| {
            let Some(value) = example(header) else { return !wants(header) };
            let name = HeaderName::try_from(header.name.as_str());
            name.is_ok_and(|name| !headers.append(name, value))
        });
        if fits && !headers.is_empty() {
            all.push((words, headers));
        }
    }
    all
}

/// Whether it takes a header to meet the condition.
fn wants(header: &HeaderMatch) -> bool {
    match &header.value {
        HeaderValueMatch::Present(present) => *present != header.invert,
        _ => !header.invert,
    }
}

/// A value that meets a condition which wants one.
fn example(header: &HeaderMatch) -> Option<HeaderValue> {
    if !wants(header) {
        return None;
    }
    let text = match &header.value {
        HeaderValueMatch::Exact(text) | HeaderValueMatch::Prefix(text) => text.clone(),
        HeaderValueMatch::Present(_) => "any".to_owned(),
        HeaderValueMatch::Regex(regex) => {
            let inner = regex.as_str().trim_start_matches("^(?:").trim_end_matches(")$").to_owned();
            inner.split('|').find(|text| regex.is_match(text))?.to_owned()
        }
    };
    HeaderValue::try_from(text).ok()
}

fn in_words(methods: &[&(String, String)], all: usize) -> String {
    if methods.len() == all {
        return "everything".to_owned();
    }
    methods.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};

    use super::*;

    fn service(authorization: &str) -> Service {
        let inbound = match authorization {
            "" => String::new(),
            rules => format!("    inbound: {{authorization: {rules}}}\n"),
        };
        let text = format!("version: 1\nservices:\n  - name: a\n    namespace: shop\n{inbound}");
        let mesh =
            parse_mesh(Source { name: "mesh", text: &text }).unwrap_or_else(|faults| panic!("{faults}"));
        mesh.services[0].clone()
    }

    fn told(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
        let Shift { wider, narrower } = shift(&service(old), &service(new));
        (wider, narrower)
    }

    const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";

    #[test]
    fn rules_that_let_the_same_in_are_no_shift() {
        let split = "[{allow: {from: [ID], methods: [a.B/C]}}, {allow: {from: [ID], methods: ['a.B/*']}}]";
        let one = "[{allow: {from: [ID], methods: ['a.B/*']}}]";
        assert_eq!(told(&split.replace("ID", ORDERS), &one.replace("ID", ORDERS)), (vec![], vec![]));
        assert_eq!(told("", "[{allow: {}}]"), (vec![], vec![]), "no rules, and one that lets in everyone");
    }

    #[test]
    fn a_caller_more_and_a_method_less_are_told() {
        let old = "[{allow: {from: [ID], methods: [a.B/C, a.B/D]}}]".replace("ID", ORDERS);
        let new = "[{allow: {from: [ID], methods: [a.B/C]}}, {allow: {from: ['*'], methods: [a.B/E]}}]";
        let (wider, narrower) = told(&old, &new.replace("ID", ORDERS));
        assert_eq!(wider, ["any caller with an identity: a.B/E"]);
        assert_eq!(narrower, [format!("{ORDERS}: a.B/D")]);
    }

    #[test]
    fn an_opening_to_callers_without_an_identity_is_told_beside_one_to_all_with_one() {
        let new = "[{allow: {from: ['*']}}, {allow: {headers: [{name: x-debug, present: true}]}}]";
        let (wider, narrower) = told("[]", new);
        let expected =
            ["any caller with an identity: everything", "a caller without an identity with header x-debug"];
        assert_eq!(wider.len(), 2, "{wider:?}");
        assert!(wider.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{wider:?}");
        assert_eq!(narrower, Vec::<String>::new());
    }

    #[test]
    fn rules_where_none_were_shut_everybody_else_out() {
        let rules = format!("[{{allow: {{from: [{ORDERS}], methods: [a.B/C]}}}}]");
        let (wider, narrower) = told("", &rules);
        assert_eq!(wider, Vec::<String>::new());
        assert_eq!(narrower[0], "a caller without an identity: everything");
        let (wider, narrower) = told(&rules, "");
        assert_eq!(wider[0], "a caller without an identity: everything");
        assert_eq!(narrower, Vec::<String>::new());
    }

    #[test]
    fn a_denial_a_namespace_and_a_header_are_told() {
        let (wider, narrower) = told("", "[{deny: {from: [{namespace: guests}], methods: [a.B/C]}}]");
        assert_eq!((wider, narrower), (vec![], vec!["spiffe://cluster.local/ns/guests/*: a.B/C".to_owned()]));
        let header = "[{deny: {headers: [{name: x-beta, exact: '1'}]}}]";
        let (wider, narrower) = told(header, "");
        assert_eq!(wider, ["a caller without an identity with header x-beta \"1\": everything"]);
        assert_eq!(narrower, Vec::<String>::new());
        assert_eq!(told("", "[{audit: {}}]"), (vec![], vec![]), "an audit keeps nobody out");
    }
}
