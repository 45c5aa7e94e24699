//! The whole store, run by the manifests, while pods, endpoints and certificates are replaced.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::Ipv4Addr;
use std::process::Command;

use bench::dns::NameServer;
use bench::wait::until;
use serde_json::Value;

use crate::ground::{BINARIES, Ground};
use crate::mounts::Plan;
use crate::plane::{Plane, mesh_file};
use crate::pod::{Node, Pod};
use crate::rendered::{Rendered, list, text};
use crate::{authority, make_secrets};

/// Of the names of pods, in seconds; the sidecar keeps an answer for five at least.
const TTL: u32 = 1;

/// What the image of the sidecar may hold.
const IMAGE_BYTES_MAX: u64 = 15 << 20;

pub(crate) fn the_store_works_with_these_files_and_a_roll_out_fails_no_call() {
    run(async {
        let mut cluster = Cluster::start(Ground::Here).await;
        cluster.the_storefront_may_not_charge().await;
        cluster.every_pod_has_callers().await;
        cluster.replace_a_pod("orders").await;
        cluster.rotate_the_root().await;
        cluster.allow_the_storefront_to_charge().await;
        cluster.lose_a_control_plane().await;
        assert_eq!(cluster.failed().await, Vec::<String>::new());
    });
}

pub(crate) fn the_store_works_from_static_binaries_in_empty_roots() {
    let ground = Ground::empty().expect("it was there");
    if let Ground::Empty(binaries) = &ground {
        for binary in BINARIES {
            let bytes = binaries.join(binary).metadata().expect("a binary").len();
            assert!(bytes < IMAGE_BYTES_MAX, "{binary}: {bytes} bytes");
        }
    }
    run(async {
        let cluster = Cluster::start(ground).await;
        cluster.the_storefront_may_not_charge().await;
        cluster.every_pod_has_callers().await;
        assert_eq!(cluster.failed().await, Vec::<String>::new());
        let Cluster { storefront, mut others, planes: _planes, .. } = cluster;
        storefront.end().await;
        others.remove(0).end().await;
    });
}

/// The pods of the store.
struct Cluster {
    /// The shoppers, who call everybody.
    storefront: Pod,
    others: Vec<Pod>,
    planes: Vec<Plane>,
    hosts: Hosts,
    node: Node,
}

