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
    use super::*;
    use crate::control::xds::fixture::answer;

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
