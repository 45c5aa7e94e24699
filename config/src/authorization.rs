//! Builds `inbound.authorization` of a service: who may call what.
//!
//! What the file says of services and namespaces becomes their SPIFFE ids here, so that whoever enforces a rule needs to know
//! nothing of other services.

use std::collections::HashMap;

use crate::fault::{Sinks, Wrong};
use crate::model::{
    Action, Answer, Authorization, Caller, CoveredMethods, HeaderMatch, HeaderValueMatch, Rule, Service,
};
use crate::routes::{Known, header_match, header_regexes, one_of};
use crate::spiffe::SpiffeId;
use crate::walk::{Fields, Item};

/// Rules of one service: what is sent to a sidecar stays within its bounds.
const RULES_MAX: usize = 20_000;

/// Messages and texts that the rules of one service come to where they are sent; a sidecar reads up to 250,000.
const ELEMENTS_MAX: usize = 240_000;

/// Bytes of the same, about; a sidecar reads resources up to 4 MiB.
const BYTES_MAX: usize = 7 << 19;

/// What a rule may name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others<'a> {
    /// Every service, in the order of their indices.
    pub(crate) services: &'a [Service],
    pub(crate) known: &'a Known,
    pub(crate) trust_domain: &'a str,
}

/// Builds what the sidecar of `service` asks of callers; `defaults`: of the file that it stands in. `None`: nothing.
pub(crate) fn build(
    block: &Fields,
    defaults: Option<&Fields>,
    service: &Service,
    others: &Others<'_>,
    sinks: &mut Sinks,
) -> Option<Authorization> {
    let inbound = block.fields("inbound");
    let item = inbound.and_then(|inbound| inbound.item("authorization"));
    let list = inbound.map(|inbound| inbound.list("authorization")).unwrap_or_default();
    if let Some(item) = item
        && list.len() > RULES_MAX
    {
        let wrong = Wrong::new(format!("there are {} rules", list.len()));
        let hint = format!("at most {RULES_MAX} are possible; one rule may name many callers and methods");
        sinks.faults.add(item.place, &item.path, wrong.hint(hint));
        return None;
    }
    let mut extent = Extent::default();
    let mut rules: Vec<Rule> = Vec::new();
    for item in list.iter().flatten() {
        let Some(rule) = item.fields().and_then(|block| rule(block, service, others, sinks)) else {
            continue;
        };
        extent.add(&rule);
        // What is too much is counted to its end, and not kept.
        if extent.fits() {
            rules.push(rule);
        }
    }
    if let Some(item) = item
        && !extent.fits()
    {
        let Extent { elements, bytes } = extent;
        let said = format!("the rules come to {elements} elements and {bytes} bytes when services are ids");
        let hint = format!(
            "a sidecar reads at most {ELEMENTS_MAX} and {BYTES_MAX} of one service; name a namespace in place of many services"
        );
        sinks.faults.add(item.place, &item.path, Wrong::new(said).hint(hint));
        return None;
    }
    check_names(list, sinks);
    let said = |block: Option<&Fields>| block.and_then(|block| answer(block.text("authorization_default")?));
    let default = said(inbound).unwrap_or_else(|| {
        let names_some = rules.iter().any(|rule| rule.action == Action::Allow);
        // Nobody lists whom to let in and means everybody else as well. An empty list has always let in nobody.
        match names_some || item.is_some() && list.is_empty() {
            true => Answer::Deny,
            false => said(defaults.and_then(|block| block.fields("inbound"))).unwrap_or(Answer::Allow),
        }
    });
    let authorization = Authorization { rules, default };
    (!authorization.asks_nothing()).then_some(authorization)
}

/// What rules come to as RBAC policies, or a little more.
#[derive(Debug, Default)]
struct Extent {
    elements: usize,
    bytes: usize,
}

impl Extent {
    fn add(&mut self, rule: &Rule) {
        let Rule { name, from, methods, headers, .. } = rule;
        let of_header = |header: &HeaderMatch| {
            let value = match &header.value {
                HeaderValueMatch::Exact(text) | HeaderValueMatch::Prefix(text) => text.len(),
                HeaderValueMatch::Regex(regex) => regex.as_str().len(),
                HeaderValueMatch::Present(_) => 0,
            };
            header.name.len() + value
        };
        let free = name.as_ref().map_or(0, String::len) + headers.iter().map(of_header).sum::<usize>();
        let ids: usize = from
            .iter()
            .map(|caller| match caller {
                Caller::AnyAuthenticated => 0,
                Caller::Id(id) => id.as_str().len(),
                Caller::Prefix(prefix) => prefix.len(),
            })
            .sum();
        let names: usize = methods
            .iter()
            .map(|methods| match methods {
                CoveredMethods::Method(name) | CoveredMethods::Service(name) => name.len(),
            })
            .sum();
        // A text of one's own may look like messages, of two bytes each.
        self.elements += 8 + 4 * (from.len() + methods.len()) + 9 * headers.len() + free / 2;
        self.bytes += 48 + 16 * (from.len() + methods.len()) + 48 * headers.len() + free + ids + names;
    }

