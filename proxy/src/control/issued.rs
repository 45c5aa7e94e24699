//! The identity that somebody else issues, the CA of a control plane or the SPIFFE Workload API: what the agent takes that gets
//! it, and where its news are found.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use config::identity::IdentitySource;
use config::model::Sidecar;
use identity::agent::{Agent, Control, Settings, Source};
use identity::dial::{Dial, Io, Later};
use identity::material::Origins;
use identity::state::{Origin, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::control::lookup::Lookups;
use crate::dial::{Dialled, Remembered};
use crate::socket::USER_TIMEOUT;
use crate::tls::credentials::Credentials;
use files::Reports;

/// What the agent says, where there is one.
pub(crate) struct Issued {
    state: watch::Receiver<State>,
}

/// Makes the agent of a sidecar whose identity is no files. What a cache holds is there at once; the rest comes while it runs.
pub(crate) fn begin(
    sidecar: &Sidecar,
    lookups: &Lookups,
    dialled: &Dialled,
    reports: &Reports,
) -> Option<(Agent, Issued)> {
    let source = match sidecar.identity.as_ref()? {
        IdentitySource::Files(_) => return None,
        IdentitySource::Control(issued) => {
            let control = sidecar.mesh.control()?;
            Source::Control(Control {
                addresses: control.addresses.clone(),
                bundle: control.bundle.clone().unwrap_or_default(),
                token: issued.token.clone(),
                cache: issued.cache.clone(),
            })
        }
        IdentitySource::WorkloadApi(socket) => Source::WorkloadApi { socket: socket.clone() },
    };
    let reports = reports.clone();
    let settings = Settings {
        dial: Arc::new(Ours { lookups: lookups.clone(), dialled: dialled.clone() }),
        // Told with the ends of issuer and root, each reason once.
        cries: false,
        tell: Arc::new(move |line| reports.say(format!("identity: {line}"))),
        ..Settings::new(sidecar.spiffe_id(), source)
    };
    let (agent, state) = Agent::begin(settings);
    Some((agent, Issued { state }))
}

impl Issued {
    /// What there is now; the follower has yet to see it.
    pub(crate) fn first(&self) -> State {
        self.state.borrow().clone()
    }

    /// What there is now, taken for seen.
    pub(crate) fn next(&mut self) -> State {
        self.state.borrow_and_update().clone()
    }

    /// Waits for something that has not been seen.
    pub(crate) async fn news(&mut self) {
        if self.state.changed().await.is_err() {
            // The agent has ended with the process.
            std::future::pending::<()>().await;
        }
    }
}

/// What TLS takes, from what the agent has; `None`: it has nothing yet.
pub(crate) fn credentials(state: &State, sidecar: &Sidecar) -> Option<Result<Credentials, String>> {
    let material = state.material.clone()?;
    let origin = state.origin.map_or("issuer", Origin::as_str);
    let origins = Origins::one(&format!("the certificate of the {origin}"));
    Some(Credentials::new(material, &origins, &sidecar.spiffe_id()))
}

/// Our own resolver, and connections that are remembered as ours.
struct Ours {
    lookups: Lookups,
    dialled: Dialled,
}

impl Dial for Ours {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Later<'a, Result<Vec<SocketAddr>, String>> {
        Box::pin(async move {
            let found: Vec<IpAddr> = self.lookups.addresses(host).await?;
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }

    fn connect(&self, address: SocketAddr) -> Later<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let (tcp, remembered) = self.dialled.dial(address, USER_TIMEOUT).await?;
            Ok(Box::new(Own { tcp, _remembered: remembered }) as Box<dyn Io>)
        })
    }
}

/// A connection of our own.
struct Own {
    tcp: TcpStream,
    _remembered: Remembered,
}

impl AsyncRead for Own {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Own {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
