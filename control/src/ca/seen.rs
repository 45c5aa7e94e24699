//! What came into the folder while this process looked on, and when. What was there at its start goes by the certificates' own
//! dates: those of a root of ours tell when everybody could know it, and every control plane reads the same in them. A root that is
//! handed in may be of any date, so whoever sees one come holds it back for the overlap from then on.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::ca::root::Root;
use crate::ca::standing::Times;

/// By the fingerprints of roots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(HashMap<String, Coming>);

#[derive(Clone, Copy, Debug)]
struct Coming {
    /// `None`: it was there at the start.
    root: Option<SystemTime>,
    key: Option<SystemTime>,
    has_key: bool,
}

impl Seen {
    /// What the start finds.
    pub(crate) fn at_start(roots: &[Root]) -> Self {
        let coming = |root: &Root| Coming { root: None, key: None, has_key: root.issuer.is_some() };
        Self(roots.iter().map(|root| (root.fingerprint.clone(), coming(root))).collect())
    }

    /// What a later look finds. What has gone is forgotten, and comes anew when it comes back.
    pub(crate) fn followed(&self, roots: &[Root], now: SystemTime) -> Self {
        let coming = |root: &Root| {
            let has_key = root.issuer.is_some();
            let before = self.0.get(&root.fingerprint);
            let key_came = has_key && !before.is_some_and(|before| before.has_key);
            Coming {
                root: before.map_or(Some(now), |before| before.root),
                key: if key_came { Some(now) } else { before.and_then(|before| before.key) },
                has_key,
            }
        };
        Self(roots.iter().map(|root| (root.fingerprint.clone(), coming(root))).collect())
    }

    /// What the standing of a root depends on.
    pub(crate) fn times(&self, root: &Root) -> Times {
        let coming = self.0.get(&root.fingerprint);
        Times {
            introduced: root.introduced(),
            not_after: root.not_after,
            has_key: root.issuer.is_some(),
            seen: coming.and_then(|coming| coming.root),
            key_seen: coming.and_then(|coming| coming.key),
            is_stolen: root.is_stolen,
        }
    }

    /// What is wrong with keys that have come: one of a root that is older than another with a key would have its root be taken for
    /// one that was superseded long ago, and with it everything that it has signed.
    pub(crate) fn fault(&self, roots: &[Root]) -> Option<String> {
        let newest = roots.iter().filter(|root| root.issuer.is_some() && !root.is_stolen);
        let newest = newest.max_by_key(|root| root.introduced())?;
        let late = |root: &&Root| {
            let had = self.0.get(&root.fingerprint).is_some_and(|before| before.has_key);
            root.issuer.is_some() && !had && !root.is_stolen && root.introduced() < newest.introduced()
        };
        let (late, newest) = (&roots.iter().find(late)?.name, &newest.name);
        Some(format!(
            "{late}.key: {late} is older than {newest}, which has a key too: it would never sign, and be trusted no more. Take \
             {newest}.key away ({newest} stays trusted, and {late} signs), or give {late} a certificate of today"
        ))
    }
}
