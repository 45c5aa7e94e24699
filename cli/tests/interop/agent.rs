//! Envoy that has its certificate and its roots from `outrigger certs --sds`, wherever it speaks TLS: to the control plane, before a
//! service, and as a caller.
//!
//! ```text
//! calls --h2c--> sidecar of orders --mTLS--> Envoy of payments --h2c--> server
//! calls --h2c--> Envoy of payments --mTLS--> sidecar of orders --h2c--> server
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use bench::client::Client;
use bench::server::Server;
use bench::tls::TlsIdentity;
use bench::vigil::{Duty, Vigil};
use bench::wait::{soon, until};
use serde_json::Value;

use crate::Case;
use crate::envoy::Envoy;
use crate::mesh::{ORDERS_ID, PAYMENTS};
use crate::parts::{Part, Parts};
use crate::plane::{Plane, Trust, list};

const METHOD: &str = "/bench.Echo/Unary";
const ORDERS: &str = "orders.shop";
/// The sidecar of `orders` once more: who calls it by this name makes a connection of its own.
const LATER: &str = "later.shop";
/// By which the callee's sidecar tells its app who called.
const CALLER: &str = "x-forwarded-client-cert";
/// Of each direction.
const PER_SECOND: u32 = 50;
/// For `/live`, on a machine that others use too.
const LIVE_MAX: Duration = Duration::from_secs(10);
const GROWTH_MAX: u64 = 64 << 20;

pub(crate) fn cases() -> Vec<Case> {
    let name = "an_envoy_takes_leaf_and_roots_from_the_agent_and_no_call_fails_when_both_are_new";
    vec![Case::new(name.to_owned(), &[Part::Envoy], renewed)]
}

async fn renewed(parts: Parts) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (of_orders, of_payments) =
        (Server::start(any).await.expect("a server"), Server::start(any).await.expect("a server"));
    let plane = Plane::start(Trust::Authority, &[("mesh.yaml", &mesh(None))]).await;
    let ways = format!(
        "inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: strict}}]\noutbound: {{listen: \"127.0.0.1:0\"}}\n",
        of_orders.addr
    );
    let sidecar = plane.sidecar("orders", &ways).await;
    let (folder, socket) = plane.secrets("envoy", "payments");
    let config = plane.agent_bootstrap(&socket, "payments.shop~envoy", of_payments.addr);
    // By delta what stands in the bootstrap; clusters of the control plane ask for the state of the world.
    let config = config.replace("api_type: GRPC\n", "api_type: DELTA_GRPC\n");
    assert_eq!(config.matches("DELTA_GRPC").count(), 2, "ADS, and the agent: {config}");
    let envoy = Envoy::start(&parts, &folder, &config, "outbound").await;
    let inbound = envoy.listener("inbound").await;
    plane.edit("mesh.yaml", &mesh(Some([sidecar.inbound(), inbound]))).await;
    let directions = [(sidecar.outbound(), PAYMENTS), (envoy.addr, ORDERS)];
    for (outbound, service) in directions {
        until(format!("{service} is reached"), async || call(outbound, service).await).await;
    }
    let first = Shown::all(&envoy).await;
    assert!(first.len() >= 3, "the listener, the control plane and orders: {first:?}");

    let vigils = directions.map(|(outbound, service)| {
        let duty = Duty::new(service, PER_SECOND, &[("orders", &sidecar)]);
        Vigil::begin(Duty { outbound, ..duty })
    });
    let root = plane.add_root();
    // Trusted at once, and by the time that it signs everybody has it.
    until("every certificate that Envoy shows is another, of another root", async || {
        let now = Shown::all(&envoy).await;
        let is_new = |shown: &Shown| {
            first.iter().all(|before| before.serial != shown.serial && before.root != shown.root)
        };
        now.len() >= first.len() && now.iter().all(is_new)
    })
    .await;
    let believes = TlsIdentity { leaf: None, trust: Some(root) };
    soon("a handshake", Client::connect(inbound, Some(believes))).await.expect("a leaf of the new root");
    for vigil in &vigils {
        let before = vigil.calls();
        until("calls with the new certificates", async || vigil.calls() > before + 10).await;
    }
    assert!(call(envoy.addr, LATER).await, "a new connection by the new certificate");
    for (vigil, (_, service)) in vigils.into_iter().zip(directions) {
        let what = format!("a new leaf and a new root under calls of {service}");
        vigil.end().await.nothing_noticed(&what, LIVE_MAX, GROWTH_MAX);
    }

    // What the callee was shown is what Envoy says it shows.
    let callers = |authority: &str| -> Vec<String> {
        let calls = of_orders.calls();
        let calls = calls.iter().filter(|call| call.authority == authority);
        calls.map(|call| call.headers[CALLER].to_str().expect("text").to_owned()).collect()
    };
    let (old, new) = (callers(ORDERS), callers(LATER));
    let hash = |said: &str| said.split(';').find(|part| part.starts_with("Hash=")).map(str::to_owned);
    assert!(new[0].ends_with("URI=spiffe://cluster.local/ns/shop/sa/payments"), "{new:?}");
    assert_ne!(hash(&old[0]), hash(&new[0]), "the callee's sidecar sees another certificate");

    plane.settled(2).await;
    for (end, least) in [("update_rejected", 4), ("init_fetch_timeout", 4)] {
        let (counters, sum) = envoy.counters(end).await;
        assert!(counters >= least && sum == 0, "{end}: {sum} in {counters} counters");
    }
}

/// What one of Envoy's contexts of TLS shows and believes.
#[derive(Debug)]
struct Shown {
    serial: String,
    root: String,
}

impl Shown {
    async fn all(envoy: &Envoy) -> Vec<Self> {
        let one = |shown: &Value| {
            let serial =
                |of: &str| list(&shown[of])[0]["serial_number"].as_str().expect("a serial").to_owned();
            Self { serial: serial("cert_chain"), root: serial("ca_cert") }
        };
        envoy.certificates().await.iter().map(one).collect()
    }
}

async fn call(outbound: SocketAddr, service: &str) -> bool {
    let client = Client::connect(outbound, None).await.expect("a connection");
    soon("an answer", client.unary(service, METHOD, b"hello")).await.is_ok_and(|outcome| outcome.is_ok())
}

/// `orders` behind its sidecar and `payments` behind Envoy.
fn mesh(endpoints: Option<[SocketAddr; 2]>) -> String {
    let [orders, payments] = match endpoints {
        Some(both) => both.map(|address| format!("[\"{address}\"]")),
        None => ["[]", "[]"].map(str::to_owned),
    };
    let service = |name: &str, more: &str, endpoints: &str| {
        format!(
            "  - {{name: {name}, namespace: shop, upstream: {{connect_timeout: 20s}}, {more}endpoints: {endpoints}}}\n"
        )
    };
    let later = format!("identities: [\"{ORDERS_ID}\"], ");
    "version: 1\nservices:\n".to_owned()
        + &service("orders", "", &orders)
        + &service("payments", "", &payments)
        + &service("later", &later, &orders)
}
