//! A caller that sends frames of one byte while nobody takes them: its endpoint cannot be reached yet, or its
//! call has just failed and it does not read that.

use bench::grpc;
use bench::raw::{frame, kind};
use bench::server::Server;
use bench::wait::until;

use crate::neighbour::Neighbour;
use crate::pair::memory::Memory;
use crate::pair::peer::raw as raw_peer;
use crate::pair::{ANY, ECHO, MIB, Pair, SERVER_STREAM, Site, UNARY, metric};
use crate::wire::Wire;

const STREAMS: u32 = 14;
/// Less than a stream's window, which is 256 KiB.
const BYTES: usize = 250 << 10;
/// What their bytes may cost, and what an allocator keeps besides. As frames inside h2 they would cost two
/// hundred times their bytes.
const GROWTH_MAX: u64 = 32 * MIB;
/// Answers that nobody reads hold windows and send buffers, too.
const UNREAD_GROWTH_MAX: u64 = 96 * MIB;

#[tokio::test]
async fn frames_of_one_byte_cost_little_more_than_a_byte_while_their_call_waits() {
    let app = Server::start(ANY).await.expect("an app");
    // Takes connections, and says nothing.
    let mute = raw_peer(|tcp| async move {
        let _tcp = tcp;
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = format!(
        "version: 1\nservices:\n  - {{name: shopper, namespace: shop}}\n  \
         - {{name: echo, namespace: shop, endpoints: [{{address: \"{}\", tls: none}}]}}\n  \
         - name: mute\n    namespace: shop\n    endpoints: [{{address: \"{}\", tls: none}}]\n    \
         upstream: {{connect_timeout: 1h}}\n",
        app.addr, mute.addr
    );
    let site = Site::new();
    let caller = site.caller(&mesh, "").await;
    let neighbour = Neighbour::start(caller.outbound(), None).await;
    let memory = Memory::watch(&caller, &caller);
    let mut wire = Wire::connect(caller.outbound()).await;
    wire.greet().await;
    wire.settle().await;
    for stream in streams() {
        wire.call(stream, "mute.shop", UNARY, &[]).await;
        wire.write(&bytes_apart(stream)).await;
    }
    // Five of the bytes are the prefix of a message of 0x78787878: one that never is whole.
    let waiting = async || metric(&caller, "outrigger_calls_in_flight", &[("direction", "outbound")]).await;
    until("all calls wait", async || waiting().await >= u64::from(STREAMS)).await;
    // A PING is answered when all before it has been read.
    wire.until_pong().await;
    memory.assert_growth_below("while their calls wait", GROWTH_MAX);
    println!("{} calls of the neighbour", neighbour.unharmed().await);
}

#[tokio::test]
async fn frames_of_one_byte_cost_little_more_than_a_byte_while_the_failure_of_their_call_is_not_read() {
    let pair = Pair::start().await;
    let memory = Memory::watch(&pair.caller, &pair.callee);
    let mut wire = Wire::narrow(pair.caller.outbound()).await;
    wire.greet().await;
    wire.settle().await;
    for stream in streams() {
        let more = [("x-count", "100000"), ("x-size", "10000"), ("grpc-timeout", "1S")];
        wire.call(stream, ECHO, SERVER_STREAM, &more).await;
        wire.write(&frame(kind::DATA, 0, stream, &grpc::message(b"go"))).await;
    }
    let late = [("direction", "outbound"), ("reason", "DEADLINE_EXCEEDED")];
    let failing = async || metric(&pair.caller, "outrigger_failures_total", &late).await > 0;
    until("their deadline is over", failing).await;
    // For a second the sidecar tries to say so.
    for stream in streams() {
        wire.write(&bytes_apart(stream)).await;
    }
    let over = [("service", ECHO), ("grpc_code", "DeadlineExceeded")];
    let ended = async || metric(&pair.caller, "grpc_client_handled_total", &over).await == u64::from(STREAMS);
    until("all calls are over", ended).await;
    memory.assert_growth_below("while their failure is not read", UNREAD_GROWTH_MAX);
}

fn streams() -> impl Iterator<Item = u32> {
    (0..STREAMS).map(|number| 1 + 2 * number)
}

/// [`BYTES`] bytes, each in a frame of its own.
fn bytes_apart(stream: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10 * BYTES);
    for _ in 0..BYTES {
        bytes.extend_from_slice(&frame(kind::DATA, 0, stream, b"x"));
    }
    bytes
}
