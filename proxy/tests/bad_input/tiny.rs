//! A caller that sends frames of one byte while its endpoint cannot be reached yet.

use bench::raw::{frame, kind};

use crate::neighbour::Neighbour;
use crate::pair::peer::raw as raw_peer;
use crate::pair::{ANY, Site, UNARY, metric, until};
use crate::wire::Wire;
use bench::server::Server;

const STREAMS: u32 = 14;
/// Less than a stream's window, which is 256 KiB.
const BYTES: usize = 250 << 10;
/// What their bytes may cost, and what an allocator keeps besides. As frames inside h2 they would cost a
/// hundred times their bytes.
const GROWTH_MAX: u64 = 32 << 20;

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
    let before = caller.rss_bytes().expect("a process");
    let mut wire = Wire::connect(caller.outbound()).await;
    wire.greet().await;
    wire.settle().await;
    for stream in (0..STREAMS).map(|number| 1 + 2 * number) {
        wire.call(stream, "mute.shop", UNARY, &[]).await;
        let mut bytes = Vec::with_capacity(10 * BYTES);
        for _ in 0..BYTES {
            bytes.extend_from_slice(&frame(kind::DATA, 0, stream, b"x"));
        }
        wire.write(&bytes).await;
    }
    // Five of the bytes are the prefix of a message of 0x78787878: one that never is whole.
    let waiting = async || metric(&caller, "outrigger_calls_in_flight", &[("direction", "outbound")]).await;
    until("all calls wait", async || waiting().await >= u64::from(STREAMS)).await;
    // A PING is answered when all before it has been read.
    wire.until_pong().await;
    let grown = caller.rss_bytes().expect("a process").saturating_sub(before);
    println!(
        "{} KiB for {} KiB; {} calls beside",
        grown >> 10,
        (STREAMS as usize * BYTES) >> 10,
        neighbour.unharmed().await
    );
    assert!(grown < GROWTH_MAX, "{grown} bytes");
}
