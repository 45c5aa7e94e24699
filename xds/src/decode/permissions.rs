//! What a policy of RBAC covers: trees of conditions as methods and headers.

use config::check;
use config::model::{CoveredMethods, HeaderMatch};

use crate::decode::at::At;
use crate::decode::matches;
use crate::decode::patterns::{self, Pattern};
use crate::pb::matcher::{PathMatcher, path_matcher};
use crate::pb::rbac::{Permission, permission};
use crate::pb::route::HeaderMatcher;
use crate::refusal::Refusal;

/// What a tree of conditions may come to.
const ALTERNATIVES_MAX: usize = 256;

/// One alternative: all of it must hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Covered {
    /// `None`: every method. Of several, one.
    pub(crate) methods: Option<Vec<CoveredMethods>>,
    pub(crate) headers: Vec<HeaderMatch>,
}

impl Covered {
    const EVERYTHING: Self = Self { methods: None, headers: Vec::new() };

    /// What both cover; `None`: nothing.
    fn and(&self, other: &Self) -> Option<Self> {
        let methods = match (&self.methods, &other.methods) {
            (None, methods) | (methods, None) => methods.clone(),
            (Some(ours), Some(theirs)) => {
                let both: Vec<_> = ours
                    .iter()
                    .flat_map(|one| theirs.iter().filter_map(|other| common(one, other)))
                    .collect();
                if both.is_empty() {
                    return None;
                }
                Some(both)
            }
        };
        let headers = self.headers.iter().chain(&other.headers).cloned().collect();
        Some(Self { methods, headers })
    }
}

fn common(one: &CoveredMethods, other: &CoveredMethods) -> Option<CoveredMethods> {
    use CoveredMethods::{Method, Service};
    match (one, other) {
        (Service(prefix), Method(method)) | (Method(method), Service(prefix)) => {
            method.starts_with(prefix.as_str()).then(|| Method(method.clone()))
        }
        (one, other) => (one == other).then(|| one.clone()),
    }
}

/// Reads the permissions of a policy, one of which must hold.
pub(crate) fn read(permissions: &[Permission], at: &At<'_>) -> Result<Vec<Covered>, Refusal> {
    let mut all = Vec::new();
    for (i, permission) in permissions.iter().enumerate() {
        or(&mut all, tree(permission, &at.item("permissions", i))?);
    }
    match all.len() > ALTERNATIVES_MAX {
        true => {
            Err(at.field("permissions").refuse("they come to too many alternatives; write several policies"))
        }
        false => Ok(all),
    }
}

/// Adds alternatives; those that ask for the same headers become one.
fn or(all: &mut Vec<Covered>, more: Vec<Covered>) {
    for covered in more {
        match all.iter_mut().find(|one| one.headers == covered.headers) {
            None => all.push(covered),
            Some(one) => {
                one.methods = one.methods.take().zip(covered.methods).map(|(mut ours, theirs)| {
                    ours.extend(theirs);
                    ours
                });
            }
        }
    }
}

fn tree(permission: &Permission, at: &At<'_>) -> Result<Vec<Covered>, Refusal> {
    let set = |set: &permission::Set, at: &At<'_>| {
        if set.rules.is_empty() {
            return Err(at.field("rules").refuse("there is none"));
        }
        set.rules.iter().enumerate().map(|(i, rule)| tree(rule, &at.item("rules", i))).collect()
    };
    Ok(match &permission.rule {
        Some(permission::Rule::Any(true)) => vec![Covered::EVERYTHING],
        Some(permission::Rule::UrlPath(path)) => {
            let methods = methods(path, &at.field("url_path.path"))?;
            vec![Covered { methods: Some(vec![methods]), headers: Vec::new() }]
        }
        Some(permission::Rule::Header(matcher)) => {
            vec![Covered { methods: None, headers: headers(matcher, &at.field("header"))? }]
        }
        Some(permission::Rule::NotRule(inner)) => vec![not(inner, &at.field("not_rule"))?],
        Some(permission::Rule::OrRules(rules)) => {
            let mut all = Vec::new();
            let trees: Vec<_> = set(rules, &at.field("or_rules"))?;
            trees.into_iter().for_each(|more| or(&mut all, more));
            all
        }
        Some(permission::Rule::AndRules(rules)) => {
            let mut all = vec![Covered::EVERYTHING];
            let trees: Vec<Vec<Covered>> = set(rules, &at.field("and_rules"))?;
            for more in trees {
                if all.len() * more.len() > ALTERNATIVES_MAX {
                    let why = "it comes to too many alternatives; write several policies";
                    return Err(at.field("and_rules").refuse(why));
                }
                all = all.iter().flat_map(|one| more.iter().filter_map(|other| one.and(other))).collect();
            }
            all
        }
        _ => {
            return Err(at.refuse(
                "only `any: true`, `url_path`, `header`, `not_rule` of a header, `and_rules` and `or_rules` are known",
            ));
        }
    })
}

/// A header that is not so, or not there.
fn not(inner: &Permission, at: &At<'_>) -> Result<Covered, Refusal> {
    let why = "only a header can be turned around, and only once";
    let Some(permission::Rule::Header(matcher)) = &inner.rule else { return Err(at.refuse(why)) };
    let at = at.field("header");
    if matcher.invert_match {
        return Err(at.field("invert_match").refuse(why));
    }
    match headers(matcher, &at)?.as_slice() {
        [one] => {
            let headers = vec![HeaderMatch { invert: !one.invert, ..one.clone() }];
            Ok(Covered { methods: None, headers })
        }
        _ => Err(at.refuse(why)),
    }
}

fn headers(matcher: &HeaderMatcher, at: &At<'_>) -> Result<Vec<HeaderMatch>, Refusal> {
    let name = matcher.name.to_ascii_lowercase();
    check::rule_header(&name).map_err(|why| at.field("name").refuse(why))?;
    let mut read = Vec::new();
    matches::header(&name, matcher, false, &mut read, at)?;
    Ok(read)
}

fn methods(path: &PathMatcher, at: &At<'_>) -> Result<CoveredMethods, Refusal> {
    let Some(path_matcher::Rule::Path(matcher)) = &path.rule else {
        return Err(at.refuse("there is no path"));
    };
    let why = "a method is `exact: /package.Service/Method`, a service `prefix: /package.Service/`";
    let methods = match patterns::read(matcher, at)? {
        Pattern::Exact(path) => path
            .strip_prefix('/')
            .filter(|method| check::method(method).is_ok())
            .map(|method| CoveredMethods::Method(method.to_owned())),
        Pattern::Prefix(path) => path
            .strip_prefix('/')
            .filter(|prefix| prefix.strip_suffix('/').is_some_and(patterns::is_service))
            .map(|prefix| CoveredMethods::Service(prefix.to_owned())),
        Pattern::Regex(_) => None,
    };
    methods.ok_or_else(|| at.refuse(why))
}
