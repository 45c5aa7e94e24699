//! Streams that stay open while certificates change.

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::wait::soon;

use crate::ground::ECHO;

/// One that is open.
pub(crate) async fn stream(client: &Client) -> Call {
    client.call(CallSpec::new(ECHO, "/bench.Echo/Bidi")).await.expect("a stream")
}

/// Each stream carries a message there and back.
pub(crate) async fn echo_all(streams: &mut Vec<Call>) {
    for number in 0..streams.len() {
        let stream = &mut streams[number];
        stream.send(b"hello").await.unwrap_or_else(|error| panic!("stream {number}: {error}"));
        if soon(format!("an echo on stream {number}"), stream.recv()).await.is_none() {
            panic!("stream {number} has ended: {:?}", streams.swap_remove(number).finish().await);
        }
    }
}

/// Each ends well.
pub(crate) async fn end_all(streams: Vec<Call>) {
    for stream in streams {
        let outcome = soon("the end of a stream", stream.finish()).await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }
}
