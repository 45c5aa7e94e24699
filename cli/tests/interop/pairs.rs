//! Every client with every server that it is paired with, by every way in.

use crate::Case;
use crate::mesh::Site;
use crate::meter::Meter;
use crate::parts::Parts;
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
