//! Who the control plane is, and who we are.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bench::ads::Ads;
use bench::certs::{Ca, LeafSpec, write_identity};
use bench::tls::ServerTls;
use bench::wait::until;
use config::identity::Identity;
use config::spiffe::SpiffeId;
use identity::material::{Material, Origins};
use tokio::sync::watch;

use crate::control::xds::settings::{Address, Protocol};
use crate::control::xds::state::Phase;
use crate::control::xds::tests::kit::{Running, SHORT, Start, at, mesh, resources};
use crate::tls::credentials::Credentials;

/// The credentials of a leaf, by files in `folder`.
fn credentials(folder: &Path, ca: &Ca, bundle: &str) -> Arc<Credentials> {
    write_identity(folder, &ca.leaf(ID), bundle).expect("files");
    let [cert, key, bundle] = ["tls.crt", "tls.key", "ca.crt"].map(|file| folder.join(file));
    let files = Identity { cert, key, bundle };
    let id = SpiffeId::parse(ID).expect("an id");
    let material = Material::read(&files, SystemTime::now()).expect("an identity");
    Arc::new(Credentials::new(material, &Origins::files(&files), &id).expect("credentials"))
}

#[tokio::test]
async fn a_control_plane_is_known_by_its_name_and_knows_us_by_our_certificate() {
    let (ca, folder) = (Ca::new("cluster.local"), tempfile::tempdir().expect("a folder"));
    let good = credentials(folder.path(), &ca, ca.bundle_pem());
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let spec = |addresses: &[IpAddr], names: &[&str]| LeafSpec {
        addresses: addresses.to_vec(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        uris: vec!["spiffe://cluster.local/ns/mesh/sa/control".to_owned()],
        ..LeafSpec::default()
    };
    let stranger = tempfile::tempdir().expect("a folder");
    let other = Ca::new("cluster.local");
    let foreign = credentials(stranger.path(), &other, other.bundle_pem());
    let cases = [
        (spec(&[loopback], &[]), Some(good.clone()), "127.0.0.1", true),
        (spec(&[], &["localhost"]), Some(good.clone()), "localhost", true),
        (spec(&[], &["other.example"]), Some(good.clone()), "localhost", false),
        (spec(&[], &[]), Some(good), "127.0.0.1", false),
        (spec(&[loopback], &[]), None, "127.0.0.1", false),
        (spec(&[loopback], &[]), Some(foreign), "127.0.0.1", false),
    ];
    for (case, (spec, own, host, is_good)) in cases.into_iter().enumerate() {
        let tls = ServerTls { leaf: ca.leaf_with(&spec), client_trust: Some(ca.bundle_pem().to_owned()) };
        let ads = Ads::start_at((loopback, 0).into(), Some(&tls)).await.expect("a control plane");
        ads.set(resources(&mesh(&[1])));
        let address = Address { tls: true, host: host.to_owned(), port: ads.addr.port() };
        let running = Start {
            addresses: vec![address],
            bundle: Some(folder.path().join("ca.crt")),
            credentials: watch::channel(own).1,
            ..Start::new(ads.addr, Protocol::Delta)
        }
        .run();
        if is_good {
            running.until_mesh(&format!("case {case}"), &mesh(&[1])).await;
        } else {
            let lost = running.until(&format!("case {case}"), |state| state.connection.lost.is_some()).await;
            assert!(running.link.counts.connected.value() == 0, "case {case}: {lost:?}");
        }
    }
}

/// The certificate of a control plane at the address at which all of them are here.
fn loopback() -> LeafSpec {
    LeafSpec {
        addresses: vec![IpAddr::from(Ipv4Addr::LOCALHOST)],
        uris: vec!["spiffe://cluster.local/ns/mesh/sa/control".to_owned()],
        ..LeafSpec::default()
    }
}

/// A control plane that lets in whom its authority vouches for, a client of it, and where the client's credentials come from.
struct Renewed {
    ads: Ads,
    running: Running,
    ca: Ca,
    folder: tempfile::TempDir,
    renew: watch::Sender<Option<Arc<Credentials>>>,
}

const ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";

async fn renewed() -> Renewed {
    let (ca, folder) = (Ca::new("cluster.local"), tempfile::tempdir().expect("a folder"));
    let first = credentials(folder.path(), &ca, ca.bundle_pem());
    let tls = ServerTls { leaf: ca.leaf_with(&loopback()), client_trust: Some(ca.bundle_pem().to_owned()) };
    let ads = Ads::start_at(([127, 0, 0, 1], 0).into(), Some(&tls)).await.expect("a control plane");
    ads.set(resources(&mesh(&[1])));
    let (renew, credentials_in_force) = watch::channel(Some(first));
    let running = Start {
        addresses: vec![Address { tls: true, ..at(ads.addr) }],
        bundle: Some(folder.path().join("ca.crt")),
        credentials: credentials_in_force,
        patience: SHORT,
        ..Start::new(ads.addr, Protocol::Delta)
    }
    .run();
    running.until_mesh("the mesh", &mesh(&[1])).await;
    Renewed { ads, running, ca, folder, renew }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_on_a_second_stream_before_the_first_one_goes() {
    let Renewed { ads, running, ca, folder, renew } = renewed().await;
    for round in 1..=2 {
        renew.send_replace(Some(credentials(folder.path(), &ca, ca.bundle_pem())));
        until("a second stream", async || ads.streams() == round + 1).await;
        ads.set(resources(&mesh(&[10 + round as u16])));
        running.until_mesh("what comes over it", &mesh(&[10 + round as u16])).await;
    }
    assert!(running.state().connection.lost.is_none(), "{:?}", running.state().connection);
    assert_eq!(running.state().connection.phase, Phase::Connected);
}

#[tokio::test]
async fn a_renewed_certificate_that_is_refused_does_not_end_the_stream_that_is_open() {
    let Renewed { ads, running, folder, renew, .. } = renewed().await;
    let connections = ads.connections();
    let other = Ca::new("cluster.local");
    renew.send_replace(Some(credentials(folder.path(), &other, other.bundle_pem())));
    until("a second connection", async || ads.connections() > connections).await;
    for port in 11..20 {
        ads.set(resources(&mesh(&[port])));
        running.until_mesh("what comes over the first one", &mesh(&[port])).await;
    }
    assert!(running.state().connection.lost.is_none(), "{:?}", running.state().connection);
    assert_eq!(ads.streams(), 1);
}

#[tokio::test]
async fn roots_that_a_control_plane_sent_vouch_for_control_planes_and_those_of_somebody_else_do_not() {
    let (first, next) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let folder = tempfile::tempdir().expect("a folder");
    let own = credentials(folder.path(), &first, &format!("{}{}", first.bundle_pem(), next.bundle_pem()));
    let file = folder.path().join("control-ca.crt");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    // What the file of the bundle holds, and who vouches for the control plane that is there.
    let cases = [
        ("the root of the file", Some(first.bundle_pem().to_owned()), &first, [true, true]),
        ("a root that is in our trust only", Some(first.bundle_pem().to_owned()), &next, [false, true]),
        ("no file", None, &next, [false, true]),
        ("no root in it", Some(String::new()), &next, [false, true]),
        ("one root that is none", Some(format!("{}{broken}", first.bundle_pem())), &first, [false, true]),
    ];
    for (case, bundle, ca, known) in cases {
        match bundle {
            Some(bundle) => std::fs::write(&file, bundle).expect("a file"),
            None => std::fs::remove_file(&file).expect("no file"),
        }
        let tls =
            ServerTls { leaf: ca.leaf_with(&loopback()), client_trust: Some(first.bundle_pem().to_owned()) };
        for (vouched, known) in [false, true].into_iter().zip(known) {
            let ads = Ads::start_at(([127, 0, 0, 1], 0).into(), Some(&tls)).await.expect("a control plane");
            ads.set(resources(&mesh(&[1])));
            let running = Start {
                addresses: vec![Address { tls: true, ..at(ads.addr) }],
                bundle: Some(file.clone()),
                vouched,
                credentials: watch::channel(Some(own.clone())).1,
                ..Start::new(ads.addr, Protocol::Delta)
            }
            .run();
            let what = format!("{case}, vouched: {vouched}");
            if known {
                running.until_mesh(&what, &mesh(&[1])).await;
            } else {
                let lost = running.until(&what, |state| state.connection.lost.is_some()).await;
                assert_eq!(running.link.counts.connected.value(), 0, "{what}: {lost:?}");
            }
        }
    }
}
