//! A SPIFFE Workload API of which a test says what it tells: several identities, rotations, refusals.
//!
//! Written by the specification (SPIFFE Workload API, "X.509-SVID Profile"); the field numbers are those of its proto.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::certs::{Ca, Leaf};
use crate::peer::{self, Exchange};

/// One identity as the API tells it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Svid {
    /// Whose.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// Chain in DER, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// PKCS#8.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// Roots in DER, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// What tells it from others.
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl Svid {
    /// Of a leaf and the roots that are trusted.
    ///
    /// # Panics
    /// When the PEM is none.
    pub fn new(id: &str, leaf: &Leaf, roots: &[&Ca]) -> Self {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a key");
        Self {
            spiffe_id: id.to_owned(),
            x509_svid: der(&leaf.cert_pem),
            x509_svid_key: key.secret_der().to_vec(),
            bundle: roots.iter().flat_map(|root| der(root.bundle_pem())).collect(),
            hint: String::new(),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
}

/// A running Workload API. Dropped, it is gone with its streams.
pub struct WorkloadApi {
    /// Its socket.
    pub socket: PathBuf,
    told: watch::Sender<Option<Vec<Svid>>>,
    streams: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl WorkloadApi {
    /// Listens at a socket. `None`: there is no registration entry, so that everybody gets PERMISSION_DENIED.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(socket: &Path, svids: Option<Vec<Svid>>) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let (told, seen) = watch::channel(svids);
        let streams = Arc::new(AtomicUsize::new(0));
        let counted = streams.clone();
        let handler = Arc::new(move |call| tell(call, seen.clone(), counted.clone()));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                connections.spawn(peer::serve(io, None, handler.clone()));
            }
        });
        Ok(Self { socket: socket.to_owned(), told, streams, task })
    }

    /// Tells all streams, and those to come.
    pub fn tell(&self, svids: Option<Vec<Svid>>) {
        self.told.send_replace(svids);
    }

    /// Streams that were begun.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

async fn tell(mut call: Exchange, mut told: watch::Receiver<Option<Vec<Svid>>>, streams: Arc<AtomicUsize>) {
    if call.path != "/SpiffeWorkloadAPI/FetchX509SVID" {
        return call.end(12, "no such method");
    }
    // SPIFFE Workload Endpoint, section 6: INVALID_ARGUMENT without it.
    if call.headers.get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return call.end(3, "security header missing from request");
    }
    let _: Option<Request> = call.next().await;
    streams.fetch_add(1, Ordering::Relaxed);
    loop {
        let svids = told.borrow_and_update().clone();
        match svids {
            Some(svids) => call.send(&Response { svids }),
            None => return call.end(7, "no identity issued"),
        }
        if told.changed().await.is_err() {
            return call.end(14, "the agent ends");
        }
    }
}
