//! Opens a connection for bytes that pass as they are, plain or inside mTLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dial::{Dialled, Remembered};
use crate::io::Wire;
use crate::socket::USER_TIMEOUT;
use crate::tls::ALPN_OPAQUE;
use crate::tls::leaf::Leaf;

/// A stream of bytes to somebody.
pub(crate) struct Raw {
    pub(crate) wire: Wire,
    /// The peer proved its identity.
    pub(crate) mtls: bool,
    /// How long the peer's certificate is good for.
    pub(crate) ends_after: Option<Duration>,
    /// That the connection is one of ours.
    pub(crate) remembered: Remembered,
}

/// Connects within `limit`. With `tls` the peer must prove who it is, and is told that what follows is not HTTP/2.
pub(crate) async fn connect(
    dialled: &Dialled,
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    limit: Duration,
) -> io::Result<Raw> {
    let connect = async {
        let (tcp, remembered) = dialled.dial(address, USER_TIMEOUT).await?;
        let Some(config) = tls else {
            return Ok(Raw { wire: Wire::plain(tcp), mtls: false, ends_after: None, remembered });
        };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![ALPN_OPAQUE.to_vec()];
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| Leaf::read(&chain[0]).ok());
        let ends_after = leaf.map(|leaf| leaf.validity(SystemTime::now()).ends_after);
        Ok(Raw { wire: Wire::tls(stream.into()), mtls: true, ends_after, remembered })
    };
    timeout(limit, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
