//! The CA of a running control plane: what is in force, and who gets a certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use config::spiffe::SpiffeId;
use identity::pem::write_certificate;
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::ca::audit::{Audit, Line, rfc3339};
use crate::ca::counters::{By, Counters};
use crate::ca::csr;
use crate::ca::force::InForce;
use crate::ca::rate::{Rate, Rates};
use crate::ca::reason::{Reason, Refusal};
use crate::ca::sign::sign;
use crate::ca::standing::Rule;
use crate::ca::used::{Use, Used};
use crate::ca::vouch::{Vouch as _, Voucher};

/// Signs certificates.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) rule: Rule,
    /// As errors and pages name it.
    pub(crate) folder: PathBuf,
    pub(crate) counters: Arc<Counters>,
    in_force: ArcSwap<InForce>,
    changes: watch::Sender<()>,
    used: Used,
    audit: Audit,
    rate: Mutex<Rate>,
    /// Why what the folder holds now cannot be used, and since when.
    pub(crate) fault: Mutex<Option<(String, SystemTime)>>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Asker<'a> {
    /// Has shown a certificate in TLS.
    Certificate {
        id: &'a SpiffeId,
        chain: &'a [CertificateDer<'static>],
        expires: Option<SystemTime>,
    },
    /// Has sent a token.
    Bearer(&'a str),
    Nobody,
}

/// A request for a certificate.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) asker: Asker<'a>,
    pub(crate) peer: SocketAddr,
    /// PEM.
    pub(crate) csr: &'a str,
    /// How long it is to be good; `None`: as long as may be.
    pub(crate) life: Option<Duration>,
    /// Of the mesh.
    pub(crate) trust_domain: &'a str,
}

