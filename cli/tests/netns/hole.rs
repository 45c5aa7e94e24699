//! Black holes: one of three endpoints stops answering under load, established connections and new ones, without a word from
//! the network. Calls that are on it then may fail, or be repeated; later ones know nothing of it.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::client::Client;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until, within};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, INBOUND, Pod};
use crate::watchdog::{RUNS_MAX, STILL, Watchdog};

const UNARY: &str = "/bench.Echo/Unary";
const AUTHORITY: &str = "payments.shop";
const APP: u16 = 50_051;
/// The endpoint that becomes a hole.
const HOLE: &str = "payments-1";
/// Calls that begin each second, and how long before and after the hole.
const PER_SECOND: u32 = 200;
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(8);
/// What a machine that does other things as well may add to a time.
const NOISE: Duration = Duration::from_secs(5);
/// The longest that the calls of a run may take.
const RUN_MAX: Duration = Duration::from_secs(90);
const CLIENTS: usize = 4;

/// A call as its caller saw it.
struct Seen {
    nonce: String,
    began: Instant,
    took: Duration,
    /// Where it landed; `Err`: it failed, and so it said.
    landed: Result<String, String>,
}

/// A caller's sidecar before three endpoints.
struct Shop {
    cluster: Cluster,
    caller: Pod,
    sidecar: Sidecar,
    backends: Vec<Backend>,
}

struct Backend {
    pod: Pod,
    app: Server,
    _sidecar: Option<Sidecar>,
}

impl Shop {
    /// `payments` has these words in the mesh. With `mtls` a sidecar stands before each of its apps.
    async fn open(mtls: bool, words: &str) -> Option<Self> {
        let cluster = Cluster::open().await?;
        let caller = cluster.pod("orders").await;
        let mut pods = Vec::new();
        for _ in 0..3 {
            pods.push(cluster.pod("payments").await);
        }
        let endpoint = |pod: &Pod| match mtls {
            true => format!("{{address: \"{}\", tls: mesh}}", pod.at(INBOUND)),
            false => format!("{{address: \"{}\", tls: none}}", pod.at(APP)),
        };
        let endpoints: Vec<String> = pods.iter().map(endpoint).collect();
        let mesh = format!(
            "version: 1\nservices:\n  - {{name: orders, namespace: shop}}\n  - name: payments\n    namespace: shop\n    \
             balancing: {{policy: round_robin}}\n    {words}\n    endpoints: [{}]\n",
            endpoints.join(", ")
        );
        let mut backends = Vec::new();
        for (number, pod) in pods.into_iter().enumerate() {
            let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), APP);
            let name = format!("payments-{}", number + 1);
            let options = ServerOptions { name, ..ServerOptions::default() };
            let app = pod.namespace.inside(Server::start_with(at, options)).await.expect("an app");
            let mut sidecar = None;
            if mtls {
                let listen = pod.at(INBOUND);
                pod.configure(&format!(
                    "inbound: [{{listen: \"{listen}\", app: 127.0.0.1:{APP}, mtls: strict}}]\n"
                ));
                sidecar = Some(pod.sidecar(&mesh).await);
            }
            pod.namespace.run("nft add table inet hole").await;
            for way in ["input", "output"] {
                let chain =
                    format!("nft add chain inet hole {way} {{ type filter hook {way} priority 0 ; }}");
                pod.namespace.run(&chain).await;
            }
            backends.push(Backend { pod, app, _sidecar: sidecar });
        }
        caller.configure("outbound: {listen: 127.0.0.1:15001}\nworkers: 2\n");
        let sidecar = caller.sidecar(&mesh).await;
        Some(Self { cluster, caller, sidecar, backends })
    }

    async fn client(&self) -> Client {
        let connect = self.caller.namespace.inside(Client::connect(self.sidecar.outbound(), None));
        soon("a connection to the sidecar", connect).await.expect("a connection")
    }

    /// Nothing gets into the pod of the hole any more, nor out of it.
    async fn dig(&self) {
        let namespace = &self.backends[0].pod.namespace;
        namespace.run("nft add rule inet hole input iifname eth0 drop").await;
        namespace.run("nft add rule inet hole output oifname eth0 drop").await;
    }

    /// The calls of which some attempt has reached no app.
    fn astray(&self) -> HashSet<String> {
        // By nonce: attempts that came, and how many there were by the words of the last.
        let mut attempts: HashMap<String, (u32, u32)> = HashMap::new();
        for record in self.backends.iter().flat_map(|backend| backend.app.calls()) {
            let before = record.headers.get("grpc-previous-rpc-attempts");
            let before = before.map_or(0, |count| count.to_str().expect("text").parse().expect("a number"));
            let (came, said) = attempts.entry(record.nonce.unwrap_or_default()).or_default();
            (*came, *said) = (*came + 1, before.max(*said));
        }
        attempts.into_iter().filter(|(_, (came, said))| came <= said).map(|(nonce, _)| nonce).collect()
    }

    async fn fill(&self) {
        self.backends[0].pod.namespace.run("nft flush table inet hole").await;
    }

    /// Calls at a steady pace; one of the endpoints becomes a hole in the middle. Returns when that was, and all calls.
    /// Their nonces are of this run alone.
    async fn calls(&self, run: u32) -> (Instant, Vec<Seen>) {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(self.client().await);
        }
        // Every worker knows every endpoint.
        for client in &clients {
            until("a call lands on the hole", async || {
                call(client.clone(), "").await.landed.as_deref() == Ok(HOLE)
            })
            .await;
        }
        let began = Instant::now();
        let load = async {
            let (mut calls, mut seen) = (JoinSet::new(), Vec::new());
            for (number, client) in (0..).zip(clients.iter().cycle()) {
                let at = began + Duration::from_secs(1) / PER_SECOND * number;
                if at > began + BEFORE + AFTER {
                    break;
                }
                tokio::time::sleep_until(at.into()).await;
                let (client, nonce) = (client.clone(), format!("{run}-{number}"));
                calls.spawn(async move { call(client, &nonce).await });
                while let Some(done) = calls.try_join_next() {
                    seen.push(done.expect("a call"));
                }
            }
            seen.extend(calls.join_all().await);
            seen
        };
        let dig = async {
            tokio::time::sleep_until((began + BEFORE).into()).await;
            let now = Instant::now();
            self.dig().await;
            now
        };
        within(RUN_MAX, "all calls", async { tokio::join!(dig, load) }).await
    }
}

