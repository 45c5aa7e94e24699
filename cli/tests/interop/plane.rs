//! A mesh with a control plane, and what its clients are told to begin with: the bootstraps of `docs/interop.md`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use bench::certs::{Leaf, LeafSpec};
use bench::plane::ControlPlane;
use bench::process::Sidecar;
use bench::wait::{PATIENCE, until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::mesh::{Site, sidecar, sidecar_with};

const OWN_ID: &str = "spiffe://cluster.local/ns/outrigger/sa/outrigger-control";
/// The name by which the bootstraps know it.
pub(crate) const NAME: &str = "outrigger-control";
/// Where the bootstraps look for certificates.
const CERTIFICATES: &str = "/etc/outrigger";
/// How long certificates live: they are renewed while the cases run. And how long a new root is trusted before it signs: as long as it
/// may take to reach everybody on a machine that compiles beside it.
const LIVES: &str = "leaf_life: 20s, overlap: 10s";
/// Proxies that do not hold the newest version; and those that have refused something.
const WAITED_FOR: [&str; 2] = ["outrigger_control_proxies_behind", "outrigger_control_proxies_refusing"];

/// The type of what says how to reach a service.
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// Whether there is TLS: to the control plane, and to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// mTLS wherever there may be.
    Certificates,
    /// The same, and the control plane signs the certificates: sidecars join by tokens, and `outrigger certs --write` stands beside
    /// the others.
    Authority,
    /// None, on loopback.
    PlainText,
}

/// A running control plane, and everybody's certificates.
pub(crate) struct Plane {
    pub(crate) site: Site,
    pub(crate) trust: Trust,
    process: ControlPlane,
    folder: PathBuf,
    /// What keeps certificates of programs that are no sidecars.
    keepers: RefCell<Vec<Keeper>>,
}

