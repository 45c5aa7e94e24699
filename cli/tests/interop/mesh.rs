//! Two sidecars around a server: that of `payments`, which is called, and that of `orders`, which calls.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bench::certs::{Ca, Leaf, write_identity};
use bench::process::Sidecar;
use tempfile::TempDir;
use tokio::process::Command;

/// The service that is called, as callers name it.
pub(crate) const PAYMENTS: &str = "payments.shop";
/// Who serves it.
pub(crate) const PAYMENTS_ID: &str = "spiffe://cluster.local/ns/shop/sa/payments";
/// Who calls it.
pub(crate) const ORDERS_ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";

/// An authority, and folders for those it vouches for.
pub(crate) struct Site {
    pub(crate) ca: Ca,
    folder: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self { ca: Ca::new("cluster.local"), folder: tempfile::tempdir().expect("a folder") }
    }

    /// The sidecar of `payments` in front of a server.
    pub(crate) async fn payments(&self, app: SocketAddr) -> Sidecar {
        let inbound = format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{app}\", mtls: strict}}]\n");
        self.sidecar("payments", PAYMENTS_ID, &inbound, &[]).await
    }

    /// The sidecar of `orders`, which finds `payments` at these addresses.
    pub(crate) async fn orders(&self, endpoints: &[SocketAddr]) -> Sidecar {
        self.orders_with(endpoints, "passthrough").await
    }

    /// [`Site::orders`] with a word on what is not of the mesh.
    pub(crate) async fn orders_with(&self, endpoints: &[SocketAddr], unknown: &str) -> Sidecar {
        let outbound = format!("outbound: {{listen: \"127.0.0.1:0\", unknown: {unknown}}}\n");
        self.sidecar("orders", ORDERS_ID, &outbound, endpoints).await
    }

    /// A file of these contents.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        write(self.folder.path(), name, text);
        self.folder.path().join(name).display().to_string()
    }

    /// A new folder with nothing in it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        folder
    }

    /// A new folder with the files of an identity.
    pub(crate) fn identity(&self, name: &str, leaf: &Leaf) -> PathBuf {
        let folder = self.folder(name);
        write_identity(&folder, leaf, self.ca.bundle_pem()).expect("certificates");
        folder
    }

    async fn sidecar(&self, name: &str, id: &str, ways: &str, endpoints: &[SocketAddr]) -> Sidecar {
        let folder = self.identity(name, &self.ca.leaf(id));
        write(&folder, "mesh.yaml", &mesh(endpoints));
        sidecar(&folder, name, ways, "file: mesh.yaml").await
    }
}

/// Our sidecar of a service, in a folder with its certificates, that takes its mesh as `mesh` says.
pub(crate) async fn sidecar(folder: &Path, service: &str, ways: &str, mesh: &str) -> Sidecar {
    sidecar_with(folder, service, "cert: tls.crt, key: tls.key, bundle: ca.crt", ways, mesh).await
}

/// [`sidecar`], which has its identity as `identity` says.
pub(crate) async fn sidecar_with(
    folder: &Path,
    service: &str,
    identity: &str,
    ways: &str,
    mesh: &str,
) -> Sidecar {
    let yaml = format!(
        "service: {service}\nnamespace: shop\n\
         identity: {{{identity}}}\n{ways}\
         admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
         probes: {{listen: \"127.0.0.1:0\"}}\n\
         mesh: {{{mesh}}}\n"
    );
    write(folder, "sidecar.yaml", &yaml);
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["proxy", "sidecar.yaml"]).current_dir(folder);
    Sidecar::spawn(command).await.unwrap_or_else(|fault| panic!("the sidecar of {service}: {fault}"))
}

fn mesh(endpoints: &[SocketAddr]) -> String {
    let mut yaml = "version: 1\nservices:\n  - {name: orders, namespace: shop}\n".to_owned();
    yaml += "  - name: payments\n    namespace: shop\n";
    // By default two seconds, which a handshake may take on a loaded machine.
    yaml += "    upstream: {connect_timeout: 20s}\n    endpoints:\n";
    for endpoint in endpoints {
        let _ = writeln!(yaml, "      - \"{endpoint}\"");
    }
    if endpoints.is_empty() {
        yaml += "      []\n";
    }
    yaml
}

fn write(folder: &Path, file: &str, text: &str) {
    std::fs::write(folder.join(file), text).unwrap_or_else(|fault| panic!("{file}: {fault}"));
}
