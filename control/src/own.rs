//! Our own certificate where our CA signs it: in memory alone, renewed at half of its life, and whenever the roots change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::spiffe::SpiffeId;
use files::Reports;
use identity::leaf::validity;
use identity::material::Origins;
use rustls::RootCertStore;
use tokio::time::sleep;

use crate::ca::authority::Authority;
use crate::credentials::Held;
use crate::tls::{Credentials, Own, Trust, credentials, trust};
use crate::world::Worlds;

/// Whose it is: this account of this namespace, in the mesh's trust domain.
const NAMESPACE: &str = "outrigger";
const ACCOUNT: &str = "outrigger-control";
/// What we are dialled by unless `ca.names` says otherwise.
const NAMES: [&str; 4] = ["outrigger-control", "localhost", "127.0.0.1", "::1"];
/// The clock is looked at this often at least, since it may jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When it is tried again after the CA could not sign.
const AGAIN: Duration = Duration::from_secs(1);
/// The least time between two, however short they live: of a root that ends now, none lives at all.
const APART: Duration = Duration::from_millis(100);

/// Keeps it new.
pub(crate) struct Renewal {
    ca: Arc<Authority>,
    names: Vec<String>,
    worlds: Worlds,
    held: Arc<Held>,
    own: Own,
    reports: Reports,
}

impl Renewal {
    /// The first one. The error says why the CA cannot sign.
    pub(crate) fn begin(
        ca: Arc<Authority>,
        names: &[String],
        worlds: Worlds,
        reports: Reports,
    ) -> Result<Self, String> {
        let names = match names {
            [] => NAMES.map(str::to_owned).into(),
            names => names.to_vec(),
        };
        let now = SystemTime::now();
        let own = sign(&ca, &names, &worlds, now)?;
        let held = Arc::new(Held::new(meet(&ca, &own, &worlds)?, now));
        Ok(Self { ca, names, worlds, held, own, reports })
    }

    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Renews for as long as the process lives.
    pub(crate) async fn run(mut self) {
        let mut changes = self.ca.changes();
        let mut signed = SystemTime::now();
        let mut told = String::new();
        loop {
            let half = self.own.expires.duration_since(signed).unwrap_or_default() / 2;
            let left = (signed + half).duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(left.clamp(APART, LOOK_EVERY)) => {
                    let now = SystemTime::now();
                    // A clock that was set back must not put it off.
                    if now < signed + half && now >= signed {
                        continue;
                    }
                }
            }
            let now = SystemTime::now();
            let renewed = sign(&self.ca, &self.names, &self.worlds, now).map(|own| self.own = own);
            // Whom we let in changes also where nothing can be signed.
            let met =
                meet(&self.ca, &self.own, &self.worlds).map(|credentials| self.held.take(credentials, now));
            match renewed.and(met) {
                Ok(()) => {
                    self.held.judge(None);
                    (signed, told) = (now, String::new());
                }
                Err(why) => {
                    if why != told {
                        self.held.judge(Some(why.clone()));
                        self.reports.say(format!("our own certificate cannot be renewed: {why}"));
                        told = why;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// A new certificate for a new key.
fn sign(ca: &Authority, names: &[String], worlds: &Worlds, now: SystemTime) -> Result<Own, String> {
    let trust_domain = worlds.borrow().mesh.trust_domain.clone();
    let own = ca.own(&SpiffeId::of_account(&trust_domain, NAMESPACE, ACCOUNT), names, now)?;
    let (_, expires) = validity(&own.chain[0])?;
    Ok(Own { chain: own.chain, key: own.key, expires })
}

/// How clients meet us with it, and whom we let in.
fn meet(ca: &Authority, own: &Own, worlds: &Worlds) -> Result<Credentials, String> {
    let mut roots = RootCertStore::empty();
    trust(&ca.in_force(), &mut roots)?;
    let own = Own { chain: own.chain.clone(), key: own.key.clone_key(), expires: own.expires };
    let trust = Trust { roots, is_optional: true, worlds: worlds.clone() };
    credentials(own, trust, &Origins::one("ca"))
}
