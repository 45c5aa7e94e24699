//! Who may ask for anything but a certificate: whoever has shown a certificate in TLS, or sends a token.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use h2::RecvStream;
use http::Request;
use http::header::AUTHORIZATION;
use tokio::time::Instant;

use crate::ads::grpc::{Code, Ending};
use crate::ads::hub::Hub;
use crate::ca::reason::{Reason, Refusal};
use crate::peer::Peer;

/// The code of a refusal.
pub(crate) fn code(reason: Reason) -> Code {
    match reason {
        Reason::NoCredentials
        | Reason::WrongToken
        | Reason::ExpiredToken
        | Reason::UsedToken
        | Reason::StolenRoot => Code::Unauthenticated,
        Reason::ForeignId => Code::PermissionDenied,
        Reason::BadCsr | Reason::KeyType => Code::InvalidArgument,
        Reason::Rate => Code::ResourceExhausted,
        Reason::NoCa | Reason::NoMemory => Code::Unavailable,
    }
}

/// A refusal as a stream ends with it.
pub(crate) fn ending(refusal: &Refusal) -> Ending {
    Ending::new(code(refusal.reason), refusal.message.as_str())
}

/// The token of a request: what stands behind `Bearer` (RFC 6750).
pub(crate) fn bearer(request: &Request<RecvStream>) -> Option<String> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// Who a stream is of.
pub(crate) struct Admitted {
    pub(crate) peer: Peer,
    /// The stream ends then: the token by which it was let in has expired.
    pub(crate) until: Option<Instant>,
}

/// Lets a stream in that is not of the CA, or says why not.
pub(crate) async fn admit(hub: &Arc<Hub>, peer: &Peer, token: Option<&str>) -> Result<Admitted, Ending> {
    if !peer.unproven {
        return Ok(Admitted { peer: peer.clone(), until: None });
    }
    let now = SystemTime::now();
    let Some(ca) = hub.ca() else {
        return Err(Ending::new(Code::Unauthenticated, "a client certificate is asked for"));
    };
    let vouched = match token {
        None => {
            let what = "a client certificate is asked for, or a token (authorization: Bearer)";
            Err(Refusal::new(Reason::NoCredentials, what))
        }
        Some(token) => ca.admit(token, &hub.trust_domain(), now).await,
    };
    let voucher = vouched.map_err(|refusal| {
        ca.counters.turn_away(refusal.reason);
        ending(&refusal)
    })?;
    let left = voucher.expires.duration_since(now).unwrap_or(Duration::ZERO);
    let peer = Peer {
        address: peer.address,
        identity: Some(voucher.id),
        expires: Some(voucher.expires),
        chain: Arc::default(),
        unproven: false,
    };
    Ok(Admitted { peer, until: Instant::now().checked_add(left) })
}
