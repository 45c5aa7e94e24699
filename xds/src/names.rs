//! What resources are called.
//!
//! The service `NAME` of the namespace `NS` is the Listener, RouteConfiguration, Cluster and ClusterLoadAssignment
//! `NAME.NS`. A backend that asks for labels is the Cluster `NAME.NS;key=value,key=value`, its labels in the order of their
//! keys. What a sidecar asks of its own callers is the Listener `inbound/NAME.NS`.

use std::collections::BTreeMap;

/// The beginning of the name of a Listener that says what a sidecar asks of its callers.
pub const INBOUND: &str = "inbound/";

/// The Listener and the RouteConfiguration through which Envoy takes the calls of its app.
pub const OUTBOUND: &str = "outbound";

/// The resources of a service: `NAME.NAMESPACE`.
pub fn service(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}")
}

/// Name and namespace of a service: what stands before and behind the first dot; without a dot the namespace is `own`.
pub fn parse_service<'a>(full: &'a str, own: &'a str) -> (&'a str, &'a str) {
    full.split_once('.').unwrap_or((full, own))
}

/// The Listener that says what the sidecar of `service` (`NAME.NAMESPACE`) asks of its callers.
pub fn inbound(service: &str) -> String {
    format!("{INBOUND}{service}")
}

/// The policy of RBAC that lets in what no rule covers.
pub(crate) const DEFAULT_POLICY: &str = "default";

/// The longest name of a rule that is kept; metrics and logs tell it.
const RULE_NAME_BYTES_MAX: usize = 128;

/// The policy of the `i`th rule of all: names sort as the rules stand.
pub(crate) fn policy(i: usize, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("rule-{i:06}/{name}"),
        None => format!("rule-{i:06}"),
    }
}

/// The name of the rule that a policy is: the rest of a name of ours, or the whole of another's.
pub(crate) fn rule_name(policy: &str) -> Option<String> {
    let is_place = |place: &str| place.len() == 6 && place.bytes().all(|byte| byte.is_ascii_digit());
    let name = match policy.strip_prefix("rule-") {
        Some(place) if is_place(place) => return None,
        Some(rest) => match rest.split_once('/') {
            Some((place, name)) if is_place(place) => name,
            _ => policy,
        },
        None => policy,
    };
    let is_told = name.len() <= RULE_NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    (is_told && !name.is_empty()).then(|| name.to_owned())
}

/// The Cluster of those endpoints of `service` (`NAME.NAMESPACE`) that carry all of `labels`.
pub fn cluster(service: &str, labels: &BTreeMap<String, String>) -> String {
    let mut name = service.to_owned();
    for (i, (key, value)) in labels.iter().enumerate() {
        name.push(if i == 0 { ';' } else { ',' });
        escape(key, &mut name);
        name.push('=');
        escape(value, &mut name);
    }
    name
}

/// Service and labels of a Cluster; `None` where the labels are not written as [`cluster`] writes them.
pub fn parse_cluster(name: &str) -> Option<(&str, BTreeMap<String, String>)> {
    let Some((service, list)) = name.split_once(';') else { return Some((name, BTreeMap::new())) };
    let mut labels = BTreeMap::new();
    for pair in list.split(',') {
        let (key, value) = pair.split_once('=')?;
        labels.insert(unescape(key)?, unescape(value)?);
    }
    (cluster(service, &labels) == name).then_some((service, labels))
}

/// Labels are any visible ASCII; what the name is built with, and what builds paths, is written `%XX`.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'%' | b',' | b';' | b'=' | b'/' => into.push_str(&format!("%{byte:02X}")),
            _ => into.push(char::from(byte)),
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = String::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                char::from_u32(high * 16 + low).filter(char::is_ascii)?
            }
            _ => char::from(byte),
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_name_of_a_cluster_leads_back_to_its_service_and_labels() {
        assert_eq!(cluster("a.b", &labels(&[])), "a.b");
        assert_eq!(cluster("a.b", &labels(&[("version", "v2"), ("tier", "x")])), "a.b;tier=x,version=v2");
        for map in
            [labels(&[]), labels(&[("version", "v2")]), labels(&[("a=b;c,d%2C", "=;,%/"), ("tier", "gold")])]
        {
            assert_eq!(parse_cluster(&cluster("a.b", &map)), Some(("a.b", map)));
        }
    }

    #[test]
    fn what_is_not_written_like_that_has_no_labels() {
        for name in
            ["a.b;", "a.b;x", "a.b;x=1,", "a.b;x=%2", "a.b;x=%zz", "a.b;x=%ff", "a.b;y=1,x=1", "a.b;x=%2c"]
        {
            assert_eq!(parse_cluster(name), None, "{name}");
        }
    }

    #[test]
    fn a_service_is_split_at_its_first_dot() {
        assert_eq!(parse_service("a.b", "own"), ("a", "b"));
        assert_eq!(parse_service("a.b.c", "own"), ("a", "b.c"));
        assert_eq!(parse_service("a", "own"), ("a", "own"));
    }
}
