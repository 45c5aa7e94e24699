//! What becomes of an answer: each resource in it is read, and taken or refused, by itself. Pure; large answers are
//! judged away from the control thread.

use std::sync::Arc;

use xds::Kind;
use xds::decode::{Own, decode};

use crate::control::xds::extent::bounded;
use crate::control::xds::held::Accepted;
use crate::control::xds::wire::{Answer, Entry, WORD_BYTES_MAX};
use crate::failure::clip;

/// The longest resource that is read.
pub(crate) const RESOURCE_BYTES_MAX: usize = 4 << 20;

/// A resource that was looked at.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    pub(crate) version: Arc<str>,
    pub(crate) what: What,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum What {
    Accepted(Arc<Accepted>),
    /// It is held in this version already.
    Held,
    /// Path and reason.
    Refused(String),
}

/// Looks at each resource of an answer about `kind`; `is_held` says which of them need no look.
pub(crate) fn judge(answer: &Answer, kind: Kind, own: &Own, is_held: &[bool]) -> Vec<Verdict> {
    let entries = answer.entries.iter().zip(is_held.iter().copied().chain(std::iter::repeat(false)));
    entries
        .map(|(entry, is_held)| {
            let what = if is_held { What::Held } else { look(entry, kind, own) };
            // What is refused for its length is remembered by its beginning.
            let name = clip(&entry.name, WORD_BYTES_MAX).to_owned();
            let version = match entry.version.len() > WORD_BYTES_MAX {
                true => clip(&entry.version, WORD_BYTES_MAX).into(),
                false => entry.version.clone(),
            };
            Verdict { name, version, what }
        })
        .collect()
}

fn look(entry: &Entry, kind: Kind, own: &Own) -> What {
    let Some(bytes) = &entry.bytes else {
        return What::Refused(
            "resource: it is missing, and there is no version of it that could go on".to_owned(),
        );
    };
    if entry.name.is_empty() {
        return What::Refused("name: it is missing".to_owned());
    }
    if entry.name.len() > WORD_BYTES_MAX || entry.version.len() > WORD_BYTES_MAX {
        let length = entry.name.len().max(entry.version.len());
        return What::Refused(format!(
            "its name or version has {length} bytes, and at most {WORD_BYTES_MAX} are kept"
        ));
    }
    if entry.type_url != kind.type_url() {
        let asked = kind.type_url();
        return What::Refused(format!("type_url: `{}` in an answer about `{asked}`", entry.type_url));
    }
    if bytes.len() > RESOURCE_BYTES_MAX {
        let length = bytes.len();
        return What::Refused(format!(
            "{length} bytes, but at most {RESOURCE_BYTES_MAX} of one resource are read"
        ));
    }
    if let Err(why) = bounded(bytes, kind) {
        return What::Refused(why);
    }
    match decode(kind, &entry.name, bytes, own) {
        Ok(part) => What::Accepted(Arc::new(Accepted::new(entry.version.clone(), bytes, part))),
        Err(refusal) if refusal.path.is_empty() => What::Refused(refusal.why),
        Err(refusal) => What::Refused(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};
    use xds::encode;
    use xds::{Audience, Client};

    use super::*;
    use crate::control::xds::fixture::answer;

    /// What becomes of the rules of `inbound: {authorization: RULES}` on the way to the service's own sidecar: how many arrive.
    fn arrive(rules: &str, others: &str) -> Result<usize, String> {
        let text = format!(
            "version: 1\nservices:\n  - name: a\n    namespace: shop\n    inbound:\n      authorization:\n{rules}{others}"
        );
        let mesh = parse_mesh(Source { name: "mesh", text: &text }).map_err(|faults| faults.to_string())?;
        let sent = encode::service(&mesh, 0, &Audience { client: Client::Outrigger, certificates: None });
        let listener = sent.into_iter().find(|one| one.name == "inbound/a.shop").expect("the listener");
        let mut answer = answer(Kind::Listener, "n", "1", &[&listener.name], &[]);
        answer.entries[0].bytes = Some(listener.bytes);
        let own = Own { trust_domain: "cluster.local".to_owned(), namespace: "shop".to_owned() };
        match &judge(&answer, Kind::Listener, &own, &[])[0].what {
            What::Accepted(accepted) => Ok(format!("{accepted:?}").matches("Rule {").count()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ten_thousand_rules_arrive_and_whatever_the_mesh_may_say_does() {
        let rule = |at: usize| {
            let id = format!("spiffe://cluster.local/ns/s/sa/c-{at}");
            format!("        - allow: {{from: [{id}], methods: [a.B/M{at}]}}\n")
        };
        let rules = |count: usize| (0..count).map(rule).collect::<String>();
        assert_eq!(arrive(&rules(10_000), ""), Ok(10_000));
        // A service of many accounts, as often as may be said.
        let ids: Vec<String> =
            (0..200).map(|at| format!("spiffe://cluster.local/ns/shop/sa/many-{at}")).collect();
        let many = format!("  - {{name: many, namespace: shop, identities: [{}]}}\n", ids.join(", "));
        let named = |count: usize| "        - deny: {from: [{service: many}]}\n".repeat(count);
        assert_eq!(arrive(&named(220), &many), Ok(220));
        let refused = arrive(&named(400), &many).unwrap_err();
        assert!(
            refused.contains("when services are ids") && refused.contains("name a namespace"),
            "{refused}"
        );
        // Those that take the most messages for what they say.
        let header = |at: usize| {
            format!(
                "        - {{name: n{at}, audit: {{methods: [a.B/C, a.B/*], headers: [{{name: x, regex: a, invert: true}}, {{name: z, exact: b, invert: true}}]}}}}\n"
            )
        };
        let headers = (0..400).map(header).collect::<String>();
        assert_eq!(arrive(&headers, ""), Ok(400));
    }

    #[test]
    fn long_names_and_versions_are_refused_by_their_beginning() {
        let own = Own { trust_domain: "cluster.local".to_owned(), namespace: "n".to_owned() };
        let long = "x".repeat(WORD_BYTES_MAX + 1);
        for (name, version) in [(long.as_str(), "1"), ("a", long.as_str())] {
            let answer = answer(Kind::Cluster, "n", version, &[name], &[]);
            let verdicts = judge(&answer, Kind::Cluster, &own, &[]);
            let Verdict { name, version, what: What::Refused(why) } = &verdicts[0] else {
                panic!("{verdicts:?}")
            };
            assert!(why.contains("1025 bytes"), "{why}");
            assert!(name.len() <= WORD_BYTES_MAX && version.len() <= WORD_BYTES_MAX);
        }
    }
}
