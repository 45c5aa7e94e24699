//! `outrigger certs --sds` and `--write`, as processes, against a CA that is scripted.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::authority::{Authority, By};
use bench::certs::Ca;
use bench::plane::ControlPlane;
use bench::wait::{PATIENCE, soon, until};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use identity::material::Material;
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";

/// A CA, the files of who asks it, and the command's arguments.
struct Ground {
    folder: TempDir,
    authority: Authority,
}

impl Ground {
    async fn new(life: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::start(Ca::new("cluster.local"), life).await.unwrap();
        std::fs::write(folder.path().join("bundle.pem"), &authority.bundle).unwrap();
        std::fs::write(folder.path().join("token"), "good.token").unwrap();
        Self { folder, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.current_dir(self.folder.path()).arg("certs").args(more);
        command.args(["--control", &format!("https://{}", self.authority.addr)]);
        command.args(["--bundle", "bundle.pem", "--token", "token", "--id", ID]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs it until its first line.
    async fn run(&self, more: &[&str]) -> (Child, Value) {
        let mut child = self.command(more).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        soon("the first line", stdout.read_line(&mut line)).await.unwrap();
        if line.is_empty() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
            panic!("no first line; it says: {said}");
        }
        (child, serde_json::from_str(&line).unwrap())
    }
}

/// What a reader finds who opens the three files by their names, which belong together.
fn read(folder: &Path) -> Option<Material> {
    let data = folder.canonicalize().ok()?;
    let files = config::identity::Identity {
        cert: data.join("tls.crt"),
        key: data.join("tls.key"),
        bundle: data.join("ca.crt"),
    };
    Material::read(&files, std::time::SystemTime::now()).ok()
}

#[tokio::test]
async fn three_files_are_swapped_together_at_each_renewal_and_the_key_is_private() {
    let ground = Ground::new(Duration::from_secs(4)).await;
    let (mut child, first) = ground.run(&["--write", "out"]).await;
    assert_eq!((first["id"].as_str(), first["write"].as_str()), (Some(ID), Some("out")));
    let out = ground.path("out");
    until("the files", async || out.join("tls.crt").exists()).await;
    let mode = |name: &str| std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("tls.crt"), mode("tls.key"), mode("ca.crt")), (0o644, 0o600, 0o644));
    assert_eq!((mode("."), mode("..data")), (0o755, 0o755), "an app of another user gets to them");
    let mut seen = Vec::new();
    until("three certificates", async || {
        // Each look goes through the link once, as a process does that is careful.
        let link = out.join("..data");
        if let Some(material) = read(&link) {
            let provider = rustls_provider();
            let whole = rustls::sign::CertifiedKey::from_der(
                material.chain.clone(),
                material.key.clone_key(),
                &provider,
            );
            whole.expect("the key is that of the certificate beside it");
            if seen.last() != Some(&material.digest) {
                seen.push(material.digest);
            }
        }
        seen.len() >= 3
    })
    .await;
    let names =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let folders = names.filter(|name| name.starts_with("..") && name.len() == 18).count();
    assert!((1..=3).contains(&folders), "{folders} generations are there");
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    // SAFETY: the process is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert!(soon("its end", child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn whoever_finds_one_of_the_three_files_finds_them_all() {
    let ground = Ground::new(Duration::from_secs(3_600)).await;
    for turn in 0..20 {
        let out = format!("out{turn}");
        let mut child = ground.command(&["--write", &out, "--once"]).spawn().unwrap();
        let folder = ground.path(&out);
        let eager = tokio::task::spawn_blocking(move || {
            let end = Instant::now() + PATIENCE;
            while !folder.join("tls.crt").exists() {
                assert!(Instant::now() < end, "no certificate");
            }
            ["tls.key", "ca.crt"].map(|name| folder.join(name).exists())
        });
        assert_eq!(eager.await.unwrap(), [true, true], "in turn {turn}");
        assert!(soon("its end", child.wait()).await.unwrap().success());
    }
}

