//! An identity from the CA of control planes: got, renewed, and its roots followed.
//!
//! ```text
//! listen: hears of roots  --Event-->  run: one loop, the only one that changes the state  --State-->  persist: the cache
//!    ^                                  |
//!    +----- by the leaf in force -------+
//! ```

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::attempt::{Asker, Before, Fresh};
use crate::cache;
use crate::check::{is_of_the_signer, leads_to};
use crate::keep::{Keep, Taken, Tell};
use crate::material::Material;
use crate::plan::{LOOK_MAX, Life, Plan, retry};
use crate::rpc::{Ended, UNIMPLEMENTED};
use crate::state::{Failure, Origin, Reason, State};
use crate::trust::Heard;

/// Events that wait to be looked at.
const EVENTS_MAX: usize = 4;
/// A stream that is lost is waited for up to a tenth of this.
const STREAM_LEFT: Duration = Duration::from_secs(300);
/// A stream that lived as long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// A CA that tells no roots is asked again after so long.
const SILENT: Duration = Duration::from_secs(3_600);

/// When it is tried again to keep what could not be kept.
const STORE_AGAIN: Duration = Duration::from_secs(30);

/// What the listener says.
enum Event {
    Roots(Vec<CertificateDer<'static>>),
    Failed(Failure),
    /// Our certificate was not believed.
    Refused,
}

type Roots = Vec<CertificateDer<'static>>;
type Attempt = Pin<Box<dyn Future<Output = Result<Fresh, Failure>> + Send>>;

/// Runs for as long as it is polled.
pub(crate) async fn run(mut keep: Keep, asker: Asker, folder: Option<PathBuf>) {
    let (events, heard) = mpsc::channel(EVENTS_MAX);
    let listening = listen(asker.clone(), keep.state.subscribe(), events);
    let persisting = persist(folder, keep.state.subscribe(), keep.tell.clone());
    tokio::join!(renew(&mut keep, asker, heard), listening, persisting);
}

async fn renew(keep: &mut Keep, asker: Asker, mut events: mpsc::Receiver<Event>) {
    let begun = keep.moment();
    let kept = keep.state.borrow().life;
    let mut plan = kept.map(|life| Plan::new(life, begun, keep.random()));
    // The newest that a control plane has told; `None`: it has told none.
    let mut heard: Option<Roots> = None;
    let mut attempt: Option<Attempt> = None;
    let (mut failures, mut turn, mut retry_at) =
        (0_u32, fastrand::usize(..asker.addresses.len().max(1)), Duration::ZERO);
    let mut refused = false;
    loop {
        keep.look();
        if let Some(plan) = &plan {
            keep.planned(plan.at());
        }
        let now = keep.moment();
        let is_due = plan.as_ref().is_none_or(|plan| plan.due(now).is_some());
        if attempt.is_none() && is_due && now.steady >= retry_at {
            let before = before(keep, heard.as_ref(), turn);
            attempt = Some(Box::pin(asker.clone().attempt(before)));
        }
        let wait = match &plan {
            _ if attempt.is_some() => LOOK_MAX,
            Some(plan) if !is_due => plan.sleep(now),
            _ => retry_at.saturating_sub(now.steady).min(LOOK_MAX),
        };
        tokio::select! {
            done = ended(&mut attempt) => {
                attempt = None;
                turn = turn.wrapping_add(1);
                match done.and_then(|fresh| settle(fresh, &mut heard)) {
                    Ok(material) => {
                        (failures, retry_at, refused) = (0, Duration::ZERO, false);
                        let now = keep.moment();
                        let life = Life::fresh(material.leaf.not_before, material.leaf.not_after, now.wall);
                        plan = Some(Plan::new(life, now, keep.random()));
                        keep.install(material, life, Origin::Ca);
                    }
                    Err(failure) => {
                        failures = failures.saturating_add(1);
                        keep.failed(failure);
                        let wait = retry(failures, keep.left(), keep.random());
                        retry_at = keep.moment().steady + wait;
                    }
                }
            }
            Some(event) = events.recv() => match event {
                Event::Failed(failure) => keep.trust_failed(failure),
                Event::Refused => {
                    // Once for each certificate: a new one that is refused as well would be of no more use.
                    let (now, first) = (keep.moment(), !std::mem::replace(&mut refused, true));
                    if let Some(plan) = plan.as_mut().filter(|_| first) {
                        plan.hurry(now, 0.0);
                    }
                }
                Event::Roots(roots) => {
                    keep.trust_heard();
                    match keep.take_roots(roots.clone()) {
                        Ok(taken) => {
                            heard = Some(roots);
                            let now = keep.moment();
                            let random = keep.random();
                            let is_old = || keep.material().is_some_and(|own| !is_of_the_signer(&own, now.wall));
                            match (&mut plan, taken) {
                                (Some(plan), Taken::Strangers) => plan.hurry_at_once(now, random),
                                (Some(plan), Taken::Others) if is_old() => plan.hurry(now, random),
                                _ => {}
                            }
                        }
                        Err(why) => keep.trust_failed(Failure::new(Reason::Answer, why)),
                    }
                }
            },
            () = sleep(wait) => {}
        }
    }
}

async fn ended(attempt: &mut Option<Attempt>) -> Result<Fresh, Failure> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// What a try begins with. A CA that tells no roots is followed by its chains: the root of the new one and that of the one
/// before are trusted, so that those who renewed later than we did are let in.
fn before(keep: &Keep, heard: Option<&Roots>, turn: usize) -> Before {
    let own = keep.material();
    let now = (keep.clock)();
    let trust = match (heard, &own) {
        (Some(heard), _) => heard.clone(),
        (None, Some(own)) => {
            let of_ours = |root: &&CertificateDer<'static>| {
                let one = own.with_roots(vec![(*root).clone()]);
                one.is_ok_and(|one| leads_to(&one.chain, &one.trust, now.max(one.leaf.not_before)).is_ok())
            };
            own.roots.iter().filter(of_ours).cloned().collect()
        }
        (None, None) => Vec::new(),
    };
    Before { own, trust, turn }
}

