//! Opens a connection to a control plane: name, TCP, TLS, HTTP/2.
//!
//! The control plane is known by the name in its address and the bundle of `mesh.bundle`; it knows us by our certificate.
//! Both are read anew for each connection, since they are renewed while a sidecar runs.

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::PingPong;
use h2::client::{self, SendRequest};
use identity::pem::read_certificates;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::control::lookup::Lookups;
use crate::control::xds::lost::{Lost, Reason};
use crate::control::xds::settings::Address;
use crate::dial::{Dialled, Remembered};
use crate::socket::USER_TIMEOUT;
use crate::tls::credentials::{Credentials, by_name};

/// From the name to HTTP/2, all of the addresses that the name has together.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that an attempt goes through.
const ADDRESSES_MAX: usize = 8;
/// What of answers may be under way before we have looked at it.
const WINDOW: u32 = 1 << 20;

/// All that it takes.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) bundle: Option<PathBuf>,
    /// Our own, as they are in force.
    pub(crate) credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// Our own come from somebody else, and may not be there yet.
    pub(crate) issued: bool,
    /// It is control planes that issue them: then the roots that came with them vouch for control planes too, so that one
    /// whose root has changed is known while nobody has changed the file, and a file that cannot be read locks nobody out.
    /// Those of a Workload API speak for workloads, and any of them may be a foreign name for us.
    pub(crate) vouched: bool,
    pub(crate) lookups: Lookups,
    pub(crate) dialled: Dialled,
}

/// A connection, closed when dropped.
pub(crate) struct Open {
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) ping: Option<PingPong>,
    task: AbortHandle,
    _remembered: Remembered,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Tls = (Arc<ClientConfig>, ServerName<'static>);

impl Way {
    /// Waits for a certificate, where one is to come that the other side will ask for.
    pub(crate) async fn identified(&self, to: &Address) {
        if self.issued && to.tls {
            // Whoever keeps them ends with the process.
            let _ = self.credentials.clone().wait_for(Option::is_some).await;
        }
    }

    /// Waits so long, or until there is a new certificate: the old one may have been what was wrong.
    pub(crate) async fn renewed_within(&self, wait: Duration) {
        let mut credentials = self.credentials.clone();
        credentials.mark_unchanged();
        let renewed = async {
            if credentials.changed().await.is_err() {
                pending::<()>().await;
            }
        };
        // It is all the same which of the two it was.
        let _: Result<(), _> = timeout(wait, renewed).await;
    }

    /// Connects to the first address of its name that answers.
    pub(crate) async fn open(&self, to: &Address) -> Result<Open, Lost> {
        let end = Instant::now() + CONNECT_MAX;
        let prepare = async {
            let tls = if to.tls { Some(self.tls(to).await?) } else { None };
            Ok((tls, self.addresses(to).await?))
        };
        let late =
            || Lost::new(Reason::Connect, format!("its name and our bundle took more than {CONNECT_MAX:?}"));
        let (tls, addresses) = timeout_at(end, prepare).await.unwrap_or_else(|_| Err(late()))?;
        let mut failed = Lost::new(Reason::Name, "its name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            let left = (addresses.len() - tried) as u32;
            let share = end.saturating_duration_since(Instant::now()) / left;
            match timeout(share, self.reach(*address, tls.as_ref())).await {
                Ok(Ok(open)) => return Ok(open),
                Ok(Err(lost)) => failed = lost,
                Err(_) => {
                    // In whole seconds: one reason has one text.
                    let seconds = share.as_secs_f64().round();
                    failed =
                        Lost::new(Reason::Connect, format!("{address}: no connection within {seconds} s"));
                }
            }
        }
        Err(failed)
    }

    async fn addresses(&self, Address { host, port, .. }: &Address) -> Result<Vec<SocketAddr>, Lost> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            // RFC 6761, section 6.3: whatever name servers there are.
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Err(_) => {
                let answer = self.lookups.addresses(host).await;
                answer.map_err(|why| Lost::new(Reason::Name, format!("the name `{host}`: {why}")))?
            }
        };
        Ok(found.into_iter().take(ADDRESSES_MAX).map(|address| (address, *port).into()).collect())
    }

    /// Reads the bundle, away from the control thread: a disk may stand still.
    async fn tls(&self, to: &Address) -> Result<Tls, Lost> {
        let broken = |what: String| Lost::new(Reason::Tls, what);
        let bundle = self.bundle.clone().ok_or_else(|| broken("there is no `mesh.bundle`".to_owned()))?;
        let own = self.credentials.borrow().clone();
        let vouched = self.vouched;
        let config = spawn_blocking(move || {
            let trust = own.as_deref().filter(|_| vouched).map(|own| &*own.material.trust);
            by_name(roots(&bundle, trust)?, own.as_deref())
        });
        let config = config.await.map_err(|error| broken(error.to_string()))?.map_err(broken)?;
        let name = match to.host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(to.host.clone())
                .map_err(|_| broken(format!("`{}` cannot stand in a certificate", to.host)))?,
        };
        Ok((config, name))
    }

    async fn reach(&self, address: SocketAddr, tls: Option<&Tls>) -> Result<Open, Lost> {
        let failed = |reason, what: &dyn std::fmt::Display| Lost::new(reason, format!("{address}: {what}"));
        let dialled = self.dialled.dial(address, USER_TIMEOUT).await;
        let (tcp, remembered) = dialled.map_err(|error| failed(Reason::Connect, &error))?;
        let talked = match tls {
            None => talk(tcp, remembered).await,
            Some((config, name)) => {
                let connecting = TlsConnector::from(config.clone()).connect(name.clone(), tcp);
                let stream = connecting
                    .await
                    .map_err(|error| failed(Reason::Tls, &format!("TLS: {}", told(&error))))?;
                talk(stream, remembered).await
            }
        };
        talked.map_err(|error| failed(Reason::Http2, &format!("HTTP/2: {error}")))
    }
}

/// Whoever vouches for a control plane: the file's roots, and those of `trust`. Without those, every root of the file must be
/// usable; with them, whatever of it is (`identity` holds its own connections to control planes to the same).
fn roots(bundle: &Path, trust: Option<&RootCertStore>) -> Result<RootCertStore, String> {
    let mut roots = trust.cloned().unwrap_or_else(RootCertStore::empty);
    match read_certificates(bundle) {
        Ok(found) if !roots.is_empty() => drop(roots.add_parsable_certificates(found)),
        Ok(found) => {
            let unusable = |error| format!("{}: not a usable root: {error}", bundle.display());
            found.into_iter().try_for_each(|root| roots.add(root)).map_err(unusable)?;
        }
        Err(_) if !roots.is_empty() => {}
        Err(why) => return Err(why),
    }
    Ok(roots)
}

/// What failed, in the same words each time: those of rustls tell the time of the attempt.
fn told(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            format!("its certificate expired at {} (Unix)", not_after.as_secs())
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => format!("its certificate is not valid before {} (Unix)", not_before.as_secs()),
        _ => error.to_string(),
    }
}

async fn talk(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    remembered: Remembered,
) -> Result<Open, h2::Error> {
    let mut builder = client::Builder::new();
    builder.enable_push(false).initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, mut connection) = builder.handshake(io).await?;
    let ping = connection.ping_pong();
    // Its end shows in the stream.
    let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok(Open { sender, ping, task, _remembered: remembered })
}
