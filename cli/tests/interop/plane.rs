//! A mesh with a control plane, and what its clients are told to begin with: the bootstraps of `docs/interop.md`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bench::certs::{Leaf, LeafSpec};
use bench::plane::ControlPlane;
use bench::process::Sidecar;
use bench::wait::until;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::mesh::{Site, sidecar};

const OWN_ID: &str = "spiffe://cluster.local/ns/outrigger/sa/outrigger-control";
/// The name by which the bootstraps know it.
const NAME: &str = "outrigger-control";
/// Where the bootstraps look for certificates.
const CERTIFICATES: &str = "/etc/outrigger";
/// Proxies that do not hold the newest version; and those that have refused something.
const WAITED_FOR: [&str; 2] = ["outrigger_control_proxies_behind", "outrigger_control_proxies_refusing"];

/// Whether there is TLS: to the control plane, and to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// mTLS wherever there may be.
    Certificates,
    /// None, on loopback.
    PlainText,
}

/// A running control plane, and everybody's certificates.
pub(crate) struct Plane {
    pub(crate) site: Site,
    pub(crate) trust: Trust,
    process: ControlPlane,
    folder: PathBuf,
}

impl Plane {
    /// One that serves these mesh files.
    pub(crate) async fn start(trust: Trust, files: &[(&str, &str)]) -> Self {
        let site = Site::new();
        let leaf = site.ca.leaf_with(&LeafSpec {
            uris: vec![OWN_ID.to_owned()],
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            names: vec![NAME.to_owned()],
            ..LeafSpec::default()
        });
        let folder = site.identity("control", &leaf);
        std::fs::create_dir(folder.join("mesh")).expect("a folder");
        for (file, text) in files {
            std::fs::write(folder.join("mesh").join(file), text).expect("a file");
        }
        let yaml = format!(
            "mesh: mesh\nads: {{listen: \"127.0.0.1:0\", plaintext: {}}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n",
            trust == Trust::PlainText
        );
        std::fs::write(folder.join("control.yaml"), yaml).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["control", "control.yaml"]).current_dir(&folder);
        let process = ControlPlane::spawn(command).await.expect("a control plane");
        Self { site, trust, process, folder }
    }

    /// Where it serves xDS.
    pub(crate) fn ads(&self) -> SocketAddr {
        self.process.bound.ads
    }

    /// Replaces a mesh file, and waits until every proxy holds what has come of it.
    pub(crate) async fn edit(&self, file: &str, text: &str) {
        let before = self.page("/mesh").await["version"].clone();
        let (path, next) = (self.folder.join("mesh").join(file), self.folder.join(file));
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(&next, &path).expect("a rename");
        until(format!("{file} is in force; {}", self.process.stderr()), async || {
            self.page("/mesh").await["version"] != before
        })
        .await;
        self.settled(0).await;
    }

    /// Waits until at least `count` proxies are connected and all of them hold the newest version of all they have asked for.
    ///
    /// # Panics
    /// When one of them has refused something, with its reason.
    pub(crate) async fn settled(&self, count: usize) {
        until(format!("{count} proxies hold the newest version"), async || {
            self.nothing_is_refused().await;
            let connected = self.proxies().await.len();
            let metrics = self.process.metrics().await.expect("a scrape");
            connected >= count && WAITED_FOR.iter().all(|name| metrics.value(name, &[]) == 0.0)
        })
        .await;
    }

    /// # Panics
    /// When a proxy has refused something, or ever did.
    pub(crate) async fn nothing_is_refused(&self) {
        for proxy in self.proxies().await {
            for of_type in list(&proxy["types"]) {
                assert!(of_type["nack"].is_null(), "{} refuses: {of_type:#}", proxy["id"]);
            }
        }
        let metrics = self.process.metrics().await.expect("a scrape");
        assert_eq!(
            metrics.value("outrigger_control_nacks_total", &[]),
            0.0,
            "somebody has refused something"
        );
    }

    /// `/proxies`.
    pub(crate) async fn proxies(&self) -> Vec<Value> {
        list(&self.page("/proxies").await).to_vec()
    }

    /// The full names of all services.
    pub(crate) async fn services(&self) -> Vec<String> {
        let mesh = self.page("/mesh").await;
        list(&mesh["services"]).iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    async fn page(&self, path: &str) -> Value {
        let answer = self.process.get(path).await.expect("a page");
        serde_json::from_str(&answer.body).unwrap_or_else(|fault| panic!("{path}: {fault}: {}", answer.body))
    }

    /// A new folder with the identity of a service.
    pub(crate) fn certificates(&self, folder: &str, service: &str) -> PathBuf {
        self.site.identity(folder, &self.leaf(service))
    }

    fn leaf(&self, service: &str) -> Leaf {
        self.site.ca.leaf(&format!("spiffe://cluster.local/ns/shop/sa/{service}"))
    }

    /// Our sidecar of a service; `ways` are `inbound` and `outbound`.
    pub(crate) async fn sidecar(&self, service: &str, ways: &str) -> Sidecar {
        let folder = self.certificates(&format!("{service}-sidecar"), service);
        let scheme = if self.trust == Trust::Certificates { "https" } else { "http" };
        sidecar(&folder, service, ways, &format!("control: [\"{scheme}://{}\"]", self.ads())).await
    }

    /// The bootstrap of a gRPC program of a service, in a folder with its certificates: as the docs have it, but for where
    /// things are.
    pub(crate) fn grpc_bootstrap(&self, folder: &Path, id: &str, service: &str) -> PathBuf {
        let text = self.adapted(&documented("## Proxyless gRPC", "json"), folder);
        let mut bootstrap: Value = serde_json::from_str(&text).expect("JSON");
        let node = &mut bootstrap["node"];
        node["id"] = json!(id);
        node["metadata"]["outrigger"]["service"] = json!(service);
        if self.trust == Trust::PlainText {
            let node = node["metadata"]["outrigger"].as_object_mut().expect("an object");
            node.remove("certificate_provider").expect("it is in the docs");
            bootstrap["xds_servers"][0]["channel_creds"] = json!([{"type": "insecure"}]);
        }
        let file = folder.join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string()).expect("a file");
        file
    }

    /// The bootstrap of an Envoy; it listens on ports that the kernel chooses.
    pub(crate) fn envoy_bootstrap(&self, folder: &Path, id: &str) -> String {
        let mut text = self.adapted(&documented("## Envoy on the control plane", "yaml"), folder);
        replace(&mut text, "id: orders.shop~host-1", &format!("id: {id}"));
        replace(&mut text, "outbound: 127.0.0.1:15001", "outbound: \"127.0.0.1:0\"");
        replace(&mut text, "port_value: 15000", "port_value: 0");
        if self.trust == Trust::PlainText {
            let tls = text.find("    transport_socket:").expect("it is in the docs");
            text.truncate(tls);
            let certificates = text.find("      certificates: {").expect("it is in the docs");
            let end = text[certificates..].find('\n').expect("a line");
            text.replace_range(certificates..=certificates + end, "");
        }
        text
    }

    fn adapted(&self, text: &str, folder: &Path) -> String {
        let mut text = text.replace(CERTIFICATES, &folder.display().to_string());
        let (ip, port) = (self.ads().ip(), self.ads().port());
        if text.contains("server_uri") {
            replace(&mut text, &format!("dns:///{NAME}:15012"), &format!("{ip}:{port}"));
        } else {
            let (written, own) =
                (format!("address: {NAME}, port_value: 15012"), format!("address: {ip}, port_value: {port}"));
            replace(&mut text, &written, &own);
        }
        text
    }
}

/// The first block of code in this language behind a heading of `docs/interop.md`.
fn documented(heading: &str, language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
    let page = std::fs::read_to_string(page).expect("the docs");
    let (_, section) = page.split_once(&format!("\n{heading}\n")).expect("the section");
    let (_, block) = section.split_once(&format!("\n```{language}\n")).expect("a block");
    block.split_once("```").expect("its end").0.to_owned()
}

fn replace(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from:?} stands once in {text}");
    *text = text.replace(from, to);
}

/// The items of a list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list, not {value}"))
}