fn rustls_provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[tokio::test]
async fn an_init_container_ends_with_the_first_certificate_and_a_foreign_file_is_not_overwritten() {
    let ground = Ground::new(Duration::from_secs(3_600)).await;
    let done = soon("its end", ground.command(&["--write", "out", "--once"]).output()).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(read(&ground.path("out/..data")).is_some());
    assert_eq!(ground.authority.given(), [By::Token("good.token".to_owned())]);
    for theirs in ["file", "link"] {
        std::fs::create_dir(ground.path(theirs)).unwrap();
        let key = ground.path(theirs).join("tls.key");
        match theirs {
            "file" => std::fs::write(key, "theirs").unwrap(),
            _ => symlink("/elsewhere/tls.key", key).unwrap(),
        }
        let done = soon("its end", ground.command(&["--write", theirs, "--once"]).output()).await.unwrap();
        assert_eq!(done.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&done.stderr).contains("tls.key is there already"), "{theirs}");
    }
    assert_eq!(ground.authority.given().len(), 1, "nothing was asked for in vain");
}

async fn client(socket: PathBuf) -> SecretDiscoveryServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    SecretDiscoveryServiceClient::new(soon("the socket", endpoint.connect()).await.unwrap())
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    response.resources.iter().map(|any| Secret::decode(any.value.as_slice()).unwrap()).collect()
}

/// The certificate of a secret, or the roots.
fn text(secret: &Secret) -> String {
    let source = match secret.r#type.as_ref().unwrap() {
        Type::TlsCertificate(certificate) => {
            assert!(certificate.private_key.is_some());
            certificate.certificate_chain.clone()
        }
        Type::ValidationContext(context) => context.trusted_ca.clone(),
        _ => None,
    };
    let Some(Specifier::InlineString(text)) = source.unwrap().specifier else { panic!("not inline") };
    text
}

#[tokio::test]
async fn envoys_sds_is_served_in_all_three_ways_and_each_renewal_is_pushed() {
    let ground = Ground::new(Duration::from_secs(4)).await;
    let (_child, first) = ground.run(&["--sds", "unix:run/sds.sock"]).await;
    assert_eq!(first["sds"], "unix:run/sds.sock");
    let socket = ground.path("run/sds.sock");
    let found = std::fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o777 == 0o600);

    let mut sds = client(socket.clone()).await;
    let ask = |names: &[&str]| DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    };
    let fetched =
        soon("a fetch", sds.fetch_secrets(ask(&["ROOTCA", ID, "nobody"]))).await.unwrap().into_inner();
    let fetched = secrets(&fetched);
    assert_eq!(fetched.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["ROOTCA", ID]);

    let (requests, stream) = mpsc::channel(1);
    requests.send(ask(&["default", "ROOTCA"])).await.unwrap();
    let mut answers =
        soon("a stream", sds.stream_secrets(ReceiverStream::new(stream))).await.unwrap().into_inner();
    let both = soon("both", answers.message()).await.unwrap().unwrap();
    assert_eq!(secrets(&both).len(), 2);
    let before = secrets(&both).iter().find(|secret| secret.name == "default").map(text).unwrap();
    let ack = DiscoveryRequest {
        response_nonce: both.nonce.clone(),
        version_info: both.version_info,
        ..ask(&["default", "ROOTCA"])
    };
    requests.send(ack).await.unwrap();
    let renewed = soon("a renewal", answers.message()).await.unwrap().unwrap();
    let only = secrets(&renewed);
    assert_eq!(only.len(), 1, "the roots have not changed");
    assert_ne!(text(&only[0]), before);
    assert_ne!(renewed.nonce, both.nonce);

    let (requests, stream) = mpsc::channel(1);
    let subscribe = vec!["default".to_owned()];
    requests
        .send(DeltaDiscoveryRequest { resource_names_subscribe: subscribe, ..Default::default() })
        .await
        .unwrap();
    let mut answers =
        soon("a stream", sds.delta_secrets(ReceiverStream::new(stream))).await.unwrap().into_inner();
    let one = soon("a delta", answers.message()).await.unwrap().unwrap();
    let two = soon("the next", answers.message()).await.unwrap().unwrap();
    assert_eq!((one.resources.len(), two.resources.len()), (1, 1));
    assert_ne!(one.resources[0].version, two.resources[0].version);
}

