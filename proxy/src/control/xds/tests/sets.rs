//! What arrives, and what is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bench::ads::{Ads, Manner, Raw, Resource, Seen};
use bench::wait::until;
use tokio::time::Instant;
use xds::audience::Certificates;
use xds::{Audience, Kind, encode};

use crate::control::xds::lost::Reason;
use crate::control::xds::settings::Protocol;
use crate::control::xds::state::{Announced, Host, Phase};
use crate::control::xds::tests::kit::{
    BOTH, SHORT, Start, as_sent, assembled, mesh, nacks, resources, settled,
};

#[tokio::test]
async fn a_mesh_arrives_as_it_was_sent_and_so_does_every_change_of_it() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1, 2]).await;
        let state = running.until("all is answered", |state| state.synced).await;
        assert_eq!(state.connection.phase, Phase::Connected);
        assert_eq!(state.connection.identifier, bench::ads::IDENTIFIER);
        assert!(state.refused.is_empty() && state.incomplete.is_empty(), "{state:?}");
        for ports in [&[1, 2, 3][..], &[4], &[]] {
            ads.set(resources(&mesh(ports)));
            running.until_mesh("a change", &mesh(ports)).await;
        }
        let mut without = mesh(&[]);
        without.services.retain(|service| service.name != "users");
        ads.set(resources(&without));
        let last = running.until_mesh("a service is gone", &without).await;
        assert!(!last.held.holds(Kind::Endpoints, "users.shop"), "nothing of it is kept");
        assert!(nacks(&ads).is_empty(), "{protocol:?}: {:?}", nacks(&ads));
        let first = &ads.seen()[0];
        assert_eq!(first.node.as_ref().map(|node| &*node.id), Some("orders.shop~here~00000007"));
        assert_eq!(first.is_delta, protocol == Protocol::Delta);
    }
}

#[tokio::test]
async fn a_resource_that_cannot_be_honoured_is_refused_by_name_and_its_siblings_are_taken() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let mut broken = resources(&mesh(&[1, 2]));
        for one in &mut broken {
            if one.name == "payments.shop" && one.type_url == Kind::Endpoints.type_url() {
                // Its name, and then what is no protobuf.
                one.value = b"\x0a\x0dpayments.shop\x12\xff".to_vec();
                one.version = "broken".to_owned();
            }
        }
        ads.set(broken);
        running.until_mesh("the sibling", &mesh(&[1, 2])).await;
        let key = (Kind::Endpoints, "payments.shop".to_owned());
        let state = running.until("told", |state| !state.refused.is_empty()).await;
        assert!(state.refused.contains_key(&key), "{:?}", state.refused);
        until("a NACK that names it", async || {
            nacks(&ads)
                .iter()
                .any(|seen| seen.error.as_ref().is_some_and(|why| why.contains("payments.shop")))
        })
        .await;
        assert_eq!(running.link.counts.answers(Kind::Endpoints, 1), 1);
        ads.set(resources(&mesh(&[3])));
        running.until_mesh("mended", &mesh(&[3])).await;
        running.until("nothing is refused", |state| state.refused.is_empty()).await;
        assert_eq!(ads.streams(), 1, "one stream for all of it");
    }
}

#[tokio::test]
async fn what_was_kept_serves_before_and_without_a_control_plane() {
    let (ads, running) = settled(Protocol::Delta, &[1]).await;
    let held = running.state().held;
    drop((ads, running));
    let nobody = Ads::start().await.expect("a control plane");
    nobody.behave(Manner::Mute);
    nobody.set(resources(&mesh(&[2])));
    let running = Start { held, patience: SHORT, ..Start::new(nobody.addr, Protocol::Delta) }.run();
    assert_eq!(assembled(&running.state()), mesh(&[1]));
    running.until_lost(Reason::Hung).await;
    let state = running.state();
    assert_eq!((state.generation, state.synced, assembled(&state)), (0, false, mesh(&[1])));
    nobody.behave(Manner::Well);
    running.until_mesh("it speaks at last", &mesh(&[2])).await;
}

