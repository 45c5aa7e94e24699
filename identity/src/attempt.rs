//! One try at a certificate: each control plane in turn, by the certificate in force, else by the token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use config::mesh_source::ControlAddress;
use config::spiffe::SpiffeId;
use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::ca;
use crate::keep::Tell;
use crate::material::Material;
use crate::reach::Way;
use crate::rpc::Ended;
use crate::state::{Failure, Reason};
use crate::trust::Heard;

/// One control plane answers within so much, from its name to the certificate.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The first certificate waits so long for all the roots before it is used with its own alone.
const ROOTS_MAX: Duration = Duration::from_secs(3);
/// Largest token file.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

/// What does not change from try to try.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) way: Way,
    pub(crate) addresses: Vec<ControlAddress>,
    pub(crate) token: Option<PathBuf>,
    /// Whether it has been told that others may read the token.
    pub(crate) exposed: Arc<AtomicBool>,
    pub(crate) tell: Tell,
    pub(crate) id: SpiffeId,
    pub(crate) clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// What is in force when a try begins.
#[derive(Clone, Default)]
pub(crate) struct Before {
    pub(crate) own: Option<Arc<Material>>,
    /// Who is trusted besides the root that comes with the new certificate.
    pub(crate) trust: Vec<CertificateDer<'static>>,
    /// Which control plane is asked first.
    pub(crate) turn: usize,
}

/// A new certificate, and all roots, where they were asked for and came.
pub(crate) struct Fresh {
    pub(crate) material: Material,
    pub(crate) roots: Option<Vec<CertificateDer<'static>>>,
}

impl Asker {
    /// Which control plane has that turn.
    pub(crate) fn address(&self, turn: usize) -> Option<&ControlAddress> {
        self.addresses.get(turn % self.addresses.len().max(1))
    }

    /// Asks each control plane once, until one gives a certificate; else the last failure.
    pub(crate) async fn attempt(self, before: Before) -> Result<Fresh, Failure> {
        let mut failed = Failure::new(Reason::Name, "no control plane is named");
        for step in 0..self.addresses.len() {
            let Some(address) = self.address(before.turn + step) else { continue };
            match timeout(ANSWER_MAX, self.one(address, &before)).await {
                Ok(Ok(fresh)) => return Ok(fresh),
                Ok(Err(failure)) => failed = failure,
                Err(_) => {
                    let why = format!("{address}: no certificate within {ANSWER_MAX:?}");
                    failed = Failure::new(Reason::Late, why);
                }
            }
        }
        Err(failed)
    }

    async fn one(&self, address: &ControlAddress, before: &Before) -> Result<Fresh, Failure> {
        let mut refused = None;
        let expired = |own: &Arc<Material>| own.leaf.not_after <= (self.clock)();
        if let Some(own) = before.own.as_ref().filter(|own| self.token.is_none() || !expired(own)) {
            match self.ask(address, before, Some(own), None).await {
                Ok(material) => return Ok(self.with_roots(address, before, material).await),
                // Also where the connection broke before an answer: TLS 1.3 tells a refusal late, and not everybody tells it.
                Err(ended) if (ended.is_about_us() || ended.is_unanswered()) && self.token.is_some() => {
                    refused = Some(ended.failure.why)
                }
                Err(ended) => return Err(ended.failure),
            }
        }
        let token = self.token.as_deref().ok_or_else(|| {
            Failure::new(
                Reason::Token,
                "there is no certificate to ask by, and no token: name its file in `token`, or make one by \
                 `outrigger certs token`",
            )
        });
        let asked = match token {
            Ok(file) => match read(file, &self.id).await {
                Ok((token, rights)) => {
                    self.look_at(rights, file);
                    self.ask(address, before, None, Some(token)).await.map_err(|ended| ended.failure)
                }
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        match asked {
            Ok(material) => Ok(self.with_roots(address, before, material).await),
            Err(mut failure) => {
                if let Some(refused) = refused {
                    failure.why = format!("by our certificate: {refused}; by the token: {}", failure.why);
                }
                Err(failure)
            }
        }
    }

    /// Tells once of a token that strangers may read. It is taken all the same: volumes of Kubernetes are as their owner has them.
    fn look_at(&self, rights: Option<u32>, file: &Path) {
        let Some(mode) = rights else { return };
        if !self.exposed.swap(true, Ordering::Relaxed) {
            (self.tell)(format!(
                "{}: others have a right to this join token (mode {mode:04o}), and whoever has it can be {}; `chmod 600` it, or \
                 in Kubernetes say `defaultMode: 0440`",
                file.display(),
                self.id
            ));
        }
    }

    async fn ask(
        &self,
        address: &ControlAddress,
        before: &Before,
        own: Option<&Arc<Material>>,
        token: Option<HeaderValue>,
    ) -> Result<Material, Ended> {
        let broken = |failure| Ended { code: None, failure };
        let roots = before.own.as_ref().map_or(&before.trust, |own| &own.roots);
        let channel = self.way.open(address, roots, own.map(AsRef::as_ref)).await.map_err(broken)?;
        ca::ask(&channel, &self.id, token, &before.trust, &address.to_string(), &*self.clock).await
    }

    /// Where nothing is in force yet, nobody waits for anything but us: all the roots first, so that those who show a certificate
    /// of an older root are let in from the beginning.
    async fn with_roots(&self, address: &ControlAddress, before: &Before, material: Material) -> Fresh {
        if before.own.is_some() {
            return Fresh { material, roots: None };
        }
        let asked = async {
            let channel = self.way.open(address, &material.roots, Some(&material)).await.ok()?;
            let place = address.to_string();
            Heard::begin(channel, self.id.as_str(), None, place).await.ok()?.first().await.ok()?.ok()
        };
        let roots = timeout(ROOTS_MAX, asked).await.unwrap_or_default();
        Fresh { material, roots }
    }
}

/// The token of a file, which others may renew, and the rights to it if strangers have some.
async fn read(path: &Path, id: &SpiffeId) -> Result<(HeaderValue, Option<u32>), Failure> {
    let wrong = |why: String| Failure::new(Reason::Token, format!("{}: {why}", path.display()));
    let file = path.to_owned();
    // A disk may stand still.
    let read = spawn_blocking(move || (files::text(&file, TOKEN_BYTES_MAX), files::exposed(&file))).await;
    let (text, rights) = match read {
        Ok((Ok(text), rights)) => (text, rights),
        Ok((Err(error), _)) => {
            let hint = format!("`outrigger certs token FOLDER --id {id}` makes one");
            return Err(wrong(format!("the join token cannot be read: {error}; {hint}")));
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("it is no token: one line of letters, digits, `-`, `_` and `.`".to_owned()));
    }
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|error| wrong(error.to_string()))?;
    value.set_sensitive(true);
    Ok((value, rights))
}