#[tokio::test]
async fn a_stream_waits_for_the_first_certificate_and_a_socket_that_is_served_is_not_taken() {
    let ground = Ground::new(Duration::from_secs(3_600)).await;
    ground.authority.script(|script| script.status = Some((14, "not yet".to_owned())));
    let (_child, _) = ground.run(&["--sds", "unix:sds.sock"]).await;
    let second = soon("its end", ground.command(&["--sds", "unix:sds.sock"]).output()).await.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process serves this socket"));
    let mut sds = client(ground.path("sds.sock")).await;
    let waiting = tokio::spawn(async move {
        let names = vec!["default".to_owned()];
        sds.fetch_secrets(DiscoveryRequest { resource_names: names, ..Default::default() }).await
    });
    let authority = Arc::new(&ground.authority);
    authority.script(|script| script.status = None);
    let fetched = soon("a secret", waiting).await.unwrap().unwrap().into_inner();
    assert_eq!(secrets(&fetched).len(), 1);
}

#[tokio::test]
async fn what_is_missing_on_the_command_line_is_said_with_what_would_be_right() {
    let run = async |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        let done = soon("its end", command.arg("certs").args(args).output()).await.unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    for (args, code, words) in [
        (&["--id", ID][..], 2, "`--sds unix:PATH` or `--write FOLDER`"),
        (&["--sds", "/a/b", "--id", ID], 2, "unix:/run/outrigger/sds.sock"),
        (&["--write", "out", "--control", "http://a:1", "--bundle", "b", "--id", ID], 2, "https://host:port"),
        (&["--write", "out", "--workload-api", "unix:a"], 1, "--id spiffe://"),
        (&["--write", "out", "--id", ID], 1, "--workload-api unix:PATH"),
        (&["--write", "out", "--config", "none.yaml"], 1, "none.yaml: cannot be read"),
    ] {
        let (found, said) = run(args).await;
        assert!(found == Some(code) && said.contains(words), "{args:?}: {found:?} {said}");
    }
}

#[tokio::test]
async fn our_own_control_plane_issues_and_a_new_root_comes_without_a_hand() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::create_dir(dir.join("mesh")).unwrap();
    std::fs::write(dir.join("mesh/mesh.yaml"), "version: 1\ntrust_domain: cluster.local\nservices: []\n")
        .unwrap();
    let yaml = "mesh: mesh\nads: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\n\
                ca: {folder: ca, names: [\"127.0.0.1\"], leaf_life: 20s, overlap: 1s, audit: audit.jsonl}\n";
    std::fs::write(dir.join("control.yaml"), yaml).unwrap();
    let outrigger = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.current_dir(dir);
        command
    };
    let mut command = outrigger();
    command.args(["control", "control.yaml"]);
    let plane = ControlPlane::spawn(command).await.unwrap();
    let token =
        outrigger().args(["certs", "token", "ca", "--single-use", "--id", ID]).output().await.unwrap();
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    std::fs::write(dir.join("token"), token.stdout).unwrap();
    let mut command = outrigger();
    command.args([
        "certs",
        "--write",
        "out",
        "--cache",
        "kept",
        "--bundle",
        "ca/bundle.pem",
        "--token",
        "token",
    ]);
    command.args(["--id", ID, "--control", &format!("https://{}", plane.bound.ads)]);
    let _keeping = command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let data = dir.join("out/..data");
    until("the first certificate", async || read(&data).is_some()).await;
    let first = read(&data).unwrap();
    assert_eq!(first.roots.len(), 1);

    let made = outrigger().args(["certs", "root", "ca"]).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    until("both roots", async || read(&data).is_some_and(|now| now.roots.len() == 2)).await;
    // It signs after the overlap, and says so by standing first; the leaf follows within a 240th of its life.
    until("a leaf of the new root", async || {
        read(&data).is_some_and(|now| now.chain != first.chain && now.roots.first() != first.roots.first())
    })
    .await;
    until("it is kept", async || dir.join("kept/identity.pem").exists()).await;
}
