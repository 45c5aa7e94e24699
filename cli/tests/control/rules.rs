//! As many rules about callers as a large mesh has, from a file to calls.

use std::net::SocketAddr;
use std::time::Instant;

use bench::client::Client;
use bench::process::Sidecar;
use bench::tls::TlsIdentity;
use bench::wait::until;
use serde_json::Value;

use crate::mesh::{Plant, landed};

const RULES: usize = 10_000;
const UNARY: &str = "/bench.Echo/Unary";
const BIDI: &str = "/bench.Echo/Bidi";
const OK: Option<i32> = Some(0);
const PERMISSION_DENIED: Option<i32> = Some(7);

/// Who is denied, and by which rule, counted from 0.
const DENIED: [(&str, usize); 3] = [("first", 0), ("middle", RULES / 2 - 1), ("last", RULES - 1)];

/// `echo` with so many rules, each of which denies [`UNARY`] to somebody; those of `denied` to these. All else is allowed.
fn mesh(endpoint: SocketAddr, rules: usize, denied: &[(&str, usize)]) -> String {
    let rule = |at: usize| {
        let named = denied.iter().find(|(_, rule)| *rule == at);
        let account = named.map_or_else(|| format!("c-{at}"), |(account, _)| (*account).to_owned());
        format!(
            "        - deny: {{from: [spiffe://cluster.local/ns/shop/sa/{account}], methods: [bench.Echo/Unary]}}\n"
        )
    };
    let rules: String = (0..rules).map(rule).collect();
    // By default two seconds to connect, which a handshake may take on a loaded machine.
    format!(
        "version: 1\nservices:\n  - {{name: caller, namespace: shop}}\n  - name: echo\n    namespace: shop\n    \
         upstream: {{connect_timeout: 20s}}\n    endpoints: [\"{endpoint}\"]\n    inbound:\n      authorization:\n{rules}        - allow: {{}}\n"
    )
}

#[tokio::test]
async fn ten_thousand_rules_come_to_the_sidecar_and_the_first_the_middle_and_the_last_judge_calls() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    let callee = plant.callee("one", &control, "").await;
    plant.write(&mesh(callee.inbound(), 0, &[]));
    let caller = plant.caller(&control, "").await;
    until("calls land on one", async || landed(&caller).await == "one").await;
    let mut clients = Vec::new();
    for (account, rule) in DENIED {
        let client = client(&plant, &callee, account).await;
        // The callee's sidecar may hear of it after the caller's.
        until(format!("{account} may call"), async || status(&client, UNARY).await == OK).await;
        clients.push((account, rule, client));
    }

    plant.write(&mesh(callee.inbound(), RULES, &DENIED));
    let written = Instant::now();
    let last = &clients[2].2;
    until("the last rule judges", async || status(last, UNARY).await == PERMISSION_DENIED).await;
    println!("{RULES} rules judge calls {:?} after they were written", written.elapsed());
    for (account, rule, client) in &clients {
        assert_eq!(status(client, UNARY).await, PERMISSION_DENIED, "{account}");
        assert_eq!(status(client, BIDI).await, OK, "{account}: another method");
        assert_eq!(explained(&callee, account).await, (false, Some(*rule as u64)), "{account}");
    }
    assert_eq!(landed(&caller).await, "one", "whom no rule names may call");
    assert_eq!(explained(&callee, "caller").await, (true, Some(RULES as u64)));

    // One rule of ten thousand says something else.
    plant.write(&mesh(callee.inbound(), RULES, &[DENIED[0], DENIED[2]]));
    let written = Instant::now();
    let middle = &clients[1].2;
    until("the middle one lets go", async || status(middle, UNARY).await == OK).await;
    println!("one of {RULES} changed, and did so {:?} after it was written", written.elapsed());
    for (account, _, client) in [&clients[0], &clients[2]] {
        assert_eq!(status(client, UNARY).await, PERMISSION_DENIED, "{account}");
    }
}

/// A connection to the callee's sidecar, by this account.
async fn client(plant: &Plant, callee: &Sidecar, account: &str) -> Client {
    let leaf = plant.ca.leaf(&format!("spiffe://cluster.local/ns/shop/sa/{account}"));
    let tls = TlsIdentity::mutual(&leaf, plant.ca.bundle_pem());
    Client::connect(callee.inbound(), Some(tls)).await.expect("a connection")
}

async fn status(client: &Client, path: &str) -> Option<i32> {
    client.unary("echo.shop", path, b"ping").await.expect("a call").grpc_status
}

/// Whether the callee's sidecar lets somebody call [`UNARY`], and by which rule.
async fn explained(callee: &Sidecar, account: &str) -> (bool, Option<u64>) {
    let caller = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let path = format!("/explain?authority=echo.shop&method={}&caller={caller}", &UNARY[1..]);
    let answer = callee.get(&path).await.expect("a page");
    let told: Value = serde_json::from_str(&answer.body).expect("JSON");
    let judged = &told["inbound"][0];
    (judged["allowed"] == true, judged["by_rule"].as_u64())
}
