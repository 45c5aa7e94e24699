//! TLS towards a collector, which is no part of the mesh: by the names and roots of the web.
//!
//! The files are read for each connection anew, since certificates are renewed while a sidecar runs, and away from the
//! control thread, since a disk may stand still.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::collector::Collector;
use identity::pem::read_certificates;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::control::otlp::settings::Settings;

/// Where systems keep the roots that they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What one connection needs.
pub(crate) type Ready = (Arc<ClientConfig>, ServerName<'static>);

/// Whom to believe to be the collector, and who we are.
#[derive(Debug)]
pub(crate) struct Trust {
    files: Files,
    /// A reading that somebody began and did not wait for: there is never a second one.
    reading: Option<JoinHandle<Result<Ready, String>>>,
}

#[derive(Clone, Debug)]
struct Files {
    collector: Collector,
    roots: Option<PathBuf>,
    /// Our certificate and its key.
    client: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    /// Reads the files once, so that a fault shows at the start. The error says which file is at fault.
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let files = Files {
            collector: settings.collector.clone(),
            roots: settings.roots.clone(),
            client: settings.client.clone(),
        };
        files.read()?;
        Ok(Self { files, reading: None })
    }

    /// What the files say now.
    pub(crate) async fn read(&mut self) -> Result<Ready, String> {
        let files = self.files.clone();
        let reading = self.reading.get_or_insert_with(|| spawn_blocking(move || files.read()));
        let read = reading.await;
        self.reading = None;
        read.map_err(|error| format!("the files of TLS: {error}"))?
    }
}

impl Files {
    fn read(&self) -> Result<Ready, String> {
        let path = match &self.roots {
            Some(path) => path.clone(),
            None => system_roots().ok_or_else(|| {
                format!(
                    "{}: this system has no roots at {}; name them in OTEL_EXPORTER_OTLP_CERTIFICATE",
                    self.collector,
                    SYSTEM_ROOTS.join(" or ")
                )
            })?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(read_certificates(&path)?);
        let host = &self.collector.host;
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(host.clone())
                .map_err(|_| format!("{}: `{host}` cannot stand in a certificate", self.collector))?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{}: no private key in PEM: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(read_certificates(certificate)?, private)
                    .map_err(|error| format!("{}: {error}", certificate.display()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok((Arc::new(config), name))
    }
}

fn system_roots() -> Option<PathBuf> {
    SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file()).map(Path::to_owned)
}
