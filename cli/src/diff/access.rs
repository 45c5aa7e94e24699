//! Who could call what, and who could not any more.

use std::collections::BTreeSet;

use config::model::{Allow, AllowedMethods, Caller, Service};
use config::spiffe::SpiffeId;
use proxy::explain::lets_in;

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

/// Asks both sets of rules about everybody and everything that either names, about a caller that none names, and one without an
/// identity. The rules know no more than that, so nothing that differs is missed.
pub(crate) fn shift(old: &Service, new: &Service) -> Shift {
    let mut shift = Shift::default();
    let rules = || old.authorization.iter().chain(&new.authorization).flatten();
    let stranger = SpiffeId::of_account("any.invalid", "any", "any");
    let named: BTreeSet<&SpiffeId> = rules()
        .flat_map(|rule| &rule.from)
        .filter_map(|caller| match caller {
            Caller::Id(id) => Some(id),
            Caller::AnyAuthenticated => None,
        })
        .collect();
    let callers = [(None, "a caller without an identity"), (Some(&stranger), "any caller with an identity")];
    let callers: Vec<(Option<&SpiffeId>, &str)> =
        callers.into_iter().chain(named.iter().map(|id| (Some(*id), id.as_str()))).collect();
    let methods: BTreeSet<(String, String)> = rules()
        .flat_map(|rule| &rule.methods)
        .map(|methods| match methods {
            AllowedMethods::Method(name) => (name.clone(), name.clone()),
            AllowedMethods::Service(prefix) => (format!("{prefix}\u{1}"), format!("{prefix}*")),
        })
        .chain([(ANY_METHOD.to_owned(), "every other method".to_owned())])
        .collect();
    let all = |side: &Service, caller| {
        methods.iter().filter(|(method, _)| lets_in(rules_of(side), caller, method)).collect::<BTreeSet<_>>()
    };
    // What holds for everybody is not told again for each.
    let mut said: [BTreeSet<&(String, String)>; 2] = Default::default();
    for (caller, name) in callers {
        let (before, after) = (all(old, caller), all(new, caller));
        for (at, gained, into) in [
            (0, after.difference(&before), &mut shift.wider),
            (1, before.difference(&after), &mut shift.narrower),
        ] {
            let gained: Vec<&(String, String)> =
                gained.copied().filter(|method| !said[at].contains(method)).collect();
            if gained.is_empty() {
                continue;
            }
            into.push(format!("{name}: {}", in_words(&gained, methods.len())));
            if caller.is_none() || caller == Some(&stranger) {
                said[at].extend(gained);
            }
        }
    }
    shift
}

fn rules_of(service: &Service) -> Option<&[Allow]> {
    service.authorization.as_deref()
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
    fn rules_where_none_were_shut_everybody_else_out() {
        let rules = format!("[{{allow: {{from: [{ORDERS}], methods: [a.B/C]}}}}]");
        let (wider, narrower) = told("", &rules);
        assert_eq!(wider, Vec::<String>::new());
        assert_eq!(narrower[0], "a caller without an identity: everything");
        let (wider, narrower) = told(&rules, "");
        assert_eq!(wider[0], "a caller without an identity: everything");
        assert_eq!(narrower, Vec::<String>::new());
    }
}
