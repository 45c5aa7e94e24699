//! Control planes that end, say nothing, or say nonsense.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bench::ads::{Ads, Manner, Raw, Seen};
use bench::closed::ClosedPort;
use bench::wait::until;
use xds::Kind;

use crate::control::xds::lost::Reason;
use crate::control::xds::patience::Patience;
use crate::control::xds::settings::Protocol;
use crate::control::xds::state::Phase;
use crate::control::xds::tests::kit::{BOTH, SHORT, Start, assembled, at, mesh, resources, settled};

#[tokio::test]
async fn a_new_connection_goes_on_where_the_old_one_ended() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        running.until("all is answered", |state| state.synced).await;
        let before = running.state();
        ads.hang_up();
        running.until("the loss is seen", |state| state.connection.lost.is_some()).await;
        running.until("it is back", |state| state.connection.phase == Phase::Connected).await;
        let again = |seen: &Seen| seen.stream == 1;
        until("all kinds are asked for", async || {
            let seen = ads.seen();
            let kinds: BTreeSet<&str> = seen.iter().filter(|s| again(s)).map(|s| &*s.type_url).collect();
            kinds.len() == Kind::ALL.len()
        })
        .await;
        if protocol == Protocol::Delta {
            for kind in Kind::ALL {
                let seen = ads.seen();
                let first = seen.iter().find(|seen| again(seen) && seen.type_url == kind.type_url());
                let held: BTreeMap<String, String> = before
                    .held
                    .of(kind)
                    .iter()
                    .map(|(name, one)| (name.to_string(), one.version.to_string()))
                    .collect();
                assert_eq!(first.expect("a request").initial, held, "{kind:?}");
            }
        }
        assert_eq!(running.state().generation, before.generation, "nothing has changed");
        ads.set(resources(&mesh(&[5])));
        running.until_mesh("a change", &mesh(&[5])).await;
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_costs_nothing_else() {
    let whole = bench::grpc::message(&[0; 100]).to_vec();
    let cases = [
        (Raw::Message(b"\xff\xff\xff\xff".to_vec()), Reason::Garbage),
        (Raw::Message([0x12, 0].repeat(200_000)), Reason::Garbage),
        (Raw::Bytes([&[1], &whole[1..]].concat()), Reason::Garbage),
        (Raw::Huge(100 << 20), Reason::TooLarge),
        (Raw::Bytes(whole[..50].to_vec()), Reason::Slow),
        (Raw::Slow(vec![0; 500], Duration::from_millis(50)), Reason::Slow),
    ];
    for (raw, reason) in cases {
        let (ads, running) = settled(Protocol::Delta, &[1]).await;
        let shown = format!("{raw:?}").chars().take(40).collect::<String>();
        ads.send(raw);
        running.until_lost(reason).await;
        assert_eq!(assembled(&running.state()), mesh(&[1]), "{shown}");
        ads.set(resources(&mesh(&[2])));
        running.until_mesh(&format!("it is tried again after {shown}"), &mesh(&[2])).await;
        assert_eq!(ads.connections(), 2, "{shown}");
    }
}

#[tokio::test]
async fn a_control_plane_that_accepts_and_says_nothing_is_left() {
    for manner in [Manner::Deaf, Manner::Mute] {
        let ads = Ads::start().await.expect("a control plane");
        ads.behave(manner);
        ads.set(resources(&mesh(&[1])));
        let good = Ads::start().await.expect("a control plane");
        good.set(resources(&mesh(&[2])));
        let patience = Patience { first_answer: Duration::from_millis(300), ..SHORT };
        let addresses = vec![at(ads.addr), at(good.addr)];
        let running = Start { patience, addresses, ..Start::new(ads.addr, Protocol::Delta) }.run();
        running.until_mesh("the other one", &mesh(&[2])).await;
    }
}

#[tokio::test]
async fn a_control_plane_that_says_goodbye_each_time_or_no_each_time_is_asked_less_and_less() {
    for (manner, reason) in
        [(Manner::Farewell(h2::Reason::NO_ERROR), Reason::Closed), (Manner::Status(16), Reason::Status)]
    {
        let (ads, running) = settled(Protocol::Delta, &[1]).await;
        ads.behave(manner);
        ads.hang_up();
        until("three more ends", async || running.lost(reason) >= 4 || ads.connections() >= 5).await;
        assert_eq!(assembled(&running.state()), mesh(&[1]));
        assert!(running.state().connection.lost.is_some());
        ads.behave(Manner::Well);
        ads.set(resources(&mesh(&[2])));
        running.until_mesh("it has come round", &mesh(&[2])).await;
    }
}

#[tokio::test]
async fn of_several_addresses_one_that_serves_is_found() {
    let ads = Ads::start().await.expect("a control plane");
    ads.set(resources(&mesh(&[1])));
    let nobody = ClosedPort::take().expect("a port");
    let addresses = vec![at(nobody.addr), at(nobody.addr), at(ads.addr)];
    let running = Start { addresses, ..Start::new(ads.addr, Protocol::Delta) }.run();
    let state = running.until_mesh("the mesh", &mesh(&[1])).await;
    assert_eq!(state.connection.address, at(ads.addr).to_string());
}

#[tokio::test]
async fn a_part_of_a_first_set_is_not_taken_for_the_whole_when_its_connection_has_ended() {
    let ads = Ads::start().await.expect("a control plane");
    let listener = resources(&mesh(&[1])).into_iter().find(|one| one.type_url == Kind::Listener.type_url());
    ads.behave(Manner::Mute);
    let running = Start { patience: SHORT, ..Start::new(ads.addr, Protocol::Delta) }.run();
    until("a stream", async || ads.streams() == 1).await;
    ads.send(Raw::Message(listener.expect("a listener").answer()));
    until("a listener, and no routes", async || running.link.counts.connected.value() == 1).await;
    ads.behave(Manner::Deaf);
    ads.hang_up();
    running.until("it ends", |state| state.connection.lost.is_some()).await;
    let mut state = running.link.state.clone();
    // Longer than what is missing of a first set is waited for.
    let synced = tokio::time::timeout(Duration::from_secs(4), state.wait_for(|state| state.synced)).await;
    assert!(synced.is_err(), "nobody has said that this is all");
    ads.behave(Manner::Well);
    ads.set(resources(&mesh(&[1])));
    ads.hang_up();
    running.until_mesh("all of it", &mesh(&[1])).await;
}
