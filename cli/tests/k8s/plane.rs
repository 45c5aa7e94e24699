//! A pod of the control plane without Kubernetes: its process on a loopback address of its own, by the words of its
//! Deployment.

use std::net::Ipv4Addr;

use bench::plane::ControlPlane;
use serde_json::Value;

use crate::hardening::config_map_of;
use crate::mounts::{Mounts, here, secret};
use crate::pod::{Node, context, group};
use crate::rendered::{Rendered, pod, text};

/// What is other than in the manifest: days are seconds, so that certificates are renewed while somebody watches.
const LIVES: &str = "  leaf_life: 20s\n  overlap: 10s\n";

/// A running pod.
pub(crate) struct Plane {
    pub(crate) host: Ipv4Addr,
    pub(crate) control: ControlPlane,
    mesh: Mounts,
    ca: Mounts,
}

/// The mesh file as it is in the ConfigMap, with more time for everything: a machine that stands still for two
/// seconds is no fault of it.
pub(crate) fn mesh_file() -> String {
    let file = text(&Rendered::control().one("ConfigMap", "mesh")["data"]["store.yaml"]);
    let (deadline, domain) = ("deadline: {default: 2s, max: 5s}", "trust_domain: cluster.local\n");
    assert!(file.contains(deadline) && file.contains(domain), "{file}");
    file.replace(deadline, "deadline: {default: 1m, max: 1m}")
        .replace(domain, &format!("{domain}defaults: {{upstream: {{connect_timeout: 20s}}}}\n"))
}

impl Plane {
    pub(crate) async fn start(host: Ipv4Addr, node: &Node) -> Self {
        let root = node.folder.path().join(host.to_string());
        let [place, folder] =
            ["etc/mesh", "etc/ca"].map(|inside| node.ground.place(&root, inside).display().to_string());
        let file = text(&config_map_of(Rendered::control(), "control")["data"]["control.yaml"]);
        let file = here(file, host).replace("/etc/mesh", &place);
        let file = file.replace("folder: /etc/ca\n", &format!("folder: {folder}\n{LIVES}"));
        assert!(file.contains(LIVES), "{file}");
        Mounts::new(root.join("etc/outrigger")).replace(&[("control.yaml".to_owned(), file)]);
        let mut ca = Mounts::new(root.join("etc/ca"));
        ca.replace(&secret(&node.secrets, "outrigger-ca"));
        let mut mesh = Mounts::new(root.join("etc/mesh"));
        mesh.replace(&[("store.yaml".to_owned(), mesh_file())]);
        let deployment = deployment();
        node.ground.furnish(&root, group(deployment), node.names.addr);

        let command = node.ground.control(&root, &context(deployment, &pod(deployment)["containers"][0]));
        let control = ControlPlane::spawn(command).await;
        let control = control.unwrap_or_else(|fault| panic!("the control plane at {host}: {fault}"));
        Self { host, control, mesh, ca }
    }

    /// Brings its authority up to date, as the kubelet does.
    pub(crate) fn remount_authority(&mut self, node: &Node) {
        self.ca.replace(&secret(&node.secrets, "outrigger-ca"));
    }

    /// The name of the root that it signs by.
    pub(crate) async fn signer(&self) -> String {
        let page = self.control.get("/ca").await.expect("a page");
        let page: Value = serde_json::from_str(&page.body).expect("JSON");
        text(&page["signer"]).to_owned()
    }

    /// Brings its mesh up to date, as the kubelet does.
    pub(crate) fn remount(&mut self, mesh: &str) {
        self.mesh.replace(&[("store.yaml".to_owned(), mesh.to_owned())]);
    }
}

fn deployment() -> &'static Value {
    Rendered::control().one("Deployment", "outrigger-control")
}
