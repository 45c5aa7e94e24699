//! A roll-out under load: every process of the store but the caller's own sidecar is ended by SIGTERM and
//! started anew, one after the other, and no unary call fails.

mod load;
mod store;

use std::time::Duration;

use crate::load::{Streams, Unary};
use crate::store::{Part, Store};

const CALLS_PER_SECOND: f64 = 500.0;
const STREAMS: usize = 50;

/// Both sides of the roll-out go on for this long before its first restart and after its last.
const AROUND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_roll_out_under_load_fails_no_unary_call_and_ends_every_stream_with_unavailable() {
    let mut store = Store::open().await;
    let unary = Unary::begin(store.caller.outbound(), CALLS_PER_SECOND).await;
    let streams = Streams::begin(store.caller.outbound(), STREAMS).await;
    tokio::time::sleep(AROUND).await;
    for replica in 0..store.replicas.len() {
        store.restart(replica, Part::App).await;
        store.restart(replica, Part::Sidecar).await;
    }
    tokio::time::sleep(AROUND).await;
    let unary = unary.end().await;
    let streams = streams.end().await;

    println!("unary: {unary:#?}\nstreams: {streams:#?}");
    println!("attempts of the caller's sidecar: {}", store.attempts().await);
    assert_eq!(unary.failed, Default::default());
    assert_eq!(unary.completed, unary.offered);
    assert!(unary.offered as f64 >= CALLS_PER_SECOND * unary.seconds * 0.5, "the load was lighter than told");

    assert_eq!(streams.wrong, Default::default());
    assert_eq!(streams.opened, streams.unavailable + streams.completed);
    assert_eq!(streams.completed, STREAMS as u64, "all that were open at the end ended as asked");
    assert!(streams.unavailable >= STREAMS as u64, "every app of orders was restarted, and so every stream");
}