impl Cluster {
    async fn start(ground: Ground) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = make_secrets(folder.path());
        let mut hosts = Hosts::new();
        let names = NameServer::start_at(ground.name_server(hosts.next())).await.expect("a name server");
        let node = Node { ground, names, secrets, folder };
        let planes = vec![Plane::start(hosts.next(), &node).await, Plane::start(hosts.next(), &node).await];
        lead_to(&node, &planes);
        let plans = plans(&mut hosts);
        for plan in &plans {
            point(&node, &plan.service, plans.iter());
        }
        let mut others = Vec::new();
        for plan in &plans {
            others.push(Pod::start(plan, &node).await);
        }
        let storefront = others.pop().expect("it is the last");
        assert_eq!(storefront.plan.service, "storefront");
        Self { storefront, others, planes, hosts, node }
    }

    /// Told by the sidecars of payments, once the mesh has come to them and to the caller's.
    async fn the_storefront_may_not_charge(&self) {
        until("the storefront may not charge", async || {
            let code = self.storefront.charge().await;
            assert_ne!(code, "OK");
            code == "PermissionDenied"
        })
        .await;
    }

    async fn every_pod_has_callers(&self) {
        for pod in &self.others {
            until(format!("calls come to {:?}", pod.plan), async || served(pod).await > 0.0).await;
        }
    }

    /// As a Deployment does with `maxSurge: 1`: a new pod comes, callers learn of it, and one of the old goes. Its
    /// address leaves the name when it is told to go.
    async fn replace_a_pod(&mut self, service: &str) {
        let plan = Plan { service: service.to_owned(), host: self.hosts.next() };
        let new = Pod::start(&plan, &self.node).await;
        let at = self.others.iter().position(|pod| pod.plan.service == service).expect("a pod");
        self.others.push(new);
        point(&self.node, service, self.others.iter().map(|pod| &pod.plan));
        let new = self.others.last().expect("it was just pushed");
        until("calls come to the new pod", async || served(new).await > 0.0).await;

        let old = self.others.remove(at);
        point(&self.node, service, self.others.iter().map(|pod| &pod.plan));
        old.end().await;
    }

    /// A second root: it is trusted, then it signs, and everybody has a new leaf by it.
    async fn rotate_the_root(&mut self) {
        let first = self.planes[0].signer().await;
        for pod in self.pods() {
            assert_eq!(signer_of(pod).await.as_ref(), Some(&first), "{:?}", pod.plan);
        }
        let folder = self.node.folder.path().to_owned();
        let made = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(["certs", "root"])
            .arg(authority(&folder))
            .output();
        assert!(made.expect("our own binary").status.success());
        make_secrets(&folder);
        for plane in &mut self.planes {
            plane.remount_authority(&self.node);
        }
        for pod in self.others.iter_mut().chain([&mut self.storefront]) {
            pod.remount(&self.node);
        }
        for plane in &self.planes {
            until("the second root signs", async || plane.signer().await != first).await;
        }
        let second = self.planes[0].signer().await;
        for pod in self.pods() {
            let what = format!("{:?} has a certificate of the second root", pod.plan);
            until(what, async || signer_of(pod).await.as_ref() == Some(&second)).await;
            let metrics = pod.sidecar.metrics().await.expect("a scrape");
            assert_eq!(metrics.value("outrigger_config_rejected_total", &[]), 0.0, "{:?}", pod.plan);
        }
        for pod in &self.others {
            let before = served(pod).await;
            until(format!("calls come to {:?}", pod.plan), async || served(pod).await > before).await;
        }
    }

    /// A change of the mesh file: it reaches the sidecars by way of the control planes.
    async fn allow_the_storefront_to_charge(&mut self) {
        let only_orders = "sa/orders\"]";
        let mesh = mesh_file()
            .replace(only_orders, "sa/orders\", \"spiffe://cluster.local/ns/shop/sa/storefront\"]");
        assert_ne!(mesh, mesh_file());
        for plane in &mut self.planes {
            plane.remount(&mesh);
        }
        until("the storefront may charge", async || self.storefront.charge().await == "OK").await;
    }

    /// One of the control planes is told to go: its sidecars take their mesh from the other.
    async fn lose_a_control_plane(&mut self) {
        let mut lost = self.planes.remove(0);
        lead_to(&self.node, &self.planes);
        lost.control.term();
        let status = lost.control.wait().await.expect("a status");
        assert_eq!(status.code(), Some(0), "{}", lost.control.stderr());
        let (left, pods) = (&self.planes[0], self.pods().count());
        until("every sidecar holds what the other has", async || {
            let answer = left.control.get("/proxies").await.expect("a page");
            let proxies: Vec<Value> = serde_json::from_str(&answer.body).expect("JSON");
            let holds = |proxy: &&Value| {
                let of = list(&proxy["types"]);
                let holds =
                    |one: &Value| one["acked_version"] == one["sent_version"] && one["nack"].is_null();
                of.iter().any(|one| one["acked_version"].is_string()) && of.iter().all(holds)
            };
            proxies.iter().filter(holds).count() == pods
        })
        .await;
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.others.iter().chain([&self.storefront])
    }

    /// The shoppers' calls that did not end OK, each a line. A watch ends with the app that it watches, and
    /// charges were to be denied.
    async fn failed(&self) -> Vec<String> {
        let metrics = self.storefront.sidecar.metrics().await.expect("a scrape");
        let handled = metrics.matching("grpc_client_handled_total", &[]).filter(|sample| {
            let is = |label, value| sample.label(label) == Some(value);
            let expected =
                is("grpc_code", "OK") || is("grpc_method", "WatchOrder") || is("grpc_method", "Charge");
            sample.value > 0.0 && !expected
        });
        handled.map(|sample| format!("{sample:?}")).collect()
    }
}

/// Loopback addresses of this run.
struct Hosts([u8; 2], u8);

impl Hosts {
    fn new() -> Self {
        let [a, b, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
        Self([a.clamp(1, 254), b], 0)
    }

    fn next(&mut self) -> Ipv4Addr {
        let Self([a, b], last) = self;
        *last += 1;
        Ipv4Addr::new(127, *a, *b, *last)
    }
}

/// A pod for each replica; shoppers come when everything is open.
fn plans(hosts: &mut Hosts) -> Vec<Plan> {
    let mut plans = Vec::new();
    for deployment in Rendered::get().all("Deployment") {
        for _ in 0..deployment["spec"]["replicas"].as_u64().expect("replicas") {
            let service = text(&deployment["metadata"]["name"]).to_owned();
            plans.push(Plan { service, host: hosts.next() });
        }
    }
    plans.sort_by_key(|plan| plan.service == "storefront");
    plans
}

/// The name of a headless Service, as long as these are the pods.
fn point<'p>(node: &Node, service: &str, plans: impl Iterator<Item = &'p Plan>) {
    let hosts = plans.filter(|plan| plan.service == service).map(|plan| plan.host.into());
    node.names.point(&format!("{service}-mesh.shop.svc.cluster.local"), &hosts.collect::<Vec<_>>(), TTL);
}

/// The name of the control plane's Service, as long as these are its pods.
fn lead_to(node: &Node, planes: &[Plane]) {
    let hosts: Vec<_> = planes.iter().map(|plane| plane.host.into()).collect();
    node.names.point("outrigger-control.outrigger.svc.cluster.local", &hosts, TTL);
}

async fn served(pod: &Pod) -> f64 {
    let metrics = pod.sidecar.metrics().await.expect("a scrape");
    metrics.value("grpc_server_handled_total", &[("grpc_code", "OK")])
}

/// The name of the root that has signed what the pod shows.
async fn signer_of(pod: &Pod) -> Option<String> {
    let page = pod.sidecar.get("/config").await.expect("a page");
    let page: Value = serde_json::from_str(&page.body).expect("JSON");
    let issuer = page["identity"]["certificate"]["issuer"].as_str()?;
    issuer.split(", ").find_map(|part| part.strip_prefix("CN=")).map(str::to_owned)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}
