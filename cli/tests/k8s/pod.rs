//! A pod without Kubernetes: its processes on a loopback address of its own, started and ended in the order and
//! by the words of its Deployment. Only addresses and folders are others than in the manifests.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bench::process::{Sidecar, die_with_parent};
use bench::wait::within;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::hardening::config_map_of;
use crate::rendered::{Rendered, documents, list, pod, sidecar, text};

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

/// A pod that is planned: where each of the store's pods will be is in the mesh file of all.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) service: String,
    pub(crate) host: Ipv4Addr,
}

/// A running pod.
pub(crate) struct Pod {
    pub(crate) plan: Plan,
    pub(crate) sidecar: Sidecar,
    deployment: &'static Value,
    files: PathBuf,
    app: Child,
}

impl Pod {
    /// Starts the sidecar, and when it is ready the app, as the kubelet does with a native sidecar.
    pub(crate) async fn start(plan: &Plan, plans: &[Plan], secrets: &[Value], folder: &Path) -> Self {
        let rendered = Rendered::get();
        let deployment = rendered.one("Deployment", &plan.service);
        let folder = folder.join(plan.host.to_string());
        let files = lay_out(plan, plans, secrets, &folder);

        let mut command = Command::new(OUTRIGGER);
        command.arg("proxy").arg(files.join("sidecar.yaml"));
        let sidecar = Sidecar::spawn(command).await;
        let sidecar = sidecar.unwrap_or_else(|fault| panic!("sidecar of {}: {fault}", plan.service));

        let container = &pod(deployment)["containers"][0];
        let mut command = Command::new(OUTRIGGER);
        command.arg("store").args(list(&container["args"]).iter().map(|arg| here(text(arg), plan.host)));
        die_with_parent(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut app = command.spawn().expect("our own binary");
        let mut lines = BufReader::new(app.stdout.take().expect("it is piped")).lines();
        let line =
            within(GRACE_MAX, format!("{} says where it listens", plan.service), lines.next_line()).await;
        assert!(line.expect("text").is_some_and(|line| line.contains("listen")), "{}", plan.service);
        // Some apps go on printing; the task ends with the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { plan: plan.clone(), sidecar, deployment, files, app }
    }

    /// Ends the pod as the kubelet does: `preStop` of all containers at once, SIGTERM to the app, and when it
    /// has exited SIGTERM to the sidecar. Both have left by themselves within the grace period.
    pub(crate) async fn end(mut self) {
        let grace =
            Duration::from_secs(pod(self.deployment)["terminationGracePeriodSeconds"].as_u64().expect("s"));
        let what = format!("the end of {}", self.plan.service);
        let (app, sidecar) = within(grace, what, async {
            let words = list(&sidecar(self.deployment)["lifecycle"]["preStop"]["exec"]["command"]);
            assert_eq!(words[0], "/outrigger-proxy");
            let mut command = Command::new(OUTRIGGER);
            command.arg("proxy").args(words[1..].iter().map(text)).arg(self.files.join("sidecar.yaml"));
            let heard = command.output().await.expect("our own binary");
            assert!(heard.status.success(), "preStop: {}", String::from_utf8_lossy(&heard.stderr));
            // This time is what the manifest grants; nothing is waited for.
            let sleep = &pod(self.deployment)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
            tokio::time::sleep(Duration::from_secs(sleep.as_u64().expect("seconds"))).await;
            terminate(&self.app);
            let app = self.app.wait().await.expect("a status");
            self.sidecar.term();
            (app, self.sidecar.wait().await.expect("a status"))
        })
        .await;
        let good = |status: ExitStatus| status.code() == Some(0);
        assert!(good(app) && good(sidecar), "app {app}, sidecar {sidecar}: {}", self.sidecar.stderr());
    }

    /// What a caller in this pod is told when it charges: a code.
    pub(crate) async fn charge(&self) -> String {
        let mut command = Command::new(OUTRIGGER);
        let mesh = here("http://127.0.0.1:15001", self.plan.host);
        let output =
            command.args(["store", "charge", "--mesh", &mesh]).output().await.expect("our own binary");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        text(&answer["code"]).to_owned()
    }
}

/// No pod is granted more than this, and no process may take longer to begin.
const GRACE_MAX: Duration = Duration::from_secs(60);

/// Writes what the pod mounts the way the kubelet does: files in a folder of this version, `..data` leads
/// to it, and the names that are read lead through `..data`.
fn lay_out(plan: &Plan, plans: &[Plan], secrets: &[Value], folder: &Path) -> PathBuf {
    let (rendered, mounted) = (Rendered::get(), folder.join("etc/outrigger"));
    let (version, run) = (mounted.join("..version-1"), folder.join("run/outrigger"));
    if mounted.exists() {
        return mounted;
    }
    fs::create_dir_all(&version).expect("a folder");
    fs::create_dir_all(&run).expect("a folder");
    symlink("..version-1", mounted.join("..data")).expect("a link");

    let own = text(&config_map_of(rendered, &plan.service)["data"]["sidecar.yaml"]);
    let own = here(own, plan.host).replace("/run/outrigger", &run.display().to_string());
    let mesh = text(&rendered.one("ConfigMap", "mesh")["data"]["mesh.yaml"]);
    let mut files = vec![("sidecar.yaml".to_owned(), own), ("mesh.yaml".to_owned(), resolved(mesh, plans))];
    let secret = format!("{}-identity", plan.service);
    let secret = secrets.iter().find(|one| one["metadata"]["name"] == secret).expect("an identity");
    let data = secret["stringData"].as_object().expect("files");
    files.extend(data.iter().map(|(name, content)| (name.clone(), text(content).to_owned())));
    for (name, content) in files {
        fs::write(version.join(&name), content).expect("a file");
        symlink(Path::new("..data").join(&name), mounted.join(&name)).expect("a link");
    }
    mounted
}

/// The Secrets of the file.
pub(crate) fn secrets(file: &Path) -> Vec<Value> {
    documents(&fs::read_to_string(file).expect("the Secrets"))
}

/// The pod's own address in the place of its loopback and of all of its addresses.
fn here(text: &str, host: Ipv4Addr) -> String {
    text.replace("127.0.0.1", &host.to_string()).replace("0.0.0.0", &host.to_string())
}

/// Addresses in the place of the names of headless Services: there is no cluster's DNS here.
fn resolved(mesh: &str, plans: &[Plan]) -> String {
    let lines = mesh.lines().map(|line| {
        let Some((before, name)) = line.split_once("[{dns: \"") else { return line.to_owned() };
        let (service, rest) = name.split_once("-mesh.shop.svc.cluster.local:").expect("a headless Service");
        let port = rest.strip_suffix("\"}]").expect("a port");
        let pods = plans.iter().filter(|plan| plan.service == service);
        let addresses: Vec<_> = pods.map(|plan| format!("{}:{port}", plan.host)).collect();
        format!("{before}[{}]", addresses.join(", "))
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn terminate(child: &Child) {
    let pid = child.id().expect("it has not been waited for");
    // SAFETY: kill takes no pointers, and the id is that of our own child.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
}
