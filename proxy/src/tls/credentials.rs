//! Our identity as TLS takes it: what we show, and whom we believe, as a server and as a client.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;
use identity::chain::Runway;
use identity::leaf::{Leaf, validity};
use identity::material::{Material, Origins};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::verify::{MeshPeer, MeshServer};

/// What is said in TLS (ALPN, RFC 7301) of an HTTP/2 connection.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
/// What is said of bytes that pass as they are: a word between sidecars, so that nobody has to wait for the first of
/// them where a server speaks first.
pub(crate) const ALPN_OPAQUE: &[u8] = b"outrigger-tcp";

/// The client side of TLS towards the servers of one service.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
    /// Until when what we show is good.
    pub(crate) not_after: SystemTime,
    /// What we show, and the roots that servers are held against.
    pub(crate) material: Arc<Material>,
    /// What servers may prove.
    identities: Vec<SpiffeId>,
}

impl Client {
    /// Whether connections made by it are such as `next` would make, as far as their server is one that `next` believes: the
    /// same certificate is shown, and the same identities are asked for. Then only roots are others.
    pub(crate) fn goes_on_as(&self, next: &Self) -> bool {
        self.material.chain == next.material.chain && self.identities == next.identities
    }

    /// The same, and `next` believes whomever this one does.
    pub(crate) fn is_widened_by(&self, next: &Self) -> bool {
        let (ours, theirs) = (&self.material.trust.roots, &next.material.trust.roots);
        self.goes_on_as(next) && ours.iter().all(|root| theirs.contains(root))
    }

    /// Says so where our own certificate has expired: no server would take it.
    pub(crate) fn check(&self, now: SystemTime) -> Result<(), String> {
        if now < self.not_after {
            return Ok(());
        }
        let seconds = self.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Err(format!("our own certificate expired at {seconds} (Unix), and no other has come"))
    }
}

/// Our identity, read and checked: what both sides of TLS are built from.
#[derive(Debug)]
pub(crate) struct Credentials {
    provider: Arc<CryptoProvider>,
    pub(crate) material: Arc<Material>,
    /// How long what we show is good, and whoever vouches for it.
    pub(crate) runway: Runway,
    peers: Arc<MeshPeer>,
    /// The server side: a caller must prove an id of our trust domain.
    pub(crate) server: Arc<ServerConfig>,
}

impl Credentials {
    /// Checks that what was found is ours: the certificate names `expected`, and the key is its own. The error says what is
    /// wrong and what would be right.
    pub(crate) fn new(
        material: impl Into<Arc<Material>>,
        origins: &Origins,
        expected: &SpiffeId,
    ) -> Result<Self, String> {
        let material = material.into();
        material.check_id(origins, expected, "sidecar.yaml")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let peers = MeshPeer::new(
            material.trust.clone(),
            provider.clone(),
            material.leaf.id.trust_domain().to_owned(),
        );
        let peers = peers.map(Arc::new).map_err(|error| format!("{}: {error}", origins.bundle))?;
        let server = server(&provider, &material, peers.clone())
            .map_err(|error| format!("{}: does not fit {}: {error}", origins.key, origins.cert))?;
        let runway = Runway::new(&material);
        Ok(Self { provider, material, runway, peers, server })
    }

    /// Whether a caller could prove itself by this chain, were it not for the time.
    pub(crate) fn accepts_caller(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        self.peers.verify_client_cert(leaf, rest, in_its_time(chain)).is_ok()
    }

    /// Whether somebody of the mesh could prove himself by this chain as a server; of which service is not asked.
    pub(crate) fn accepts_server(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        self.servers(&[]).vouched(leaf, rest, in_its_time(chain)).is_ok()
    }

    fn servers(&self, identities: &[SpiffeId]) -> MeshServer {
        MeshServer::new(
            self.material.trust.clone(),
            self.provider.clone(),
            self.leaf().id.trust_domain().to_owned(),
            identities.to_vec(),
        )
    }

    /// What our own certificate says.
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.material.leaf
    }

    /// The client side towards a service: the server must prove one of `identities`.
    pub(crate) fn client(&self, identities: &[SpiffeId]) -> Result<Arc<Client>, String> {
        let verifier = self.servers(identities);
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| {
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
                    .with_client_auth_cert(self.material.chain.clone(), self.material.key.clone_key())
            })
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        config.resumption = Resumption::disabled();
        // Our verifier goes by SPIFFE id; a name in the clear would tell a listener who is called.
        config.enable_sni = false;
        Ok(Arc::new(Client {
            config: Arc::new(config),
            not_after: self.leaf().not_after,
            material: self.material.clone(),
            identities: identities.to_vec(),
        }))
    }
}

/// Now, or the nearest moment at which a whole chain was good: what has expired is the business of `tls::expiry`, and a clock that was
/// set back makes nobody another.
fn in_its_time(chain: &[CertificateDer<'static>]) -> UnixTime {
    let lives = chain.iter().filter_map(|certificate| validity(certificate).ok());
    let common = lives.reduce(|(begin, end), (b, e)| (begin.max(b), end.min(e)));
    let now = SystemTime::now();
    let now = common.filter(|(begin, end)| begin <= end).map_or(now, |(begin, end)| now.clamp(begin, end));
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The client side towards a server that is known by its name, as a control plane is; `own`: who we are, if it asks.
pub(crate) fn by_name(roots: RootCertStore, own: Option<&Credentials>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(own.material.chain.clone(), own.material.key.clone_key())
            .map_err(|error| error.to_string())?,
    };
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn server(
    provider: &Arc<CryptoProvider>,
    material: &Material,
    peers: Arc<MeshPeer>,
) -> Result<Arc<ServerConfig>, String> {
    let Material { chain, key, .. } = material;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder.with_client_cert_verifier(peers).with_single_cert(chain.clone(), key.clone_key())
        })
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_OPAQUE.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
