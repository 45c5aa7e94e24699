//! What a large mesh costs a sidecar whose app calls one service of it.

use bench::process::Sidecar;
use bench::wait::until;

use crate::mesh::{Plant, landed};

/// Services of the large mesh, which is shown on demand only.
const MANY: usize = 300;
/// What the memory of two processes that do the same may differ by, in bytes.
const NOISE: u64 = 2 << 20;

/// A sidecar's memory, in bytes, and how many bytes of answers it has had.
struct Cost {
    memory: u64,
    received: f64,
}

/// A sidecar that has called one service of a mesh with so many others.
async fn cost(others: usize, words: &str) -> Cost {
    let plant = Plant::new().await;
    let control = plant.control(&format!("mesh: mesh\n{words}")).await;
    let callee = plant.callee("one", &control, "").await;
    let service = |number| {
        format!(
            "  - {{name: s{number}, namespace: shop, endpoints: [10.0.0.1:1, 10.0.0.2:1, 10.0.0.3:1], retries: {{}}}}\n"
        )
    };
    plant.mesh(&[callee.inbound()], &(0..others).map(service).collect::<String>());
    let caller = plant.caller(&control, "").await;
    until("calls land on one", async || landed(&caller).await == "one").await;
    let services =
        async || control.metrics().await.expect("a scrape").value("outrigger_control_services", &[]);
    until("the mesh is whole", async || services().await as usize == others + 2).await;
    for _ in 0..100 {
        assert_eq!(landed(&caller).await, "one");
    }
    let received = received(&caller).await;
    Cost { memory: own_bytes(&caller), received }
}

/// Memory of its own: pages of its binary come and go as the machine has room for them.
fn own_bytes(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("it runs");
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
    let kib: u64 = own.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

async fn received(sidecar: &Sidecar) -> f64 {
    let name = "outrigger_control_received_bytes_total";
    sidecar.metrics().await.expect("a scrape").value(name, &[])
}

#[tokio::test]
async fn services_that_are_never_called_cost_nothing() {
    let (small, large) = (cost(0, "").await, cost(MANY, "").await);
    let whole = cost(MANY, "on_demand_above: 1000").await;
    println!(
        "a mesh of one: {} KiB, {} bytes received; {MANY} more on demand: {} KiB, {} bytes; {MANY} more at once: {} KiB, {} bytes",
        small.memory >> 10,
        small.received,
        large.memory >> 10,
        large.received,
        whole.memory >> 10,
        whole.received,
    );
    assert!(whole.received > 20.0 * small.received, "else this shows nothing");
    // The same resources, and in either case a few that say what is not there.
    assert!(large.received < 2.0 * small.received + 1_000.0, "{} and {}", small.received, large.received);
    assert!(large.memory < small.memory + NOISE, "{} and {} bytes", small.memory, large.memory);
}
