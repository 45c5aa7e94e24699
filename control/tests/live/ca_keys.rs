//! What each key below `control.ca` does, and each limit of the CA's.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bench::certs::{Ca, Leaf, LeafSpec, write_identity};
use bench::joiner::{Connection, Csr};
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until};
use config::spiffe::SpiffeId;
use outrigger_control::ca::make::{make_root, make_token};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::keys::Case;
use crate::kit::{Live, USERS, folder};

const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";

/// What all of these begin with.
fn base() -> Value {
    json!({
        "mesh": "mesh",
        "ads": {"listen": "127.0.0.1:0"},
        "admin": {"listen": "127.0.0.1:0"},
        "ca": {"folder": "ca"},
    })
}

async fn start(yaml: &Value) -> Live {
    Live::within(folder(&[("u.yaml", USERS)]), &yaml.to_string()).await
}

async fn page(live: &Live) -> Value {
    let answer = live.plane.get("/ca").await.expect("a page");
    serde_json::from_str(&answer.body).expect("JSON")
}

fn token(live: &Live, id: &str) -> String {
    let id = SpiffeId::parse(id).expect("an id");
    let hour = Duration::from_secs(3_600);
    make_token(&live.dir.path().join("ca"), &id, hour, false, SystemTime::now()).expect("a token")
}

async fn anonymous(live: &Live) -> Connection {
    let tls = client_config(&TlsIdentity::anonymous()).expect("a configuration");
    Connection::open(live.plane.bound.ads, tls).await.expect("a connection")
}

fn roots_in(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).map(Iterator::flatten);
    files.map_or(0, |files| files.filter(|file| file.path().extension().is_some_and(|e| e == "crt")).count())
}

pub(crate) async fn the_first_root_is_made_there(case: Case) {
    for (yaml, name) in [(base(), "ca"), (case.change(&base(), "other"), "other")] {
        let live = start(&yaml).await;
        assert_eq!(roots_in(&live.dir.path().join(name)), 1, "{name}");
    }
}

pub(crate) async fn certificates_live_as_long(case: Case) {
    for (yaml, seconds) in [(base(), 24 * 3_600), (case.change(&base(), "1h"), 3_600)] {
        let live = start(&yaml).await;
        let expires = live.metric("outrigger_control_certificate_expires_timestamp_seconds", &[]).await;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs_f64();
        assert!((expires - now - f64::from(seconds)).abs() < 60.0, "{seconds}: {}", expires - now);
    }
}

pub(crate) async fn a_new_root_waits_as_long(case: Case) {
    for (yaml, signs_at_once) in [(base(), false), (case.change(&base(), "0s"), true)] {
        let live = start(&yaml).await;
        let made = make_root(&live.dir.path().join("ca"), SystemTime::now()).expect("a root");
        let name = made.certificate.file_stem().expect("a name").to_string_lossy().into_owned();
        until("it is trusted", async || {
            page(&live).await["trusted"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == name.as_str()))
        })
        .await;
        if signs_at_once {
            until("it signs", async || page(&live).await["signer"] == name.as_str()).await;
        }
        assert_eq!(page(&live).await["signer"] == name.as_str(), signs_at_once);
    }
}

pub(crate) async fn the_control_plane_is_met_by_them(case: Case) {
    for (yaml, is_met) in [
        (case.change(&base(), json!(["127.0.0.1"])), true),
        (case.change(&base(), json!(["control.example"])), false),
    ] {
        let live = start(&yaml).await;
        let bundle = std::fs::read(live.dir.path().join("ca/bundle.pem")).expect("a bundle");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&bundle).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(live.plane.bound.ads).await.expect("a connection");
        let name = ServerName::from(Ipv4Addr::LOCALHOST);
        let tls = soon("TLS", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await;
        assert_eq!(tls.is_ok(), is_met, "{yaml}");
    }
}

pub(crate) async fn lines_are_written_there(case: Case) {
    let live = start(&base()).await;
    let audit = |live: &Live| std::fs::read_to_string(live.dir.path().join("audit.jsonl"));
    assert!(audit(&live).is_err());
    let live = start(&case.change(&base(), "audit.jsonl")).await;
    until("a line", async || audit(&live).is_ok_and(|text| text.contains("\"event\":\"own\""))).await;
}

