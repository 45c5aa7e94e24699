//! Two sidecars and an app: that of `orders`, which calls, and that of `payments`, which is called.

use std::net::SocketAddr;

use bench::certs::{Ca, write_identity};
use bench::process::Sidecar;
use bench::server::Server;
use tempfile::TempDir;
use tokio::process::Command;

/// The service that is called.
pub(crate) const PAYMENTS: &str = "payments.shop";
/// A service whose endpoint is not there.
pub(crate) const GONE: &str = "gone.shop";

pub(crate) struct Site {
    pub(crate) orders: Sidecar,
    pub(crate) payments: Sidecar,
    _app: Server,
    _folder: TempDir,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let (ca, folder) = (Ca::new("cluster.local"), tempfile::tempdir().expect("a folder"));
        let app = Server::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a server");
        let inbound =
            format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: strict}}]\n", app.addr);
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let payments = sidecar(&ca, &folder, "payments", &inbound, nobody).await;
        let outbound = "outbound: {listen: \"127.0.0.1:0\"}\n";
        let orders = sidecar(&ca, &folder, "orders", outbound, payments.inbound()).await;
        Self { orders, payments, _app: app, _folder: folder }
    }
}

async fn sidecar(ca: &Ca, folder: &TempDir, name: &str, way: &str, payments: SocketAddr) -> Sidecar {
    let folder = folder.path().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    let leaf = ca.leaf(&format!("spiffe://cluster.local/ns/shop/sa/{name}"));
    write_identity(&folder, &leaf, ca.bundle_pem()).expect("certificates");
    let sidecar = format!(
        "service: {name}\nnamespace: shop\nidentity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n{way}\
         admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\nprobes: {{listen: \"127.0.0.1:0\"}}\n\
         mesh: {{file: mesh.yaml}}\n"
    );
    std::fs::write(folder.join("sidecar.yaml"), sidecar).expect("a file");
    std::fs::write(folder.join("mesh.yaml"), mesh(payments)).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["proxy", "sidecar.yaml"]).current_dir(&folder);
    Sidecar::spawn(command).await.unwrap_or_else(|fault| panic!("the sidecar of {name}: {fault}"))
}

fn mesh(payments: SocketAddr) -> String {
    format!(
        "version: 1
services:
  - {{name: orders, namespace: shop}}
  - {{name: gone, namespace: shop, endpoints: [\"127.0.0.1:1\"]}}
  - name: payments
    namespace: shop
    # By default two seconds, which a handshake may take on a loaded machine.
    upstream: {{connect_timeout: 20s}}
    endpoints: [\"{payments}\"]
    methods:
      bench.Echo/Unary: {{type: unary}}
      bench.Echo/Bidi: {{type: bidi_stream}}
    inbound:
      authorization:
        - allow: {{methods: [bench.Echo/Unary, bench.Echo/Bidi]}}
"
    )
}
