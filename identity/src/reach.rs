//! The way to a control plane: name, TCP, TLS, HTTP/2.
//!
//! A control plane is known by the name in its address. Its certificate must come from a root of the bundle file, read
//! anew each time, or from one that our newest trust holds: a bundle file that nobody has renewed does not lock us out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::mesh_source::ControlAddress;
use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::dial::Dial;
use crate::material::Material;
use crate::pem;
use crate::rpc::Channel;
use crate::state::{Failure, Reason};

/// From the name to HTTP/2, all of the addresses that the name has together.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that an attempt goes through.
const ADDRESSES_MAX: usize = 8;

/// All that it takes.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) bundle: PathBuf,
    pub(crate) dial: Arc<dyn Dial>,
}

impl Way {
    /// Connects to the first address of its name that answers. `trust`: roots besides those of the bundle; `own`: who we are.
    pub(crate) async fn open(
        &self,
        to: &ControlAddress,
        trust: &[CertificateDer<'static>],
        own: Option<&Material>,
    ) -> Result<Channel, Failure> {
        let end = Instant::now() + CONNECT_MAX;
        let named = |mut failure: Failure| {
            failure.why = format!("{to}: {}", failure.why);
            failure
        };
        if !to.tls {
            let why = "keys and tokens go by TLS only; name the control plane as `https://host:port`";
            return Err(named(Failure::new(Reason::Tls, why)));
        }
        let prepare = async { Ok((self.tls(to, trust, own).await?, self.addresses(to).await?)) };
        let late =
            || Failure::new(Reason::Late, format!("its name and our bundle took more than {CONNECT_MAX:?}"));
        let prepared = timeout_at(end, prepare).await.unwrap_or_else(|_| Err(late()));
        let ((config, name), addresses) = prepared.map_err(named)?;
        let mut failed = Failure::new(Reason::Name, "its name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            let share = end.saturating_duration_since(Instant::now()) / (addresses.len() - tried) as u32;
            let reaching = self.reach(*address, &config, &name, to.to_string());
            match timeout(share, reaching).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(failure)) => failed = failure,
                Err(_) => {
                    // In whole seconds: one reason has one text.
                    let seconds = share.as_secs_f64().round();
                    let why = format!("{address}: no connection within {seconds} s");
                    failed = Failure::new(Reason::Connect, why);
                }
            }
        }
        Err(named(failed))
    }

    async fn addresses(&self, to: &ControlAddress) -> Result<Vec<SocketAddr>, Failure> {
        let (host, port) = (to.host.as_str(), to.port);
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![(address, port).into()],
            // RFC 6761, section 6.3: whatever name servers there are.
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            }
            Err(_) => {
                let found = self.dial.resolve(host, port).await;
                found.map_err(|why| Failure::new(Reason::Name, format!("the name `{host}`: {why}")))?
            }
        };
        Ok(found.into_iter().take(ADDRESSES_MAX).collect())
    }

    async fn tls(
        &self,
        to: &ControlAddress,
        trust: &[CertificateDer<'static>],
        own: Option<&Material>,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
        let broken = |why: String| Failure::new(Reason::Tls, why);
        let bundle = self.bundle.clone();
        // A disk may stand still.
        let read = spawn_blocking(move || pem::read_certificates(&bundle)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trust.iter().cloned());
        match read {
            Ok(bundle) => drop(roots.add_parsable_certificates(bundle)),
            Err(why) if roots.is_empty() => return Err(Failure::new(Reason::Bundle, why)),
            // What came over a connection that the bundle vouched for vouches on.
            Err(_) => {}
        }
        if roots.is_empty() {
            let why = format!("{}: not one usable root", self.bundle.display());
            return Err(Failure::new(Reason::Bundle, why));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| broken(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .map_err(|error| broken(error.to_string()))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let name = match to.host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(to.host.clone())
                .map_err(|_| broken(format!("`{}` cannot stand in a certificate", to.host)))?,
        };
        Ok((Arc::new(config), name))
    }

    async fn reach(
        &self,
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
        base: String,
    ) -> Result<Channel, Failure> {
        let tcp = self.dial.connect(address).await;
        let tcp = tcp.map_err(|error| Failure::new(Reason::Connect, format!("{address}: {error}")))?;
        let tls = TlsConnector::from(config.clone()).connect(name.clone(), tcp).await;
        let tls =
            tls.map_err(|error| Failure::new(Reason::Tls, format!("{address}: TLS: {}", told(&error))))?;
        Channel::open(tls, base).await
    }
}

/// What failed, in the same words each time (those of rustls tell the time of the attempt), and what would be right.
fn told(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            format!("its certificate expired at {} (Unix) by the clock of this machine", not_after.as_secs())
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => {
            let not_before = not_before.as_secs();
            format!("its certificate is not valid before {not_before} (Unix) by the clock of this machine")
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is from no root of the bundle; give `bundle` the control plane's `bundle.pem`"
                .to_owned()
        }
        _ => error.to_string(),
    }
}
