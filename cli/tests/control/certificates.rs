//! A control plane that cannot prove who it is.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bench::ads::{Ads, Resource};
use bench::certs::{Ca, LeafSpec};
use bench::tls::ServerTls;

use crate::mesh::{Plant, mesh_of};
use crate::plane::resources;
use crate::trio::Trio;

/// One at an address, with a certificate of `ca` that is valid until then; callers prove themselves to the plant's.
async fn at(address: SocketAddr, plant: &Plant, ca: &Ca, not_after: SystemTime, mesh: Vec<Resource>) -> Ads {
    let leaf = ca.leaf_with(&LeafSpec {
        uris: vec!["spiffe://cluster.local/ns/shop/sa/control".to_owned()],
        addresses: vec![address.ip()],
        not_after,
        ..LeafSpec::default()
    });
    let tls = ServerTls { leaf, client_trust: Some(plant.ca.bundle_pem().to_owned()) };
    let ads = Ads::start_at(address, Some(&tls)).await.expect("a control plane");
    ads.set(mesh);
    ads
}

#[tokio::test]
async fn nobody_notices_that_the_control_planes_certificate_has_expired_or_is_of_another_authority() {
    let (plant, stranger) = (Plant::new().await, Ca::new("cluster.local"));
    let now = SystemTime::now();
    let (later, before) = (now + Duration::from_secs(3_600), now - Duration::from_secs(60));
    let empty = resources(&mesh_of(&[], ""));
    let mut good = at((plant.host, 0).into(), &plant, &plant.ca, later, empty).await;
    let address = good.addr;
    let mut trio = Trio::start(&plant, &format!("https://{address}")).await;
    let (first, second) = (resources(&trio.mesh(&["one"])), resources(&trio.mesh(&["two"])));
    good.set(first);
    trio.under_calls("one").await;

    good.close().await;
    let mut expired = at(address, &plant, &plant.ca, before, second.clone()).await;
    trio.lose_it("tls", "its certificate expired at").await;
    trio.stay_on("one").await;
    expired.close().await;
    let mut strange = at(address, &plant, &stranger, later, second.clone()).await;
    trio.lose_it("tls", "invalid peer certificate").await;
    trio.stay_on("one").await;
    assert_eq!(expired.streams() + strange.streams(), 0, "nobody has asked them anything");
    strange.close().await;
    let _good = at(address, &plant, &plant.ca, later, second).await;
    trio.move_to("two").await;
    trio.are_connected().await;
    trio.nobody_noticed("expired, then of another authority", 3).await;
}
