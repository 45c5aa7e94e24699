//! A control plane, a folder of mesh files, and sidecars with certificates of one authority.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bench::certs::{Ca, LeafSpec, write_identity};
use bench::client::Client;
use bench::plane::ControlPlane;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use tempfile::TempDir;
use tokio::process::Command;

use crate::loopback::own_host;

/// All that a test needs.
pub(crate) struct Plant {
    dir: TempDir,
    /// Where whoever comes back listens again.
    pub(crate) host: Ipv4Addr,
    pub(crate) ca: Ca,
    apps: std::cell::RefCell<Vec<Server>>,
}

impl Plant {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (host, ca) = (own_host(), Ca::new("cluster.local"));
        let plant = Self { dir, host, ca, apps: Default::default() };
        std::fs::create_dir(plant.dir.path().join("mesh")).expect("a folder");
        plant.mesh(&[], "");
        plant
    }

    fn folder(&self, name: &str, account: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let spec = LeafSpec {
            uris: vec![format!("spiffe://cluster.local/ns/shop/sa/{account}")],
            addresses: vec![Ipv4Addr::LOCALHOST.into(), self.host.into()],
            ..LeafSpec::default()
        };
        write_identity(&folder, &self.ca.leaf_with(&spec), self.ca.bundle_pem())
            .expect("files of an identity");
        folder
    }

    /// Writes the mesh of [`mesh_of`].
    pub(crate) fn mesh(&self, endpoints: &[SocketAddr], more: &str) {
        self.write(&mesh_of(endpoints, more));
    }

    /// Writes this mesh.
    pub(crate) fn write(&self, text: &str) {
        let folder = self.dir.path().join("mesh");
        std::fs::write(folder.join(".mesh.next"), text).expect("a file");
        std::fs::rename(folder.join(".mesh.next"), folder.join("mesh.yaml")).expect("a rename");
    }

    /// Takes the only mesh file away.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.dir.path().join("mesh/mesh.yaml")).expect("there was one");
    }

    /// The control plane.
    pub(crate) async fn control(&self, more: &str) -> ControlPlane {
        self.control_at((self.host, 0).into(), more).await
    }

    /// The control plane with its ADS at an address, as one that comes back.
    pub(crate) async fn control_at(&self, ads: SocketAddr, more: &str) -> ControlPlane {
        let folder = self.folder("control", "control");
        let yaml = format!(
            "{}\nads: {{listen: \"{ads}\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\nregistration: {{grace: 1s}}\n\
             identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n",
            more.replace("mesh: mesh", "mesh: ../mesh")
        );
        std::fs::write(folder.join("control.yaml"), yaml).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["control", "control.yaml"]).current_dir(folder);
        ControlPlane::spawn(command).await.expect("a control plane")
    }

    /// The sidecar of `caller.shop`; `more` belongs to `mesh`.
    pub(crate) async fn caller(&self, control: &ControlPlane, more: &str) -> Sidecar {
        told(self.caller_of(&address(control), more).await, control)
    }

    /// The same, whatever control plane is at an address.
    pub(crate) async fn caller_of(&self, address: &str, more: &str) -> io::Result<Sidecar> {
        self.another_caller("caller", address, more).await
    }

    /// Another sidecar of `caller.shop`, in a folder of this name.
    pub(crate) async fn another_caller(&self, name: &str, address: &str, more: &str) -> io::Result<Sidecar> {
        self.sidecar(name, "caller", "outbound: {listen: \"127.0.0.1:0\"}", address, more).await
    }

    /// A sidecar of `echo.shop`, in front of an app of this name.
    pub(crate) async fn callee(&self, name: &str, control: &ControlPlane, more: &str) -> Sidecar {
        self.callee_at(name, ([127, 0, 0, 1], 0).into(), control, more).await
    }

    pub(crate) async fn callee_at(
        &self,
        name: &str,
        at: SocketAddr,
        control: &ControlPlane,
        more: &str,
    ) -> Sidecar {
        told(self.callee_of(name, at, &address(control), more).await, control)
    }

    /// The same, whatever control plane is at an address.
    pub(crate) async fn callee_of(
        &self,
        name: &str,
        at: SocketAddr,
        address: &str,
        more: &str,
    ) -> io::Result<Sidecar> {
        let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
        let app = Server::start_with(([127, 0, 0, 1], 0).into(), options).await.expect("an app");
        let ways_in = format!("inbound: [{{listen: \"{at}\", app: \"{}\", mtls: strict}}]", app.addr);
        self.apps.borrow_mut().push(app);
        self.sidecar(name, "echo", &ways_in, address, more).await
    }

    async fn sidecar(
        &self,
        name: &str,
        service: &str,
        ways_in: &str,
        address: &str,
        more: &str,
    ) -> io::Result<Sidecar> {
        let folder = self.folder(name, service);
        let yaml = format!(
            "service: {service}\nnamespace: shop\nworkers: 1\n{ways_in}\nadmin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\ndrain: {{lag: 1s, deadline: 1s}}\n\
             identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n\
             mesh: {{control: [\"{address}\"], {more}}}\n"
        );
        std::fs::write(folder.join("sidecar.yaml"), yaml).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["proxy", "sidecar.yaml"]).current_dir(folder);
        Sidecar::spawn(command).await
    }

    /// A folder of this name, with a copy of the cache of `caller`.
    pub(crate) fn copy_cache(&self, name: &str) {
        let to = self.dir.path().join(name).join("cache");
        std::fs::create_dir_all(&to).expect("a folder");
        std::fs::copy(self.cache(), to.join("caller.shop.mesh")).expect("a cache");
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("caller/cache/caller.shop.mesh")
    }

    /// The cache of `caller`, as far as it is text; empty: there is none.
    pub(crate) fn cached(&self) -> String {
        std::fs::read(self.cache())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

/// A mesh: `caller`, and `echo` with these endpoints, which lets `caller` in; `more` services.
pub(crate) fn mesh_of(endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    // By default two seconds to connect, which a handshake may take on a loaded machine.
    format!(
        "version: 1\nservices:\n  - {{name: caller, namespace: shop}}\n  - name: echo\n    namespace: shop\n    registration: true\n    \
         upstream: {{connect_timeout: 20s}}\n    endpoints: [{}]\n    inbound: {{authorization: [{{allow: {{from: [spiffe://cluster.local/ns/shop/sa/caller]}}}}]}}\n{more}",
        endpoints.join(", ")
    )
}

pub(crate) fn address(control: &ControlPlane) -> String {
    format!("https://{}", control.bound.ads)
}

fn told(sidecar: io::Result<Sidecar>, control: &ControlPlane) -> Sidecar {
    sidecar.unwrap_or_else(|fault| panic!("{fault}\ncontrol plane:\n{}", control.stderr()))
}

/// Where a call to `echo` lands; empty: nowhere.
pub(crate) async fn landed(caller: &Sidecar) -> String {
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let outcome = client.unary("echo.shop", "/bench.Echo/Unary", b"ping").await.expect("a call");
    outcome.headers.get("x-server").map_or_else(String::new, |name| name.to_str().expect("a name").to_owned())
}
