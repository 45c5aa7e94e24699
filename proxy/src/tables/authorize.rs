//! Who may call what.

use config::model::{Allow, AllowedMethods, Caller};
use config::spiffe::SpiffeId;

/// A service's rules; a call is let in when one of them covers both caller and method.
#[derive(Debug)]
pub(crate) struct Authorization {
    /// `None`: everyone may call everything.
    rules: Option<Vec<Allow>>,
}

impl Authorization {
    pub(crate) fn new(rules: Option<&[Allow]>) -> Self {
        Self { rules: rules.map(<[Allow]>::to_vec) }
    }

    /// Whether `caller` (`None`: without an identity) may call `method`, `package.Service/Method` exactly as
    /// it will be forwarded.
    pub(crate) fn allows(&self, caller: Option<&SpiffeId>, method: &str) -> bool {
        let Some(rules) = &self.rules else { return true };
        rules.iter().any(|rule| covers(rule, caller, method))
    }

    /// The place of the rule that lets the call in; `None`: none does, or there are none.
    pub(crate) fn rule(&self, caller: Option<&SpiffeId>, method: &str) -> Option<usize> {
        self.rules.as_ref()?.iter().position(|rule| covers(rule, caller, method))
    }

    /// The rules; `None`: everyone may call everything.
    pub(crate) fn rules(&self) -> Option<&[Allow]> {
        self.rules.as_deref()
    }

    /// Whether `caller` may call everything, so that its bytes need not be understood.
    pub(crate) fn allows_all(&self, caller: Option<&SpiffeId>) -> bool {
        let Some(rules) = &self.rules else { return true };
        rules.iter().any(|rule| covers_caller(rule, caller) && rule.methods.is_empty())
    }
}

fn covers(rule: &Allow, caller: Option<&SpiffeId>, method: &str) -> bool {
    covers_caller(rule, caller) && covers_method(rule, method)
}

fn covers_caller(rule: &Allow, caller: Option<&SpiffeId>) -> bool {
    rule.from.is_empty()
        || caller.is_some_and(|caller| {
            rule.from.iter().any(|from| match from {
                Caller::AnyAuthenticated => true,
                Caller::Id(id) => id == caller,
            })
        })
}

fn covers_method(rule: &Allow, method: &str) -> bool {
    rule.methods.is_empty()
        || rule.methods.iter().any(|allowed| match allowed {
            AllowedMethods::Method(name) => name == method,
            // The slash is part of it, so that `a.B/` does not cover `a.Bc/D`; what follows is one segment.
            AllowedMethods::Service(prefix) => method
                .strip_prefix(prefix.as_str())
                .is_some_and(|name| !name.is_empty() && !name.contains('/')),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::of_account("cluster.local", "shop", account)
    }

    fn rule(from: Vec<Caller>, methods: Vec<AllowedMethods>) -> Allow {
        Allow { from, methods }
    }

    #[test]
    fn without_rules_all_may_and_with_none_of_them_nobody() {
        assert!(Authorization::new(None).allows(None, "a.B/C"));
        assert!(!Authorization::new(Some(&[])).allows(Some(&id("orders")), "a.B/C"));
    }

    #[test]
    fn one_rule_must_cover_both_caller_and_method() {
        let rules = [
            rule(vec![Caller::Id(id("orders"))], vec![AllowedMethods::Method("a.B/C".into())]),
            rule(vec![Caller::AnyAuthenticated], vec![AllowedMethods::Service("a.Health/".into())]),
        ];
        let authorization = Authorization::new(Some(&rules));
        assert!(authorization.allows(Some(&id("orders")), "a.B/C"));
        assert!(!authorization.allows(Some(&id("orders")), "a.B/D"));
        assert!(!authorization.allows(Some(&id("users")), "a.B/C"));
        assert!(authorization.allows(Some(&id("users")), "a.Health/Check"));
        assert!(!authorization.allows(None, "a.Health/Check"));
        assert!(!authorization.allows(Some(&id("users")), "a.Healthy/Check"));
        assert!(!authorization.allows(Some(&id("users")), "a.Health/Check/x"));
        assert!(!authorization.allows(Some(&id("users")), "a.Health/"));
    }

    #[test]
    fn a_rule_without_callers_covers_those_without_an_identity() {
        let rules = [rule(vec![], vec![AllowedMethods::Method("a.B/C".into())])];
        assert!(Authorization::new(Some(&rules)).allows(None, "a.B/C"));
    }
}
