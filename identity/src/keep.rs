//! What is in force, how it fares, and what people are told of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::check::leads_to;
use crate::material::Material;
use crate::plan::{Life, Moment, Urgency};
use crate::state::{Failure, Origin, State, Trouble, add};

/// A failure of what is tried again soon is told from so many in a row on.
const TROUBLE_TOLD: u32 = 3;

/// Takes single lines for people.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// What came of roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// They are those in force.
    Same,
    /// Others are in force now.
    Others,
    /// Others, and none of them has signed our certificate.
    Strangers,
}

/// The one place that changes the state.
pub(crate) struct Keep {
    pub(crate) state: watch::Sender<State>,
    pub(crate) clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    pub(crate) tell: Tell,
    /// Whether that takes what the state tells as well.
    cries: bool,
    begun: Instant,
    random: fastrand::Rng,
    /// As it was told last.
    urgency: Urgency,
}

impl Keep {
    pub(crate) fn new(
        state: watch::Sender<State>,
        clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
        cries: bool,
        tell: Tell,
    ) -> Self {
        let (begun, random) = (Instant::now(), fastrand::Rng::new());
        Self { state, clock, tell, cries, begun, random, urgency: Urgency::Calm }
    }

    fn cry(&self, line: String) {
        if self.cries {
            (self.tell)(line);
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { wall: (self.clock)(), steady: self.begun.elapsed() }
    }

    /// From 0 to 1.
    pub(crate) fn random(&mut self) -> f64 {
        self.random.f64()
    }

    pub(crate) fn material(&self) -> Option<Arc<Material>> {
        self.state.borrow().material.clone()
    }

    /// What is left of the leaf in force; zero: there is none.
    pub(crate) fn left(&self) -> Duration {
        let now = (self.clock)();
        self.state.borrow().life.map(|life| life.left(now)).unwrap_or_default()
    }

    /// Takes a leaf with all that belongs to it into force.
    pub(crate) fn install(&mut self, material: Material, life: Life, origin: Origin) {
        let mut ended = None;
        self.state.send_modify(|state| {
            state.counts.renewals += u64::from(origin != Origin::Cache);
            if state.material.as_ref().is_some_and(|old| old.roots != material.roots) {
                state.counts.trust_changes += 1;
            }
            state.material = Some(Arc::new(material));
            (state.life, state.origin, state.renew_at) = (Some(life), Some(origin), None);
            ended = state.trouble.take();
        });
        if let Some(Trouble { attempts, .. }) = ended {
            self.cry(format!("the certificate is renewed, after {attempts} attempts that failed"));
        }
        self.urgency = Urgency::Calm;
    }

    /// Whoever issues it is heard of again, with nothing new.
    pub(crate) fn healed(&self) {
        self.state.send_if_modified(|state| state.trouble.take().is_some());
    }

    pub(crate) fn planned(&self, at: SystemTime) {
        self.state.send_if_modified(|state| state.renew_at.replace(at) != Some(at));
    }

    /// Takes other roots into force; says what that means.
    pub(crate) fn take_roots(&mut self, roots: Vec<CertificateDer<'static>>) -> Result<Taken, String> {
        let Some(old) = self.material() else { return Ok(Taken::Same) };
        if old.roots == roots {
            return Ok(Taken::Same);
        }
        let material = old.with_roots(roots)?;
        // A certificate that is about to begin, by the clock of whoever signed it, is one of theirs as well.
        let at = (self.clock)().max(material.leaf.not_before);
        let is_ours = leads_to(&material.chain, &material.trust, at).is_ok();
        if !is_ours {
            (self.tell)(format!(
                "none of the {} roots that are trusted now has signed our certificate; it is renewed at once",
                material.roots.len()
            ));
        }
        self.state.send_modify(|state| {
            state.material = Some(Arc::new(material));
            state.counts.trust_changes += 1;
        });
        Ok(if is_ours { Taken::Others } else { Taken::Strangers })
    }

    /// No certificate, or no newer one.
    pub(crate) fn failed(&self, failure: Failure) {
        let now = (self.clock)();
        let mut told = None;
        self.state.send_modify(|state| {
            let before = state.trouble.as_ref().map(|trouble| trouble.why.clone());
            if before.as_ref() != Some(&failure.why) {
                told = Some(failure.why.clone());
            }
            add(&mut state.trouble, &mut state.counts.failed, failure, now);
        });
        if let Some(why) = told {
            let left = self.left().as_secs();
            self.cry(match left {
                0 => format!("there is no certificate: {why}; it is tried again"),
                left => format!(
                    "the certificate could not be renewed: {why}; {left} s are left, it is tried again"
                ),
            });
        }
    }

    /// Nothing is heard of roots, or they were refused.
    pub(crate) fn trust_failed(&self, failure: Failure) {
        let now = (self.clock)();
        let mut told = None;
        self.state.send_modify(|state| {
            add(&mut state.trust_trouble, &mut state.counts.trust_failed, failure, now);
            told = state.trust_trouble.clone().filter(|trouble| trouble.attempts == TROUBLE_TOLD);
        });
        if let Some(Trouble { why, .. }) = told {
            (self.tell)(format!("changes of the roots are not heard of: {why}; those that are trusted stay"));
        }
    }

    /// Roots are heard of.
    pub(crate) fn trust_heard(&self) {
        self.state.send_if_modified(|state| state.trust_trouble.take().is_some());
    }

    /// Tells when the leaf in force has become old.
    pub(crate) fn look(&mut self) {
        let now = (self.clock)();
        let (urgency, left) = {
            let state = self.state.borrow();
            let Some(life) = state.life else { return };
            (life.urgency(now), life.left(now).as_secs())
        };
        if urgency > self.urgency {
            self.cry(match urgency {
                Urgency::Expired => "the certificate has EXPIRED: nobody takes it any more".to_owned(),
                urgency => format!(
                    "the certificate should have been renewed ({}): {left} s are left",
                    urgency.as_str()
                ),
            });
        }
        self.urgency = urgency;
    }
}
