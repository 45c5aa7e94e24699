//! Who vouches for whoever has no certificate yet.

use std::future::Future;
use std::time::SystemTime;

use config::spiffe::SpiffeId;

use crate::ca::force::InForce;
use crate::ca::reason::{Reason, Refusal};

/// What is vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Voucher {
    pub(crate) id: SpiffeId,
    /// Until then.
    pub(crate) expires: SystemTime,
    /// What the audit calls it by; the same one never comes twice from whoever makes them.
    pub(crate) number: String,
    /// It is good for one certificate.
    pub(crate) single_use: bool,
}

/// A kind of tokens. Join tokens are one; service-account tokens of Kubernetes, which its API server checks, can be another.
pub(crate) trait Vouch {
    /// Checks what stands behind `Bearer` in `authorization`; it may have to ask somebody else.
    fn vouch(
        &self,
        token: &str,
        trust_domain: &str,
        now: SystemTime,
    ) -> impl Future<Output = Result<Voucher, Refusal>> + Send;
}

/// Join tokens.
impl Vouch for InForce {
    async fn vouch(&self, token: &str, trust_domain: &str, now: SystemTime) -> Result<Voucher, Refusal> {
        let checked = self.tokens.as_ref().map_or_else(
            || {
                Err(Refusal::new(
                    Reason::WrongToken,
                    "this control plane has no tokens.key and takes no join tokens",
                ))
            },
            |key| key.check(token, trust_domain, now),
        );
        checked.map(|token| Voucher {
            id: token.id,
            expires: token.expires,
            number: token.jti,
            single_use: token.single_use,
        })
    }
}
