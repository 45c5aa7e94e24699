//! Every client with every server that it is paired with, by every way in.

use crate::Case;
use crate::mesh::{PAYMENTS, Site};
use crate::meter::Meter;
use crate::parts::{Part, Parts};
use crate::programs::{Language, Way};

/// Client and server.
const PAIRS: [(Language, Language); 5] = [
    (Language::Python, Language::Python),
    (Language::Node, Language::Python),
    (Language::Go, Language::Go),
    (Language::Go, Language::Python),
    (Language::Python, Language::Go),
];
const WAYS: [Way; 2] = [Way::Authority, Way::Connect];

/// The check `gzip` sends half a megabyte and gets it back; compressed it is far less.
const GZIP_BYTES_MAX: u64 = 50_000;

/// Libraries that ask a proxy for servers on the loopback interface too; Go's never does.
const PROXIED: [Language; 2] = [Language::Python, Language::Node];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (client, server) in PAIRS {
        for way in WAYS {
            let name = format!("a_{client}_client_reaches_a_{server}_server_by_{way}");
            cases.push(Case::new(name, &[client.part(), server.part()], move |parts| {
                everything_works(parts, client, server, way)
            }));
        }
    }
    for client in PROXIED {
        let needs = [client.part(), Part::Python];
        let name = format!("a_{client}_client_reaches_a_server_outside_the_mesh_where_that_is_allowed");
        cases.push(Case::new(name, &needs, move |parts| outside(parts, client)));
    }
    let name = "the_tls_of_an_app_passes_by_connect_and_is_its_own".to_owned();
    cases.push(Case::new(name, &[Part::Python], own_tls));
    cases
}

async fn everything_works(parts: Parts, client: Language, server: Language, way: Way) {
    let app = server.serve(&parts).await;
    let meter = Meter::start(app.addr).await.expect("a relay");
    let site = Site::new();
    let payments = site.payments(meter.addr).await;
    let orders = site.orders(&[payments.inbound()]).await;

    client.check(&parts, way, orders.outbound(), "gzip").await;
    let (there, back) = meter.counts();
    assert!(
        there < GZIP_BYTES_MAX && back < GZIP_BYTES_MAX,
        "not compressed: {there} bytes there, {back} back"
    );
    client.check(&parts, way, orders.outbound(), "all").await;
}

async fn outside(parts: Parts, client: Language) {
    let server = Language::Python.serve(&parts).await;
    let way = Way::ConnectOutside(server.addr);
    let site = Site::new();
    let orders = site.orders(&[]).await;
    client.check(&parts, way, orders.outbound(), "all").await;

    let site = Site::new();
    let orders = site.orders_with(&[], "refuse").await;
    let failed = client.run(&parts, way, orders.outbound(), &["--checks", "unary"]).await;
    let [failed] = &failed[..] else { panic!("one check: {failed:?}") };
    assert!(failed.contains("UNAVAILABLE"), "{failed}");
}

async fn own_tls(parts: Parts) {
    let site = Site::new();
    let own = rcgen::generate_simple_self_signed([PAYMENTS.to_owned()]).expect("a certificate");
    let cert = site.file("app.crt", &own.cert.pem());
    let key = site.file("app.key", &own.signing_key.serialize_pem());
    let app = Language::Python.serve_with(&parts, &["--cert", &cert, "--key", &key]).await;
    let payments = site.payments(app.addr).await;
    let orders = site.orders(&[payments.inbound()]).await;
    let failed = Language::Python.run(&parts, Way::Connect, orders.outbound(), &["--ca", &cert]).await;
    assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
}
