//! Sidecars whose certificates come from a SPIFFE Workload API, as SPIRE's agent serves it, while it rotates leaf and root and goes away.

use std::time::Duration;

use bench::call::Call;
use bench::certs::{Ca, Leaf};
use bench::client::Client;
use bench::spiffe::{Svid, WorkloadApi};
use bench::vigil::{Duty, Vigil};
use bench::wait::until;

use crate::ground::{CALLEE, CALLER, ECHO, Ground, Member, echo};
use crate::streams::{echo_all, end_all, stream};

/// Rotations of root and leaf; each as SPIRE does it, in three steps.
const ROTATIONS: usize = 5;
const PER_SECOND: u32 = 200;
const STREAMS: usize = 20;
const GROWTH_MAX: u64 = 64 << 20;
const LIVE_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn leaves_and_roots_of_a_workload_api_rotate_under_calls_and_streams_and_nothing_fails() {
    let ground = Ground::new("");
    let start = || [CALLER, CALLEE].map(|account| Agent::start(&ground, account));
    // Of the caller, and of the callee; so are leaves and members.
    let agents = start();
    let mut root = Ca::new("cluster.local");
    let mut leaves = agents.each_ref().map(|agent| agent.issues(&root, &[&root]));
    let callee = ground.workload("echo", &agents[1].api.socket, Some(echo("echo").await)).await;
    ground.mesh(&[callee.sidecar.inbound()]);
    let caller = ground.workload("caller", &agents[0].api.socket, None).await;
    let members = [&caller, &callee];
    for member in members {
        member.is_ready().await;
    }
    let shown = caller.identity().await;
    assert_eq!((&shown["source"], &shown["from"]), (&"workload_api".into(), &"workload_api".into()));
    assert_eq!(shown["spiffe_id"], "spiffe://cluster.local/ns/shop/sa/caller");
    caller.reaches_echo().await;

    let mut streams = begin(&caller).await;
    let vigil =
        Vigil::begin(Duty::new(ECHO, PER_SECOND, &[("caller", &caller.sidecar), ("echo", &callee.sidecar)]));
    for rotation in 0..ROTATIONS {
        let next = Ca::new("cluster.local");
        // 1. The next root is trusted; the leaves are those that were there.
        for (agent, leaf) in agents.iter().zip(&leaves) {
            agent.tells(leaf, &[&root, &next]);
        }
        for member in members {
            until("both roots are trusted", async || roots(member).await == 2).await;
            assert_eq!(member.renewals().await, (1 + rotation) as f64, "a new bundle is no new leaf");
        }
        echo_all(&mut streams).await;
        // 2. It signs. First for the callee: else the caller may make a new connection by the callee's old leaf,
        // which is given up with the old root and whatever is on it.
        for at in [1, 0] {
            leaves[at] = agents[at].issues(&next, &[&next, &root]);
            until("the leaf is new", async || members[at].renewals().await == (2 + rotation) as f64).await;
        }
        // Streams that go by the old root are ended by who began them, and new ones take their place.
        echo_all(&mut streams).await;
        end_all(std::mem::replace(&mut streams, begin(&caller).await)).await;
        echo_all(&mut streams).await;
        // 3. The old root is trusted no more.
        for (agent, leaf) in agents.iter().zip(&leaves) {
            agent.tells(leaf, &[&next]);
        }
        for member in members {
            until("one root is trusted", async || roots(member).await == 1).await;
        }
        echo_all(&mut streams).await;
        root = next;
    }

    // The agents go away, and then say that there is no registration entry: what is in force stays.
    drop(agents);
    for member in members {
        until("the agent is missed", async || member.identity().await["trouble"].is_object()).await;
    }
    echo_all(&mut streams).await;
    let agents = start();
    for member in members {
        until("it has no entry for us", async || {
            member.identity().await["trouble"]["reason"] == "no_identity"
        })
        .await;
    }
    caller.reaches_echo().await;
    for agent in &agents {
        agent.issues(&root, &[&root]);
    }
    for member in members {
        until("all is well", async || member.identity().await["trouble"].is_null()).await;
        assert_eq!(member.renewals().await, (2 + ROTATIONS) as f64);
    }
    echo_all(&mut streams).await;
    end_all(streams).await;
    vigil.end().await.nothing_noticed("a Workload API that rotates and goes away", LIVE_MAX, GROWTH_MAX);
}

#[tokio::test]
async fn without_a_registration_entry_a_sidecar_waits_says_why_and_serves_once_there_is_one() {
    let ground = Ground::new("");
    let agent = Agent::start(&ground, CALLER);
    ground.mesh(&[]);
    let member = ground.workload("caller", &agent.api.socket, None).await;
    until("it says why it is not ready", async || {
        let (status, why) = member.readiness().await;
        status == 503
            && why.starts_with("no identity yet: ")
            && why.contains("is there a registration entry for spiffe://cluster.local/ns/shop/sa/caller?")
    })
    .await;
    assert!(member.metric("outrigger_identity_failures_total", &[("reason", "no_identity")]).await > 0.0);
    let root = Ca::new("cluster.local");
    agent.issues(&root, &[&root]);
    member.is_ready().await;
    assert_eq!(member.metric("outrigger_identity_state", &[("state", "ok")]).await, 1.0);
}

/// Streams on one connection, each with a message there and back.
async fn begin(caller: &Member) -> Vec<Call> {
    let client = Client::connect(caller.sidecar.outbound(), None).await.expect("a connection");
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(stream(&client).await);
    }
    echo_all(&mut streams).await;
    streams
}

async fn roots(member: &Member) -> usize {
    member.identity().await["roots"].as_array().map_or(0, Vec::len)
}

/// The agent beside one sidecar.
struct Agent {
    id: String,
    api: WorkloadApi,
}

impl Agent {
    /// One that has no entry for this account yet.
    fn start(ground: &Ground, account: &str) -> Self {
        let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let api = WorkloadApi::start(&ground.path(&format!("{account}.sock")), None).expect("a socket");
        Self { id, api }
    }

    /// A new leaf, and these roots.
    fn issues(&self, signer: &Ca, roots: &[&Ca]) -> Leaf {
        let leaf = signer.leaf(&self.id);
        self.tells(&leaf, roots);
        leaf
    }

    /// This leaf, and these roots.
    fn tells(&self, leaf: &Leaf, roots: &[&Ca]) {
        self.api.tell(Some(vec![Svid::new(&self.id, leaf, roots)]));
    }
}
