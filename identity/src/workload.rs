//! An identity from the SPIFFE Workload API, as SPIRE's agent serves it: a stream over a Unix socket, which tells of each
//! renewal by itself (SPIFFE Workload API, "X.509-SVID Profile").

use std::path::{Path, PathBuf};
use std::time::Duration;

use config::spiffe::SpiffeId;
use http::{HeaderName, HeaderValue};
use prost::Message as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::check::{CHAIN_MAX, whole};
use crate::keep::Keep;
use crate::material::{Material, ROOTS_MAX};
use crate::plan::{LOOK_MAX, Life, retry};
use crate::rpc::{Call, Channel, Target};
use crate::state::{Failure, Origin, Reason};
use crate::trust::usable;

const PATH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// What every request must say, so that nobody is talked into asking by mistake.
const HEADER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("workload.spiffe.io"), HeaderValue::from_static("true"));
/// Largest answer that is read, as gRPC's other clients have it.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// SVIDs of one answer that are looked at.
const SVIDS_MAX: usize = 64;
/// From the socket to the first answer.
const FIRST_MAX: Duration = Duration::from_secs(10);
/// The agent is on this machine: it is tried again after a tenth of this at most.
const AGENT_LEFT: Duration = Duration::from_secs(150);
/// A stream that lived as long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// What SPIRE answers who has no registration entry.
const PERMISSION_DENIED: u16 = 7;

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// Certificates in DER, the leaf first, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    /// PKCS#8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    /// Roots in DER, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// Runs for as long as it is polled. While the agent is away, what is in force stays.
pub(crate) async fn run(mut keep: Keep, id: SpiffeId, socket: PathBuf) {
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let failure = follow(&mut keep, &id, &socket).await;
        failures = if begun.elapsed() >= GOOD { 1 } else { failures + 1_u32 };
        keep.failed(failure);
        let left = if keep.left().is_zero() { Duration::ZERO } else { AGENT_LEFT };
        let wait = retry(failures, left, keep.random());
        sleep(wait).await;
        keep.look();
    }
}

/// Takes what one stream brings, until it ends.
async fn follow(keep: &mut Keep, id: &SpiffeId, socket: &Path) -> Failure {
    let place = format!("unix:{}", socket.display());
    let (_channel, mut call) = match timeout(FIRST_MAX, open(socket, &place)).await {
        Ok(Ok(open)) => open,
        Ok(Err(failure)) => return failure,
        Err(_) => return Failure::new(Reason::Late, format!("{place}: no connection within {FIRST_MAX:?}")),
    };
    let mut begun = Some(Instant::now());
    loop {
        let wait = match begun {
            Some(begun) => FIRST_MAX.saturating_sub(begun.elapsed()),
            None => LOOK_MAX,
        };
        let next = match timeout(wait, call.next()).await {
            Ok(next) => next,
            Err(_) if begun.is_some() => {
                return Failure::new(Reason::Late, format!("{place}: no answer within {FIRST_MAX:?}"));
            }
            Err(_) => {
                keep.look();
                continue;
            }
        };
        let answer = match next {
            Ok(Some(answer)) => answer,
            Ok(None) => return Failure::new(Reason::Rpc, format!("{place}: the stream has ended")),
            Err(ended) => {
                let (reason, hint) = match ended.code {
                    Some(PERMISSION_DENIED) => {
                        (Reason::NoIdentity, format!("; is there a registration entry for {id}?"))
                    }
                    _ => (ended.failure.reason, String::new()),
                };
                return Failure::new(reason, format!("{place}: {}{hint}", ended.failure.why));
            }
        };
        begun = None;
        let now = keep.moment().wall;
        match judge(&answer, id, &place, now) {
            Ok(material) => take(keep, material),
            // The stream goes on: the agent may know more soon.
            Err(failure) => keep.failed(failure),
        }
    }
}

fn take(keep: &mut Keep, material: Material) {
    let now = keep.moment().wall;
    let old = keep.material();
    if old.as_ref().is_some_and(|old| old.digest == material.digest) {
        keep.healed();
        return;
    }
    let same_leaf = old.is_some_and(|old| old.chain == material.chain && old.key == material.key);
    if same_leaf {
        keep.healed();
        if let Err(why) = keep.take_roots(material.roots) {
            keep.failed(Failure::new(Reason::Answer, why));
        }
        return;
    }
    let life = Life::fresh(material.leaf.not_before, material.leaf.not_after, now);
    keep.install(material, life, Origin::WorkloadApi);
}

async fn open(socket: &Path, place: &str) -> Result<(Channel, Call), Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let why = format!("{place}: {error}; is the agent running, and its socket mounted here?");
        Failure::new(Reason::Connect, why)
    })?;
    let channel = Channel::open(stream, "http://localhost".to_owned()).await?;
    let target = Target { path: PATH, token: None, header: Some(HEADER) };
    let asked = async {
        let mut call = channel.call(&target, ANSWER_BYTES_MAX).await?;
        // `X509SVIDRequest` is empty.
        call.send(&[], true)?;
        Ok(call)
    };
    let call = asked.await.map_err(|ended: crate::rpc::Ended| ended.failure)?;
    Ok((channel, call))
}

/// The SVID of an answer that is ours.
fn judge(answer: &[u8], id: &SpiffeId, place: &str, now: std::time::SystemTime) -> Result<Material, Failure> {
    let wrong = |why: String| Failure::new(Reason::Answer, format!("{place}: {why}"));
    let response =
        Response::decode(answer).map_err(|error| wrong(format!("the answer cannot be read: {error}")))?;
    let all = || response.svids.iter().take(SVIDS_MAX);
    let Some(svid) = all().find(|svid| svid.spiffe_id == id.as_str()) else {
        let others: Vec<String> = all().map(told).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let why = format!(
            "{place}: it has no identity {id} for us, but {others}; mend the registration entry, or trust_domain, \
             namespace and account"
        );
        return Err(Failure::new(Reason::NoIdentity, why));
    };
    let chain = split(&svid.x509_svid, CHAIN_MAX).map_err(|why| wrong(format!("the chain: {why}")))?;
    let roots =
        split(&svid.bundle, ROOTS_MAX).and_then(usable).map_err(|why| wrong(format!("the bundle: {why}")))?;
    let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.clone()).into();
    whole(place, id, chain, key, roots, now)
}

/// An identity that is not ours, as people tell it from others.
fn told(svid: &Svid) -> String {
    let text = match svid.hint.as_str() {
        "" => svid.spiffe_id.clone(),
        hint => format!("{} ({hint})", svid.spiffe_id),
    };
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Certificates in DER that stand one after the other.
fn split(der: &[u8], most: usize) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    let mut rest = der;
    while !rest.is_empty() {
        if found.len() == most {
            return Err(format!("more than {most} certificates"));
        }
        let (after, _) = X509Certificate::from_der(rest).map_err(|_| "it cannot be parsed".to_owned())?;
        let (one, after) = rest.split_at(rest.len() - after.len());
        found.push(CertificateDer::from(one.to_vec()));
        rest = after;
    }
    if found.is_empty() { Err("no certificate".to_owned()) } else { Ok(found) }
}