/// How many certificates are given at once, to so many workloads in turn.
async fn given(live: &Live, workloads: usize) -> usize {
    let mut connection = anonymous(live).await;
    let csr = Csr::of(&[]).pem;
    let tokens: Vec<String> = (0..workloads).map(|n| token(live, &format!("{ORDERS}-{n}"))).collect();
    for count in 0.. {
        let answer = connection.create(Some(&tokens[count % workloads]), &csr, 0).await;
        if answer.code != "OK" {
            assert_eq!(answer.code, "RESOURCE_EXHAUSTED", "{}", answer.message);
            return count;
        }
        if count > 60 {
            return count;
        }
    }
    unreachable!("it counts on")
}

pub(crate) async fn all_together_get_no_more_certificates(case: Case) {
    for (yaml, is_limited) in [(base(), false), (case.change(&base(), 1), true)] {
        let count = given(&start(&yaml).await, 20).await;
        // Ten seconds of the rate at once, and what comes while it is used up.
        assert_eq!((10..60).contains(&count), is_limited, "{count}");
    }
}

pub(crate) async fn one_workload_gets_no_more_certificates(case: Case) {
    for (yaml, is_limited) in [(base(), false), (case.change(&base(), 1), true)] {
        let live = start(&yaml).await;
        let count = given(&live, 1).await;
        assert_eq!((10..60).contains(&count), is_limited, "{count}");
        let mut connection = anonymous(&live).await;
        let others = connection.create(Some(&token(&live, ORDERS)), &Csr::of(&[]).pem, 0).await;
        assert_eq!(others.code, "OK", "{}", others.message);
    }
}

pub(crate) async fn one_more_ends_the_oldest_that_proves_nothing(case: Case) {
    let live = start(&case.change(&base(), 1)).await;
    let first = anonymous(&live).await;
    let second = anonymous(&live).await;
    first.ended().await;
    assert!(second.is_open());
    assert_eq!(live.metric("outrigger_control_refused_total", &[("limit", "unproven")]).await, 1.0);
    let live = start(&base()).await;
    let (first, second) = (anonymous(&live).await, anonymous(&live).await);
    assert!(first.is_open() && second.is_open());
}

/// A control plane with files of its own identity, which `theirs` has signed.
async fn with_files_of(theirs: &Ca, mut yaml: Value) -> Live {
    let dir = folder(&[("u.yaml", USERS)]);
    let spec = LeafSpec { addresses: vec![[127, 0, 0, 1].into()], ..LeafSpec::default() };
    write_identity(dir.path(), &theirs.leaf_with(&spec), theirs.bundle_pem()).expect("an identity");
    yaml["identity"] = json!({"cert": "tls.crt", "key": "tls.key", "bundle": "ca.crt"});
    Live::within(dir, &yaml.to_string()).await
}

/// What a caller gets who shows this leaf: the status of a renewal.
async fn renewed(live: &Live, leaf: &Leaf, theirs: &Ca, csr: &Csr) -> &'static str {
    let tls = client_config(&TlsIdentity::mutual(leaf, theirs.bundle_pem())).expect("a configuration");
    let mut connection = Connection::open(live.plane.bound.ads, tls).await.expect("a connection");
    connection.create(None, &csr.pem, 0).await.code
}

#[tokio::test]
async fn with_files_of_its_own_identity_the_cas_roots_are_trusted_too() {
    let theirs = Ca::new("cluster.local");
    let live = with_files_of(&theirs, base()).await;
    let csr = Csr::of(&[ORDERS]);
    let answer = anonymous(&live).await.create(Some(&token(&live, ORDERS)), &csr.pem, 0).await;
    for leaf in [csr.leaf(&answer), theirs.leaf(ORDERS)] {
        assert_eq!(renewed(&live, &leaf, &theirs, &csr).await, "OK");
    }
}

#[tokio::test]
async fn a_new_root_is_trusted_while_the_files_of_its_own_identity_are_broken() {
    let theirs = Ca::new("cluster.local");
    let mut yaml = base();
    yaml["ca"]["overlap"] = "3s".into();
    let live = with_files_of(&theirs, yaml).await;
    std::fs::write(live.dir.path().join("tls.crt"), "no certificate").expect("a file");
    live.says("the identity cannot be used, and what was in force stays so").await;

    make_root(&live.dir.path().join("ca"), SystemTime::now()).expect("a root");
    until("the new root signs", async || page(&live).await["roots"][0]["state"] == "trusted").await;
    let csr = Csr::of(&[ORDERS]);
    let answer = anonymous(&live).await.create(Some(&token(&live, ORDERS)), &csr.pem, 0).await;
    assert_eq!(renewed(&live, &csr.leaf(&answer), &theirs, &csr).await, "OK");
}