/// A certificate of our own, with its key.
pub(crate) struct OwnLeaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn new(
        folder: PathBuf,
        in_force: InForce,
        rule: Rule,
        rates: Rates,
        used: Used,
        audit: Audit,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            rule,
            folder,
            counters,
            in_force: ArcSwap::from_pointee(in_force),
            changes: watch::Sender::new(()),
            used,
            audit,
            rate: Mutex::new(Rate::new(rates, Instant::now())),
            fault: Mutex::default(),
        }
    }

    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Something else is in force now.
    pub(crate) fn take(&self, next: InForce) {
        self.in_force.store(Arc::new(next));
        self.changes.send_replace(());
    }

    /// The same is in force, read anew: the key of tokens may be another, and the next change.
    pub(crate) fn refresh(&self, same: InForce) {
        self.in_force.store(Arc::new(same));
    }

    /// Tells when something else is in force.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether what the folder holds now cannot be used.
    pub(crate) fn is_faulty(&self) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Tells of refusals that were too many to be told one by one.
    pub(crate) fn tell_more(&self, now: SystemTime) {
        self.audit.tell_more(now);
    }

    /// Forgets join tokens that have expired.
    pub(crate) fn sweep(&self, now: SystemTime) {
        self.used.sweep(now);
    }

    /// A certificate for a new key of our own, by which clients dial us under these names.
    pub(crate) fn own(&self, id: &SpiffeId, names: &[String], now: SystemTime) -> Result<OwnLeaf, String> {
        let in_force = self.in_force();
        let root = in_force.signer().ok_or("no root in ca.folder has a key, so nothing can be signed")?;
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let signed = sign(root, &key, id, names, self.rule.leaf_life, now)?;
        let mut line = Line::new(now, SocketAddr::from(([0; 4], 0)));
        line.set("event", "own");
        tell_signed(&mut line, id, &signed.serial, signed.not_after, &root.name);
        line.set("names", names);
        self.audit.say(line);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(OwnLeaf { chain: vec![signed.der], key: key.into() })
    }

    /// Whom a token vouches for, for other services than the CA's: not one that is good for a certificate and nothing else.
    pub(crate) async fn admit(
        &self,
        token: &str,
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Voucher, Refusal> {
        let voucher = self.in_force().vouch(token, trust_domain, now).await?;
        if voucher.single_use {
            let what =
                "a token for a single use is good for a certificate only; make one without --single-use";
            return Err(Refusal::new(Reason::WrongToken, what));
        }
        Ok(voucher)
    }

    /// A certificate, as a chain in PEM: the leaf first and its root last. Counted and told, however it ends.
    pub(crate) async fn issue(&self, ask: Ask<'_>, now: SystemTime) -> Result<Vec<String>, Refusal> {
        let mut line = Line::new(now, ask.peer);
        let judged = self.judge(&ask, now, &mut line).await;
        match &judged {
            Ok((by, _)) => {
                self.counters.issue(*by);
                line.set("event", "issued");
                self.audit.say(line);
            }
            Err(refusal) => {
                self.counters.refuse(refusal.reason);
                line.set("event", "refused");
                line.set("reason", refusal.reason.as_str());
                line.set("message", refusal.message.as_str());
                self.audit.refuse(refusal.reason, line, now);
            }
        }
        judged.map(|(_, chain)| chain)
    }

    async fn judge(
        &self,
        ask: &Ask<'_>,
        now: SystemTime,
        line: &mut Line,
    ) -> Result<(By, Vec<String>), Refusal> {
        let in_force = self.in_force();
        let (by, id, voucher) = match ask.asker {
            Asker::Nobody => {
                let what = "neither a client certificate nor a token (authorization: Bearer) was shown; \
                            make one: outrigger certs token";
                return Err(Refusal::new(Reason::NoCredentials, what));
            }
            Asker::Certificate { id, chain, expires } => {
                line.set("by", By::Certificate.as_str());
                line.set("asker", id.as_str());
                shown(&in_force, chain, expires, now, line)?;
                (By::Certificate, id.clone(), None)
            }
            Asker::Bearer(token) => {
                line.set("by", By::Token.as_str());
                let voucher = in_force.vouch(token, ask.trust_domain, now).await?;
                (By::Token, voucher.id.clone(), Some(voucher))
            }
        };
        line.set("by", by.as_str());
        line.set("asker", id.as_str());
        if let Some(voucher) = &voucher {
            line.set("jti", voucher.number.as_str());
        }
        // Before the workload's rate is asked: whoever has an old token of its shall not use that up.
        let single = voucher.filter(|voucher| voucher.single_use);
        if let Some(voucher) = &single
            && self.is_used(voucher).await
        {
            return Err(used());
        }
        let too_often = |limit| {
            let what = format!("limits.{limit} of the control plane is reached; try again later");
            Refusal::new(Reason::Rate, what)
        };
        self.rate().look(&id, Instant::now()).map_err(too_often)?;
        let csr = csr::read(ask.csr)?;
        line.set("key_type", csr.key_type.as_str());
        line.set("key", csr.key_digest.as_str());
        if let Some(named) = csr.id.filter(|named| *named != id) {
            let what = format!("the request (CSR) is for {named}, and whoever asks is {id}");
            return Err(Refusal::new(Reason::ForeignId, what));
        }
        let root = in_force.signer().ok_or_else(|| {
            Refusal::new(Reason::NoCa, "no root in ca.folder of the control plane has a key")
        })?;
        // Only what is good counts.
        self.rate().take(&id, Instant::now()).map_err(too_often)?;
        let life = ask.life.map_or(self.rule.leaf_life, |life| life.min(self.rule.leaf_life));
        let signed = sign(root, &csr.key, &id, &[], life, now)
            .map_err(|why| Refusal::new(Reason::NoCa, format!("the control plane cannot sign: {why}")))?;
        // Last, so that a request that is no good does not use it up; and before anything is handed out.
        if let Some(voucher) = single {
            self.use_up(voucher).await?;
        }
        tell_signed(line, &id, &signed.serial, signed.not_after, &root.name);
        Ok((by, vec![write_certificate(&signed.der), root.pem.clone()]))
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the audit be written: nothing comes before the first line of the process.
    pub(crate) fn open_audit(&self) {
        self.audit.open();
    }

    /// Writes what the audit has still to say. Blocks for as long as `max`.
    pub(crate) fn close_audit(&self, max: Duration) {
        self.audit.flush(SystemTime::now(), max);
    }

    async fn is_used(&self, voucher: &Voucher) -> bool {
        let (tokens, number) = (self.used.clone(), voucher.number.clone());
        // It fails when the process ends.
        spawn_blocking(move || tokens.has(&number)).await.unwrap_or(true)
    }

    async fn use_up(&self, voucher: Voucher) -> Result<(), Refusal> {
        let tokens = self.used.clone();
        let taken = spawn_blocking(move || tokens.take(&voucher.number, voucher.expires)).await;
        match taken.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Use::First) => Ok(()),
            Ok(Use::Again) => Err(used()),
            Err(why) => {
                let what = format!(
                    "the control plane cannot remember that the token was used ({why}); give it a `cache` that can be written, \
                     or take a token without --single-use"
                );
                Err(Refusal::new(Reason::NoMemory, what))
            }
        }
    }
}

/// Looks at the certificate of whoever asks, as it is now: a connection may be older than what is said of its root.
fn shown(
    in_force: &InForce,
    chain: &[CertificateDer<'_>],
    expires: Option<SystemTime>,
    now: SystemTime,
    line: &mut Line,
) -> Result<(), Refusal> {
    if expires.is_some_and(|expires| expires <= now) {
        return Err(Refusal::new(Reason::NoCredentials, "the client certificate has expired; show a token"));
    }
    let mut by: Vec<_> = in_force.roots.iter().filter(|root| root.vouches_for(chain, now)).collect();
    by.sort_by_key(|root| !root.is_stolen);
    let Some(root) = by.first() else { return Ok(()) };
    line.set("asker_root", root.name.as_str());
    if root.is_stolen {
        let what = format!("the certificate is of {}, which was stolen; show a token", root.name);
        return Err(Refusal::new(Reason::StolenRoot, what));
    }
    Ok(())
}

fn used() -> Refusal {
    Refusal::new(
        Reason::UsedToken,
        "the token was good for one certificate, and was used; make another: outrigger certs token",
    )
}

fn tell_signed(line: &mut Line, id: &SpiffeId, serial: &str, not_after: SystemTime, root: &str) {
    line.set("id", id.as_str());
    line.set("serial", serial);
    line.set("not_after", rfc3339(not_after));
    line.set("root", root);
}