async fn call(client: Client, nonce: &str) -> Seen {
    let began = Instant::now();
    let spec = CallSpec::new(AUTHORITY, UNARY).header("x-nonce", nonce);
    let outcome = client.unary_with(spec, b"ping").await;
    let landed = match outcome {
        Ok(outcome) if outcome.is_ok() => {
            Ok(outcome.headers["x-server"].to_str().expect("a name").to_owned())
        }
        Ok(outcome) => Err(outcome.message),
        Err(fault) => Err(fault.to_string()),
    };
    Seen { nonce: nonce.to_owned(), began, took: began.elapsed(), landed }
}

/// A hole that is to be detected within `limit`. Where a core stood still meanwhile, endpoints that are no holes
/// may have done so too, and what was seen proves nothing.
async fn judge(shop: &Shop, limit: Duration, may_fail: bool, what: &str) {
    let _ = &shop.cluster;
    let mut run = 1;
    loop {
        let watchdog = Watchdog::begin();
        let (dug, seen) = shop.calls(run).await;
        let still = watchdog.end();
        let faults = faults(shop, dug, &seen, limit, may_fail, what);
        // It gets calls again once it is there again.
        shop.fill().await;
        let client = shop.client().await;
        until("a call lands on what was the hole", async || {
            call(client.clone(), "").await.landed.as_deref() == Ok(HOLE)
        })
        .await;
        if faults.is_empty() {
            return;
        }
        assert!(still > STILL && run < RUNS_MAX, "a core stood still for {still:?}\n{}", faults.join("\n"));
        run += 1;
    }
}

/// What the calls show that must not be.
fn faults(
    shop: &Shop,
    dug: Instant,
    seen: &[Seen],
    limit: Duration,
    may_fail: bool,
    what: &str,
) -> Vec<String> {
    let address = shop.backends[0].pod.v4.to_string();
    let failed: Vec<&Seen> = seen.iter().filter(|call| call.landed.is_err()).collect();
    let astray = shop.astray();
    let caught = |call: &&Seen| call.landed.is_err() || astray.contains(&call.nonce);
    let last = seen.iter().filter(caught).map(|call| call.began).max();
    let detected = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(dug));
    let after = seen.iter().filter(|call| call.began > dug + detected);
    let slowest = after.map(|call| call.took).max().unwrap_or_default();
    let _ = writeln!(
        std::io::stderr(),
        "netns: a hole, {what} smallest ({limit:?}): {} calls, {} failed, {} were on it; the last was put there \
         {detected:?} after; later the slowest took {slowest:?}",
        seen.len(),
        failed.len(),
        seen.iter().filter(caught).count(),
    );
    let mut faults = Vec::new();
    for said in failed.iter().filter_map(|call| call.landed.as_ref().err()) {
        if !may_fail {
            faults.push(format!("a call failed: {said}"));
        } else if !said.contains(&address) {
            faults.push(format!("a call failed that was not on the hole: {said}"));
        }
    }
    if last.is_none() {
        faults.push("nothing was on it: then this shows nothing".to_owned());
    }
    if detected > limit + NOISE {
        faults.push(format!("calls were put on it for {detected:?}"));
    }
    if slowest >= limit + NOISE {
        faults.push(format!("a call that began later took {slowest:?}"));
    }
    faults
}

#[tokio::test]
async fn a_hole_that_attempts_time_out_on_fails_no_call_that_may_be_repeated() {
    let limit = Duration::from_millis(250);
    let words = "retries: {max_attempts: 4, per_attempt_timeout: 250ms, initial_backoff: 10ms, \
                 retryable_status_codes: [UNAVAILABLE]}";
    let Some(shop) = Shop::open(false, words).await else { return };
    judge(&shop, limit, false, "per_attempt_timeout").await;
}

#[tokio::test]
async fn a_hole_between_sidecars_is_found_by_the_ping() {
    let words = "upstream: {keepalive: {interval: 500ms, timeout: 500ms}}";
    let Some(shop) = Shop::open(true, words).await else { return };
    judge(&shop, Duration::from_secs(1), true, "PING").await;
}

#[tokio::test]
async fn a_hole_without_sidecars_is_found_by_the_user_timeout() {
    let Some(shop) = Shop::open(false, "upstream: {user_timeout: 1s}").await else { return };
    judge(&shop, Duration::from_secs(1), true, "user_timeout").await;
}
