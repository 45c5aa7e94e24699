//! Keys of `control.yaml` that are seen from outside.

use std::time::Duration;

use bench::wait::{soon, until};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::kit::{Live, PLAIN, USERS, folder};

/// A control plane with this `debounce`, and its mesh changed: the file is in force, clients may not have been told yet.
async fn changed(debounce: &str) -> Live {
    let live = Live::within(folder(&[("u.yaml", USERS)]), &format!("{PLAIN}debounce: {debounce}\n")).await;
    let digest = live.file("u.yaml").await["digest"].clone();
    live.replace("u.yaml", &USERS.replace("10.0.0.1", "10.0.0.9"));
    until("the file is in force", async || live.file("u.yaml").await["digest"] != digest).await;
    live
}

#[tokio::test]
async fn a_change_waits_for_quiet() {
    let live = changed("{quiet: 1h, longest: 1h}").await;
    assert_eq!(live.mesh().await["version"], 1);
    let live = changed("{quiet: 1ms, longest: 1h}").await;
    until("it is sent", async || live.mesh().await["version"] == 2).await;
}

#[tokio::test]
async fn changes_without_end_are_sent_after_the_longest() {
    let live = changed("{quiet: 1s, longest: 1s}").await;
    let mut last = 10;
    // There is never a second without a change.
    until("what there is, is sent", async || {
        last += 1;
        live.replace("u.yaml", &USERS.replace("10.0.0.1", &format!("10.0.0.{}", last % 200)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        live.mesh().await["version"].as_u64() >= Some(2)
    })
    .await;
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away_and_counted() {
    let live =
        Live::within(folder(&[("u.yaml", USERS)]), &format!("{PLAIN}limits: {{connections: 1}}\n")).await;
    let first = TcpStream::connect(live.plane.bound.ads).await.expect("a connection");
    until("it is in", async || live.metric("outrigger_control_connections_total", &[]).await == 1.0).await;
    let mut second = TcpStream::connect(live.plane.bound.ads).await.expect("a connection");
    let read = soon("its end", second.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let labels = [("limit", "connections")];
    assert_eq!(live.metric("outrigger_control_refused_total", &labels).await, 1.0);
    drop(first);
    until("there is room again", async || {
        let _ = TcpStream::connect(live.plane.bound.ads).await.expect("a connection");
        live.metric("outrigger_control_connections_total", &[]).await >= 2.0
    })
    .await;
}
