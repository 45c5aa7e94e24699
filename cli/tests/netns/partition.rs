//! The network between sidecars and their control plane is cut, without a word, and calls between the sidecars go on.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::time::Duration;

use bench::certs::{LeafSpec, write_identity};
use bench::http1;
use bench::plane::ControlPlane;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::vigil::{Duty, Vigil};
use bench::wait::{until, within};

use crate::cluster::{Cluster, INBOUND, OUTBOUND, Pod, SIDECAR_UID};

const ADS: u16 = 15_012;
const APP: u16 = 50_051;
const PER_SECOND: u32 = 200;
/// Sidecars know within this that their control plane is gone, and that it is there again.
const KNOWN: Duration = Duration::from_secs(60);
/// `/live` answers within a second; a machine that does other things as well may stand still for some.
const LIVE_MAX: Duration = Duration::from_secs(10);
const GROWTH_MAX: u64 = 64 << 20;

/// A mesh whose `payments` is at these addresses.
fn mesh(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    // By default two seconds to connect, which a handshake may take on a loaded machine.
    format!(
        "version: 1\nservices:\n  - {{name: orders, namespace: shop}}\n  - {{name: payments, namespace: shop, \
         upstream: {{connect_timeout: 20s}}, endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

/// The control plane in a pod of its own.
struct Center {
    pod: Pod,
    plane: ControlPlane,
}

impl Center {
    async fn open(cluster: &Cluster) -> Self {
        let pod = cluster.pod("control").await;
        let spec = LeafSpec {
            uris: vec!["spiffe://cluster.local/ns/shop/sa/control".to_owned()],
            addresses: vec![pod.v4.into()],
            ..LeafSpec::default()
        };
        write_identity(&pod.folder, &cluster.ca.leaf_with(&spec), cluster.ca.bundle_pem()).expect("files");
        fs::create_dir(pod.folder.join("mesh")).expect("a folder");
        let yaml = format!(
            "mesh: mesh\nads: {{listen: \"{}\"}}\nadmin: {{listen: 127.0.0.1:15014}}\n\
             identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n",
            pod.at(ADS)
        );
        fs::write(pod.folder.join("control.yaml"), yaml).expect("a file");
        fs::write(pod.folder.join("mesh/mesh.yaml"), mesh(&[])).expect("a file");
        let mut command = pod.command(0);
        command.args(["control", "control.yaml"]).current_dir(&pod.folder);
        let plane = ControlPlane::spawn(command).await.expect("a control plane");
        for line in [
            "nft add table inet cut",
            "nft add chain inet cut input { type filter hook input priority 0 ; }",
            "nft add chain inet cut output { type filter hook output priority 0 ; }",
        ] {
            pod.namespace.run(line).await;
        }
        Self { pod, plane }
    }

    fn mesh(&self, endpoints: &[SocketAddr]) {
        let folder = self.pod.folder.join("mesh");
        fs::write(folder.join(".next"), mesh(endpoints)).expect("a file");
        fs::rename(folder.join(".next"), folder.join("mesh.yaml")).expect("a rename");
    }

    /// Nothing gets in or out any more.
    async fn cut(&self) {
        self.pod.namespace.run("nft add rule inet cut input iifname eth0 drop").await;
        self.pod.namespace.run("nft add rule inet cut output oifname eth0 drop").await;
    }

    async fn mend(&self) {
        self.pod.namespace.run("nft flush table inet cut").await;
    }
}

/// A sidecar of a pod, by what the control plane says.
async fn sidecar(pod: &Pod, center: &Center, ways: &str) -> Sidecar {
    let control = center.pod.at(ADS);
    pod.configure_with(&format!("{{control: [\"https://{control}\"], cache: cache}}"), ways);
    let cache = pod.folder.join("cache");
    fs::create_dir_all(&cache).expect("a folder");
    chown(&cache, Some(SIDECAR_UID), Some(SIDECAR_UID)).expect("we are root");
    pod.sidecar(&mesh(&[])).await
}

/// A metric of a sidecar, asked for from where the test stands.
async fn value(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)]) -> f64 {
    sidecar.metrics().await.expect("a scrape").value(name, labels)
}

#[tokio::test]
async fn nobody_notices_that_the_control_plane_is_cut_off_and_sidecars_find_it_again() {
    let Some(cluster) = Cluster::open().await else { return };
    let center = Center::open(&cluster).await;
    let orders = cluster.pod("orders").await;
    let mut backends = Vec::new();
    for name in ["one", "two"] {
        let pod = cluster.pod("payments").await;
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), APP);
        let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
        let app = pod.namespace.inside(Server::start_with(at, options)).await.expect("an app");
        let ways = format!("inbound: [{{listen: \"{}\", app: \"{at}\", mtls: strict}}]\n", pod.at(INBOUND));
        let sidecar = sidecar(&pod, &center, &ways).await;
        backends.push((pod, app, sidecar));
    }
    center.mesh(&[backends[0].0.at(INBOUND)]);
    let ways = format!("outbound: {{listen: 127.0.0.1:{OUTBOUND}}}\n");
    let caller = sidecar(&orders, &center, &ways).await;
    until("the first mesh is on disk", async || {
        value(&caller, "outrigger_mesh_cache_writes_total", &[]).await > 0.0
    })
    .await;
    let all = [("caller", &caller), ("one", &backends[0].2), ("two", &backends[1].2)];
    let vigil = orders.namespace.within(|| Vigil::begin(Duty::new("payments.shop", PER_SECOND, &all)));
    let lands_on = async |name: &str| {
        vigil.landed();
        let calls = vigil.calls() + 100;
        until("calls go on", async || vigil.calls() > calls).await;
        vigil.landed().keys().eq([name])
    };
    until("calls land on one", async || lands_on("one").await).await;

    center.cut().await;
    center.mesh(&[backends[1].0.at(INBOUND)]);
    let lost = async {
        for (_, sidecar) in &all {
            while value(sidecar, "outrigger_control_losses_total", &[]).await == 0.0 {
                assert!(lands_on("one").await, "what was in force stays so");
            }
        }
    };
    within(KNOWN, "all know that it is gone", lost).await;
    for (name, sidecar) in &all {
        until(format!("{name} says so"), async || sidecar.stderr().contains("what was in force stays so"))
            .await;
        assert_eq!(value(sidecar, "outrigger_control_connected", &[]).await, 0.0, "{name}");
    }
    assert!(lands_on("one").await);
    let lives = center.pod.namespace.inside(http1::get(center.plane.bound.admin, "/live")).await;
    assert_eq!(lives.expect("it lives").status, 200);

    center.mend().await;
    let found = async { while !lands_on("two").await {} };
    within(KNOWN, "the change arrives", found).await;
    vigil.end().await.nothing_noticed("cut off", LIVE_MAX, GROWTH_MAX);
}
