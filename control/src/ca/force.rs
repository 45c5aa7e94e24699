//! What is in force of the folder at one moment: who signs, whom everybody trusts, what tokens are signed with.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use files::fingerprint;

use crate::ca::folder::Found;
use crate::ca::root::Root;
use crate::ca::seen::Seen;
use crate::ca::standing::{Rule, Standing, Times, standing};
use crate::ca::token::TokenKey;

/// A root that ends sooner is told of.
const ROOT_ENDS_SOON: Duration = Duration::from_secs(60 * 24 * 3_600);

/// The newest good version of the folder, as it stands now.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    /// All roots of the folder, the oldest first.
    pub(crate) roots: Arc<Vec<Root>>,
    /// What their standing depends on.
    pub(crate) times: Arc<Vec<Times>>,
    pub(crate) standing: Standing,
    pub(crate) tokens: Option<TokenKey>,
    /// What clients are to trust, PEM; the signer first.
    pub(crate) bundle: String,
    /// What tells one bundle from another.
    pub(crate) version: String,
}

impl InForce {
    pub(crate) fn new(found: Found, seen: &Seen, rule: Rule, now: SystemTime) -> Self {
        let times = found.roots.iter().map(|root| seen.times(root)).collect();
        Self::of(Arc::new(found.roots), Arc::new(times), found.tokens, rule, now)
    }

    /// The same roots at another time.
    pub(crate) fn at(&self, rule: Rule, now: SystemTime) -> Self {
        Self::of(self.roots.clone(), self.times.clone(), self.tokens.clone(), rule, now)
    }

    fn of(
        roots: Arc<Vec<Root>>,
        times: Arc<Vec<Times>>,
        tokens: Option<TokenKey>,
        rule: Rule,
        now: SystemTime,
    ) -> Self {
        let standing = standing(&times, rule, now);
        let bundle: String = standing.trusted.iter().map(|root| roots[*root].pem.as_str()).collect();
        let version = fingerprint(bundle.as_bytes())[..16].to_owned();
        Self { roots, times, standing, tokens, bundle, version }
    }

    pub(crate) fn signer(&self) -> Option<&Root> {
        self.standing.signer.map(|root| &self.roots[root])
    }

    /// What people should do about roots that end soon; there is time for it, also for those who look once a month.
    pub(crate) fn warning(&self, folder: &Path, now: SystemTime) -> Option<String> {
        let Some(signer) = self.signer() else {
            return Some("no root has a key, and nothing can be signed".to_owned());
        };
        let lasts = |root: &Root| root.not_after > now + ROOT_ENDS_SOON;
        if signer.is_stolen {
            let (name, folder) = (&signer.name, folder.display());
            return Some(format!(
                "{name} was stolen and still signs, since no other root has a key: outrigger certs root {folder}"
            ));
        }
        if lasts(signer) || self.roots.iter().any(|root| root.issuer.is_some() && lasts(root)) {
            return None;
        }
        let days = signer.not_after.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        let (name, folder) = (&signer.name, folder.display());
        Some(format!(
            "{name}, which signs, expires in {days} days, and no other root is there to follow it: outrigger certs root {folder}"
        ))
    }

    pub(crate) fn trusted(&self) -> impl Iterator<Item = &Root> {
        self.standing.trusted.iter().map(|root| &self.roots[*root])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::folder::{add_root, read};

    #[test]
    fn a_root_that_ends_soon_is_told_of_until_another_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        add_root(dir.path(), now).unwrap();
        let rule = Rule { overlap: Duration::ZERO, leaf_life: Duration::from_secs(1) };
        let warning = |at| {
            let found = read(dir.path()).unwrap();
            let seen = Seen::at_start(&found.roots);
            InForce::new(found, &seen, rule, at).warning(dir.path(), at)
        };
        assert_eq!(warning(now), None);
        let late = now + Duration::from_secs(3_600 * 24 * 3_600);
        let told = warning(late).unwrap();
        assert!(told.contains("expires in 49 days") && told.contains("outrigger certs root"), "{told}");
        add_root(dir.path(), late).unwrap();
        assert_eq!(warning(late), None);
    }
}
