//! A pod of the control plane without Kubernetes: its process on a loopback address of its own, by the words of its
//! Deployment.

use std::net::Ipv4Addr;

use bench::plane::ControlPlane;
use serde_json::Value;

use crate::hardening::config_map_of;
use crate::mounts::{Mounts, here, identity};
use crate::pod::{Node, context, group};
use crate::rendered::{Rendered, pod, text};

/// A running pod.
pub(crate) struct Plane {
    pub(crate) host: Ipv4Addr,
    pub(crate) control: ControlPlane,
    mesh: Mounts,
}

/// The mesh file as it is in the ConfigMap.
pub(crate) fn mesh_file() -> &'static str {
    text(&Rendered::control().one("ConfigMap", "mesh")["data"]["store.yaml"])
}

impl Plane {
    pub(crate) async fn start(host: Ipv4Addr, node: &Node) -> Self {
        let root = node.folder.path().join(host.to_string());
        let place = node.ground.place(&root, "etc/mesh").display().to_string();
        let file = text(&config_map_of(Rendered::control(), "control")["data"]["control.yaml"]);
        let mut files = vec![("control.yaml".to_owned(), here(file, host).replace("/etc/mesh", &place))];
        files.extend(identity(&node.secrets, "outrigger-control"));
        Mounts::new(root.join("etc/outrigger")).replace(&files);
        let mut mesh = Mounts::new(root.join("etc/mesh"));
        mesh.replace(&[("store.yaml".to_owned(), mesh_file().to_owned())]);
        let deployment = deployment();
        node.ground.furnish(&root, group(deployment), node.names.addr);

        let command = node.ground.control(&root, &context(deployment, &pod(deployment)["containers"][0]));
        let control = ControlPlane::spawn(command).await;
        let control = control.unwrap_or_else(|fault| panic!("the control plane at {host}: {fault}"));
        Self { host, control, mesh }
    }

    /// Brings its mesh up to date, as the kubelet does.
    pub(crate) fn remount(&mut self, mesh: &str) {
        self.mesh.replace(&[("store.yaml".to_owned(), mesh.to_owned())]);
    }
}

fn deployment() -> &'static Value {
    Rendered::control().one("Deployment", "outrigger-control")
}
