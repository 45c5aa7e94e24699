//! A client under test, and the mesh that it is sent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bench::ads::{Ads, Resource, Seen};
use bench::wait::{soon, until};
use config::model::{Dns, Mesh};
use files::Reports;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use xds::audience::Certificates;
use xds::decode::Own;
use xds::{Audience, assemble, encode};

use crate::control::lookup::Lookups;
use crate::control::xds::client::{Client, Link};
use crate::control::xds::connect::Way;
use crate::control::xds::framer::Bounds;
use crate::control::xds::held::Held;
use crate::control::xds::lost::{REASONS, Reason};
use crate::control::xds::node::Me;
use crate::control::xds::patience::{PATIENCE, Patience};
use crate::control::xds::settings::{Address, Protocol, Settings, Who};
use crate::control::xds::state::State;
use crate::dial::Dialled;
use crate::tls::credentials::Credentials;

pub(super) const BOTH: [Protocol; 2] = [Protocol::Delta, Protocol::Sotw];

/// Long enough for a machine that compiles beside, short enough to be waited for.
pub(super) const SHORT: Patience = Patience {
    bounds: Bounds { stall: Duration::from_millis(700), whole: Duration::from_secs(2), ..PATIENCE.bounds },
    first_answer: Duration::from_secs(2),
    spread: Duration::ZERO,
};

/// A running client.
pub(super) struct Running {
    pub(super) link: Link,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a client is started.
pub(super) struct Start {
    pub(super) addresses: Vec<Address>,
    pub(super) protocol: Protocol,
    pub(super) held: Held,
    pub(super) patience: Patience,
    pub(super) bundle: Option<PathBuf>,
    pub(super) vouched: bool,
    pub(super) credentials: watch::Receiver<Option<Arc<Credentials>>>,
}

pub(super) fn at(addr: SocketAddr) -> Address {
    Address { tls: false, host: addr.ip().to_string(), port: addr.port() }
}

pub(super) fn own() -> Own {
    Own { trust_domain: "cluster.local".to_owned(), namespace: "shop".to_owned() }
}

impl Start {
    pub(super) fn new(addr: SocketAddr, protocol: Protocol) -> Self {
        Self {
            addresses: vec![at(addr)],
            protocol,
            held: Held::default(),
            patience: PATIENCE,
            bundle: None,
            vouched: false,
            credentials: watch::channel(None).1,
        }
    }

    pub(super) fn run(self) -> Running {
        let who = Who { service: "orders".to_owned(), namespace: "shop".to_owned(), ..Who::default() };
        let settings = Settings {
            addresses: self.addresses,
            bundle: self.bundle.clone(),
            protocol: self.protocol,
            own: own(),
            node: who.clone(),
            services: vec!["orders.shop".to_owned()],
        };
        let way = Way {
            bundle: self.bundle,
            credentials: self.credentials,
            issued: false,
            vouched: self.vouched,
            lookups: Lookups::new(&Dns::default()),
            dialled: Dialled::default(),
        };
        let reports = Reports::start("outrigger-proxy").expect("a thread");
        let (mut client, link) = Client::new(settings, Me::new(who, "here", 7), way, self.held, reports);
        client.patience = self.patience;
        Running { link, task: tokio::spawn(client.run()) }
    }
}

impl Running {
    pub(super) fn state(&self) -> State {
        self.link.state.borrow().clone()
    }

    /// Waits until the state is as it shall be.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) -> State {
        let mut state = self.link.state.clone();
        soon(what, async { state.wait_for(|state| holds(state)).await.expect("a client").clone() }).await
    }

    /// Waits until the mesh in force is this one.
    pub(super) async fn until_mesh(&self, what: &str, mesh: &Mesh) -> State {
        self.until(what, |state| assembled(state) == *mesh).await
    }

    pub(super) fn lost(&self, reason: Reason) -> u64 {
        self.link.counts.lost(reason)
    }

    pub(super) async fn until_lost(&self, reason: Reason) {
        let all = || REASONS.map(|reason| (reason, self.lost(reason)));
        let what = format!("an end by {reason:?}: {:?}", all());
        until(what, async || self.lost(reason) > 0).await;
    }
}

/// A mesh of three services, of which `users` has its endpoints at these ports.
pub(super) fn mesh(ports: &[u16]) -> Mesh {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("10.0.0.1:{port}")).collect();
    let text = format!(
        "version: 1\n\
         services:\n\
         \x20 - name: orders\n    namespace: shop\n    ports: [50051]\n    endpoints: [10.0.0.2:1]\n\
         \x20 - name: payments\n    namespace: shop\n    ports: [50051]\n    endpoints: [10.0.0.3:1, 10.0.0.3:2]\n\
         \x20   routes: [{{match: {{method: shop.Payment/Charge}}, backends: [{{service: payments}}]}}]\n\
         \x20 - name: users\n    namespace: shop\n    ports: [50051]\n    endpoints: [{}]\n",
        endpoints.join(", ")
    );
    config::parse_mesh(config::Source { name: "mesh.yaml", text: &text }).expect("a mesh")
}

/// What a control plane has of it for our sidecars.
pub(super) fn resources(mesh: &Mesh) -> Vec<Resource> {
    let audience = Audience { client: xds::Client::Outrigger, certificates: Some(Certificates::Own) };
    encode::mesh(mesh, &audience).iter().map(as_sent).collect()
}

pub(super) fn as_sent(one: &xds::Resource) -> Resource {
    Resource {
        type_url: one.kind.type_url().to_owned(),
        name: one.name.clone(),
        version: one.version.clone(),
        value: one.bytes.to_vec(),
    }
}

pub(super) fn assembled(state: &State) -> Mesh {
    assemble::assemble(&state.held.parts(), &own()).mesh
}

/// A control plane that has a mesh, and a client that has it too.
pub(super) async fn settled(protocol: Protocol, ports: &[u16]) -> (Ads, Running) {
    let ads = Ads::start().await.expect("a control plane");
    ads.set(resources(&mesh(ports)));
    let running = Start { patience: SHORT, ..Start::new(ads.addr, protocol) }.run();
    running.until_mesh("the mesh", &mesh(ports)).await;
    (ads, running)
}

pub(super) fn nacks(ads: &Ads) -> Vec<Seen> {
    ads.seen().into_iter().filter(|seen| seen.error.is_some()).collect()
}