/// The roots that are trusted with a new leaf: those that we heard of last; and, where none of them has signed it, the one that
/// came with it, until we hear more.
fn settle(fresh: Fresh, heard: &mut Option<Roots>) -> Result<Material, Failure> {
    let Fresh { material, roots } = fresh;
    if roots.is_some() {
        *heard = roots;
    }
    let Some(heard) = heard else { return Ok(material) };
    let wrong = |why| Failure::new(Reason::Answer, why);
    let with = material.with_roots(heard.clone()).map_err(wrong)?;
    if leads_to(&with.chain, &with.trust, with.leaf.not_before).is_ok() {
        return Ok(with);
    }
    let mut roots = vec![];
    roots.extend(material.roots.first().cloned());
    roots.extend(heard.iter().filter(|root| Some(*root) != material.roots.first()).cloned());
    material.with_roots(roots).map_err(wrong)
}

/// Hears of roots, by the leaf in force; begins anew when that is another.
async fn listen(asker: Asker, mut state: watch::Receiver<State>, events: mpsc::Sender<Event>) {
    let (mut failures, mut turn) = (0_u32, fastrand::usize(..asker.addresses.len().max(1)));
    loop {
        let own = match state.wait_for(|state| state.material.is_some()).await {
            Ok(state) => Some(state.material.clone()),
            Err(_) => None,
        };
        // Whoever keeps the state has gone. Not to be waited for above, where a look at the state is held.
        let Some(own) = own else { return std::future::pending().await };
        let Some(own) = own else { continue };
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = hear(&asker, turn, &own, &events) => ended,
            () = another(&mut state, &own) => { failures = 0; continue }
        };
        if ended.code == Some(UNIMPLEMENTED) {
            tokio::select! { () = sleep(SILENT) => {}, () = another(&mut state, &own) => {} }
            continue;
        }
        failures = if begun.elapsed() >= GOOD { 1 } else { failures.saturating_add(1) };
        turn = turn.wrapping_add(1);
        if ended.is_about_us() && events.send(Event::Refused).await.is_err() {
            return std::future::pending().await;
        }
        let _ = events.send(Event::Failed(ended.failure)).await;
        tokio::select! {
            () = sleep(retry(failures, STREAM_LEFT, fastrand::f64())) => {}
            () = another(&mut state, &own) => {}
        }
    }
}

/// Passes on what one control plane tells, until it does no more.
async fn hear(asker: &Asker, turn: usize, own: &Material, events: &mpsc::Sender<Event>) -> Ended {
    let broken = |failure| Ended { code: None, failure };
    let Some(address) = asker.address(turn) else {
        return broken(Failure::new(Reason::Name, "no control plane is named"));
    };
    let channel = match asker.way.open(address, &own.roots, Some(own)).await {
        Ok(channel) => channel,
        Err(failure) => return broken(failure),
    };
    let mut heard = match Heard::begin(channel, asker.id.as_str(), None, address.to_string()).await {
        Ok(heard) => heard,
        Err(ended) => return ended,
    };
    let mut next = heard.first().await;
    loop {
        let event = match next {
            Ok(Ok(roots)) => Event::Roots(roots),
            Ok(Err(failure)) => Event::Failed(failure),
            Err(ended) => return ended,
        };
        let _ = events.send(event).await;
        next = heard.next().await;
    }
}

/// Waits until another leaf is in force.
async fn another(state: &mut watch::Receiver<State>, own: &Arc<Material>) {
    let other = |state: &State| state.material.as_ref().is_some_and(|new| new.chain != own.chain);
    if state.wait_for(other).await.is_err() {
        std::future::pending().await
    }
}

/// Keeps what is in force over a restart.
async fn persist(folder: Option<PathBuf>, mut state: watch::Receiver<State>, tell: Tell) {
    let Some(folder) = folder else { return };
    let mut stored = state.borrow_and_update().material.as_ref().map(|material| material.digest.clone());
    let mut told = None;
    loop {
        let newest = {
            let changed = |state: &State| {
                state.material.as_ref().is_some_and(|material| Some(&material.digest) != stored.as_ref())
            };
            let Ok(state) = state.wait_for(changed).await else { return };
            state.material.clone().zip(state.life)
        };
        let Some((material, life)) = newest else { continue };
        let digest = material.digest.clone();
        let error = store(&folder, material, life).await.err();
        if error.is_none() {
            stored = Some(digest);
        }
        if let Some(error) = error.as_ref().filter(|error| told.as_ref() != Some(*error)) {
            tell(format!("{error}; after a restart the certificate must be asked for anew"));
        }
        told = error;
        if told.is_some() {
            // A disk that was full may have room again.
            sleep(STORE_AGAIN).await;
        }
    }
}

async fn store(folder: &Path, material: Arc<Material>, life: Life) -> Result<(), String> {
    let folder = folder.to_owned();
    // A disk may stand still.
    let stored = spawn_blocking(move || cache::store(&folder, &material, life)).await;
    stored.unwrap_or_else(|error| Err(error.to_string()))
}