/// A running `outrigger certs --write` or `--sds`.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
        let (folder, identity) = match trust {
            Trust::Authority => {
                let names = format!("[127.0.0.1, {NAME}]");
                (site.folder("control"), format!("ca: {{folder: ca, {LIVES}, names: {names}}}"))
            }
            _ => (
                site.identity("control", &leaf),
                "identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}".to_owned(),
            ),
        };
        std::fs::create_dir(folder.join("mesh")).expect("a folder");
        for (file, text) in files {
            std::fs::write(folder.join("mesh").join(file), text).expect("a file");
        }
        let yaml = format!(
            "mesh: mesh\nads: {{listen: \"127.0.0.1:0\", plaintext: {}}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             {identity}\n",
            trust == Trust::PlainText
        );
        std::fs::write(folder.join("control.yaml"), yaml).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["control", "control.yaml"]).current_dir(&folder);
        let process = ControlPlane::spawn(command).await.expect("a control plane");
        Self { site, trust, process, folder, keepers: RefCell::default() }
    }

    /// Where it serves xDS.
    pub(crate) fn ads(&self) -> SocketAddr {
        self.process.bound.ads
    }

    /// Replaces a mesh file, and waits until every proxy that has seen what has come of it holds it. Returns the
    /// version of that.
    pub(crate) async fn edit(&self, file: &str, text: &str) -> u64 {
        let version = async || self.page("/mesh").await["version"].as_u64().expect("a version");
        let before = version().await;
        let (path, next) = (self.folder.join("mesh").join(file), self.folder.join(file));
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(&next, &path).expect("a rename");
        let mut edited = before;
        until(format!("{file} is in force; {}", self.process.stderr()), async || {
            edited = version().await;
            edited != before
        })
        .await;
        self.settled(0).await;
        edited
    }

    /// Waits until `count` proxies have acknowledged clusters of this version, or of a newer one.
    ///
    /// # Panics
    /// As [`Plane::settled`].
    pub(crate) async fn taken(&self, version: u64, count: usize) {
        let has_taken = |proxy: &Value| {
            list(&proxy["types"]).iter().any(|of_type| {
                let acked = of_type["acked_version"].as_str().and_then(|acked| acked.parse::<u64>().ok());
                of_type["type"] == CLUSTERS && acked.is_some_and(|acked| acked >= version)
            })
        };
        until(format!("{count} proxies have taken clusters of {version}"), async || {
            self.nothing_is_refused().await;
            self.proxies().await.iter().filter(|proxy| has_taken(proxy)).count() >= count
        })
        .await;
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
        if self.trust == Trust::Authority {
            return self.keep(&self.join(folder, service), service);
        }
        self.site.identity(folder, &self.leaf(service))
    }

    /// A new folder with a join token of a service.
    fn join(&self, folder: &str, service: &str) -> PathBuf {
        let folder = self.site.folder(folder);
        let mut command = self.outrigger();
        command.args(["certs", "token", "ca", "--id", &id(service)]);
        let output = command.output().expect("our own binary");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = folder.join("token");
        std::fs::write(&token, output.stdout).expect("a file");
        std::fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("a mode");
        folder
    }

    /// Has files of certificates kept in a folder, which are there when it returns.
    fn keep(&self, folder: &Path, service: &str) -> PathBuf {
        let kept = folder.join("certs");
        let files = ["tls.crt", "tls.key", "ca.crt"].map(|file| kept.join(file));
        self.agent(folder, service, &["--write", &kept.display().to_string()], &files);
        kept
    }

    /// An agent of a service, the socket where it serves SDS, and a folder for who asks it.
    pub(crate) fn secrets(&self, folder: &str, service: &str) -> (PathBuf, PathBuf) {
        let folder = self.join(folder, service);
        let socket = folder.join("sds.sock");
        self.agent(
            &folder,
            service,
            &["--sds", &format!("unix:{}", socket.display())],
            std::slice::from_ref(&socket),
        );
        (folder, socket)
    }

    /// Runs `outrigger certs` for a service, which is done by when these files are there.
    fn agent(&self, folder: &Path, service: &str, what: &[&str], made: &[PathBuf]) {
        let mut command = self.outrigger();
        command.args(["certs", "--id", &id(service), "--control", &format!("https://{}", self.ads())]);
        command.arg("--bundle").arg(self.bundle()).arg("--token").arg(folder.join("token"));
        command.args(what).stdout(Stdio::null());
        self.keepers.borrow_mut().push(Keeper(command.spawn().expect("our own binary")));
        let begun = std::time::Instant::now();
        while !made.iter().all(|file| file.exists()) {
            assert!(begun.elapsed() < PATIENCE, "{service} has no certificate");
            std::thread::yield_now();
        }
    }

    /// Makes the next root; the certificate.
    pub(crate) fn add_root(&self) -> String {
        let certificates = || -> BTreeSet<PathBuf> {
            let files = std::fs::read_dir(self.folder.join("ca")).expect("a folder");
            let files = files.map(|entry| entry.expect("an entry").path());
            files.filter(|path| path.extension().is_some_and(|end| end == "crt")).collect()
        };
        let before = certificates();
        let output = self.outrigger().args(["certs", "root", "ca"]).output().expect("our own binary");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Vec<PathBuf> = certificates().difference(&before).cloned().collect();
        let [made] = &made[..] else { panic!("one root: {made:?}") };
        std::fs::read_to_string(made).expect("a certificate")
    }

    /// Our own binary, where the control plane runs.
    fn outrigger(&self) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.current_dir(&self.folder);
        command
    }

    /// What everybody trusts.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.join("ca/bundle.pem")
    }

    fn leaf(&self, service: &str) -> Leaf {
        self.site.ca.leaf(&id(service))
    }

    /// Our sidecar of a service; `ways` are `inbound` and `outbound`.
    pub(crate) async fn sidecar(&self, service: &str, ways: &str) -> Sidecar {
        let name = format!("{service}-sidecar");
        if self.trust == Trust::Authority {
            let folder = self.join(&name, service);
            let (ads, bundle) = (self.ads(), self.bundle());
            let mesh = format!("control: [\"https://{ads}\"], bundle: {}", bundle.display());
            let identity = "control: true, token: token, cache: kept";
            return sidecar_with(&folder, service, identity, ways, &mesh).await;
        }
        let folder = self.certificates(&name, service);
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

    /// The bootstrap of an Envoy before an app, which asks an agent for its certificates; it listens on ports that the kernel chooses.
    pub(crate) fn agent_bootstrap(&self, socket: &Path, id: &str, app: SocketAddr) -> String {
        let text = documented("## Envoy with certificates of an agent", "yaml");
        let mut text = self.adapted(&text, Path::new("nowhere"));
        replace(&mut text, "id: payments.shop~host-1", &format!("id: {id}"));
        replace(&mut text, "outbound: 127.0.0.1:15001", "outbound: \"127.0.0.1:0\"");
        replace(&mut text, "port_value: 15000", "port_value: 0");
        replace(&mut text, "address: 0.0.0.0, port_value: 15006", "address: 127.0.0.1, port_value: 0");
        replace(&mut text, "port_value: 50051", &format!("port_value: {}", app.port()));
        replace(&mut text, "/run/outrigger/sds.sock", &socket.display().to_string());
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

/// The SPIFFE id of a service.
fn id(service: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{service}")
}

/// The items of a list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list, not {value}"))
}