    fn fits(&self) -> bool {
        self.elements <= ELEMENTS_MAX && self.bytes <= BYTES_MAX
    }
}

/// How many regular expressions the rules of a service have.
pub(crate) fn regexes(block: &Fields) -> usize {
    let rules = block.fields("inbound").map(|inbound| inbound.list("authorization")).unwrap_or_default();
    let covered = rules.iter().flatten().filter_map(|rule| covered(rule.fields()?));
    covered.map(|(_, covered)| header_regexes(covered)).sum()
}

/// What a rule does, and the block that says with which calls.
pub(crate) fn covered(rule: &Fields) -> Option<(Action, &Fields)> {
    let actions = [Action::Allow, Action::Deny, Action::Audit];
    actions.into_iter().find_map(|action| Some((action, rule.fields(action.as_str())?)))
}

/// Two rules of one name could not be told apart.
fn check_names(list: &[Option<Item>], sinks: &mut Sinks) {
    let mut first: HashMap<&str, &str> = HashMap::new();
    for rule in list.iter().flatten() {
        let Some(item) = rule.fields().and_then(|rule| rule.item("name")) else { continue };
        let Some(name) = item.text() else { continue };
        if let Some(earlier) = first.get(name) {
            let wrong = Wrong::new(format!("the rule `{name}` stands here twice"));
            sinks.faults.add(
                item.place,
                &item.path,
                wrong.hint(format!("the first is `{earlier}`; rename one")),
            );
        }
        first.entry(name).or_insert(&rule.path);
    }
}

fn answer(word: &str) -> Option<Answer> {
    match word {
        "allow" => Some(Answer::Allow),
        "deny" => Some(Answer::Deny),
        _ => None,
    }
}

fn rule(block: &Fields, service: &Service, others: &Others<'_>, sinks: &mut Sinks) -> Option<Rule> {
    one_of(block, &["allow", "deny", "audit"], &mut sinks.faults)?;
    let (action, covered) = covered(block)?;
    for (name, meaning) in [("from", "anyone"), ("methods", "every method"), ("headers", "any headers")] {
        if let Some(item) = covered.item(name)
            && covered.list(name).is_empty()
        {
            let wrong = Wrong::new(format!("`{name}` is an empty list"));
            let hint = format!("leave the key out to {} {meaning}", action.as_str());
            sinks.faults.add(item.place, &item.path, wrong.hint(hint));
        }
    }
    let from = covered.list("from").iter().flatten();
    let from = from.flat_map(|item| callers(item, service, others, sinks)).collect();
    let methods = covered.list("methods").iter().flatten().filter_map(|item| {
        let text = item.text()?;
        Some(match text.strip_suffix('*') {
            Some(service) => CoveredMethods::Service(service.to_owned()),
            None => CoveredMethods::Method(text.to_owned()),
        })
    });
    let headers = covered.list("headers").iter().flatten();
    let headers = headers.filter_map(|item| header_match(item.fields()?, &mut sinks.faults)).collect();
    let name = block.text("name").map(str::to_owned);
    Some(Rule { name, action, from, methods: methods.collect(), headers })
}

/// Those whom an entry of `from` names.
fn callers(item: &Item, service: &Service, others: &Others<'_>, sinks: &mut Sinks) -> Vec<Caller> {
    if let Some(text) = item.text() {
        return text_caller(text).into_iter().collect();
    }
    let Some(block) = item.fields() else { return Vec::new() };
    if one_of(block, &["service", "namespace"], &mut sinks.faults).is_none() {
        return Vec::new();
    }
    if let Some(namespace) = block.text("namespace") {
        return vec![Caller::Prefix(format!("spiffe://{}/ns/{namespace}/", others.trust_domain))];
    }
    let Some((item, target)) = block.item("service").and_then(|item| Some((item, item.text()?))) else {
        return Vec::new();
    };
    let (name, namespace) = target.split_once('.').unwrap_or((target, &service.namespace));
    let full = format!("{name}.{namespace}");
    match others.known.find(&full) {
        Some(index) => others.services[index].identities.iter().cloned().map(Caller::Id).collect(),
        // It may come, and then most likely proves this.
        None => {
            others.known.tell_missing(&full, item, &mut sinks.dangling);
            vec![Caller::Id(SpiffeId::of_account(others.trust_domain, namespace, name))]
        }
    }
}

fn text_caller(text: &str) -> Option<Caller> {
    if text == "*" {
        return Some(Caller::AnyAuthenticated);
    }
    match text.strip_suffix('*') {
        Some(prefix) => Some(Caller::Prefix(prefix.to_owned())),
        None => SpiffeId::parse(text).ok().map(Caller::Id),
    }
}