#[tokio::test]
async fn a_host_that_is_asked_for_comes_or_is_known_not_to_exist() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let audience = Audience { client: xds::Client::Outrigger, certificates: Some(Certificates::Own) };
        let encoded = encode::mesh(&mesh(&[1]), &audience);
        let users = encoded.iter().find(|one| one.kind == Kind::Listener && one.name == "users.shop");
        let alias = as_sent(&encode::alias(users.expect("a listener"), "users:50051"));
        ads.set(resources(&mesh(&[1])).into_iter().chain([alias]));
        running.link.want.send_modify(|want| want.hosts = hosts(&["users:50051", "nobody:1"]));
        let state = running
            .until("both are answered", |state| {
                state.host("users:50051") != Host::Open && state.host("nobody:1") != Host::Open
            })
            .await;
        assert_eq!(state.host("users:50051"), Host::Here);
        assert_eq!(state.host("nobody:1"), Host::Absent);
        assert_eq!(state.host("never.asked:1"), Host::Open);
        assert_eq!(assembled(&state), mesh(&[1]), "one service by two names is one service");
        running.link.want.send_modify(|want| want.hosts = hosts(&[]));
        running.until("forgotten", |state| state.host("nobody:1") == Host::Open).await;
    }
}

#[tokio::test]
async fn endpoints_are_announced_and_withdrawn_on_the_stream_that_is_open() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let told =
            |seen: &Seen| seen.node.as_ref().map(|node| format!("{node:?}").contains("10.9.9.9:15006"));
        let announced = Announced {
            service: "orders.shop".to_owned(),
            address: "10.9.9.9:15006".parse().unwrap(),
            zone: None,
            labels: BTreeMap::new(),
        };
        running.link.want.send_modify(|want| want.endpoints = vec![announced.clone()]);
        until("announced", async || ads.seen().iter().any(|seen| told(seen) == Some(true))).await;
        running.link.want.send_modify(|want| want.endpoints.clear());
        until("withdrawn", async || ads.seen().iter().rev().find_map(told) == Some(false)).await;
        running.link.want.send_modify(|want| want.endpoints = vec![announced]);
        until("again", async || ads.seen().iter().rev().find_map(told) == Some(true)).await;
        assert_eq!(ads.streams(), 1);
        ads.hang_up();
        until("on the next one too", async || {
            ads.seen().iter().any(|s| s.stream == 1 && told(s) == Some(true))
        })
        .await;
        ads.set(resources(&mesh(&[2])));
        running.until_mesh("it was no question", &mesh(&[2])).await;
    }
}

#[tokio::test]
async fn an_answer_about_something_else_is_left_out_and_the_stream_goes_on() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use prost::Message as _;

    let (ads, running) = settled(Protocol::Delta, &[1]).await;
    let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned();
    let answer =
        DeltaDiscoveryResponse { type_url: type_url.clone(), nonce: "x".to_owned(), ..Default::default() };
    ads.send(Raw::Message(answer.encode_to_vec()));
    until("it is counted", async || running.link.counts.unasked.value() == 1).await;
    ads.set(resources(&mesh(&[2])));
    running.until_mesh("it goes on", &mesh(&[2])).await;
    let seen = ads.seen();
    assert!(seen.iter().all(|seen| seen.type_url != type_url), "a NACK would ask for all of them");
    assert_eq!((ads.streams(), running.link.counts.unasked.value()), (1, 1));
}

#[tokio::test]
async fn ten_thousand_changes_a_second_make_few_sets_and_the_last_one_counts() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let meshes: Vec<Vec<Resource>> = (1..=100).map(|port| resources(&mesh(&[port]))).collect();
        let (began, mut rounds, mut worst) = (Instant::now(), 0, Duration::ZERO);
        while began.elapsed() < Duration::from_secs(2) {
            let turn = Instant::now();
            ads.set(meshes[rounds % 100].clone());
            tokio::task::yield_now().await;
            rounds += 1;
            worst = worst.max(turn.elapsed());
        }
        ads.set(resources(&mesh(&[9_999])));
        running.until_mesh("the last", &mesh(&[9_999])).await;
        let (sets, seconds) = (running.link.counts.published.value(), began.elapsed().as_secs_f64());
        println!("{protocol:?}: {rounds} changes, {sets} sets in {seconds:.2} s, longest turn {worst:?}");
        assert!(sets as f64 <= seconds * 20.0 + 5.0, "{sets} sets in {seconds} s");
        // One thread runs all of this test: a turn is as long as the client keeps it, or the machine.
        assert!(worst < Duration::from_secs(10), "{worst:?}");
    }
}
