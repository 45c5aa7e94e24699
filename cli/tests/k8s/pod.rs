//! A pod without Kubernetes: its processes on a loopback address of its own, started and ended in the order and
//! by the words of its Deployment. Only addresses are others than in the manifests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bench::dns::NameServer;
use bench::process::{Sidecar, die_with_parent};
use bench::wait::within;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::ground::Ground;
use crate::mounts::{Mounts, Plan, files, here};
use crate::rendered::{Rendered, list, pod, sidecar, text};

/// No pod is granted more than this, and no process may take longer to begin.
const GRACE_MAX: Duration = Duration::from_secs(60);

/// A running pod.
pub(crate) struct Pod {
    pub(crate) plan: Plan,
    pub(crate) sidecar: Sidecar,
    deployment: &'static Value,
    ground: Ground,
    root: PathBuf,
    mounts: Mounts,
    app: Child,
}

/// What pods run on.
pub(crate) struct Node {
    pub(crate) ground: Ground,
    pub(crate) names: NameServer,
    /// The file of Secrets.
    pub(crate) secrets: PathBuf,
    pub(crate) folder: TempDir,
}

impl Node {
    fn mount(&self, plan: &Plan, root: &Path, mounts: &mut Mounts) {
        let [run, kept] = ["run/outrigger", "run/identity"].map(|inside| self.ground.place(root, inside));
        mounts.replace(&files(plan, &self.secrets, &run, &kept, &self.ground.dns(self.names.addr)));
        let deployment = Rendered::get().one("Deployment", &plan.service);
        self.ground.furnish(root, group(deployment), self.names.addr);
    }
}

impl Pod {
    /// Starts the sidecar, and when it is ready the app, as the kubelet does with a native sidecar.
    pub(crate) async fn start(plan: &Plan, node: &Node) -> Self {
        let deployment = Rendered::get().one("Deployment", &plan.service);
        let root = node.folder.path().join(plan.host.to_string());
        for folder in ["run/outrigger", "run/identity"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        let ground = node.ground.clone();
        let mut mounts = Mounts::new(root.join("etc/outrigger"));
        node.mount(plan, &root, &mut mounts);

        let command = ground.sidecar(&root, &[], &context(deployment, sidecar(deployment)));
        let sidecar = Sidecar::spawn(command).await;
        let sidecar = sidecar.unwrap_or_else(|fault| panic!("sidecar of {}: {fault}", plan.service));

        let app = &pod(deployment)["containers"][0];
        let words: Vec<String> = list(&app["args"]).iter().map(|arg| here(text(arg), plan.host)).collect();
        let mut command = ground.app(&root, &words, &context(deployment, app));
        die_with_parent(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut app = command.spawn().expect("an app of the store");
        let mut lines = BufReader::new(app.stdout.take().expect("it is piped")).lines();
        let what = format!("{} says where it listens", plan.service);
        let line = within(GRACE_MAX, what, lines.next_line()).await.expect("text");
        assert!(line.is_some_and(|line| line.contains("listen")), "{}", plan.service);
        // Some apps go on printing; the task ends with the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { plan: plan.clone(), sidecar, deployment, ground, root, mounts, app }
    }

    /// Brings the files of the pod up to date, as the kubelet does.
    pub(crate) fn remount(&mut self, node: &Node) {
        node.mount(&self.plan, &self.root, &mut self.mounts);
    }

    /// Ends the pod as the kubelet does: `preStop` of all containers at once, SIGTERM to the app, and when it
    /// has exited SIGTERM to the sidecar. Both have left by themselves within the grace period.
    pub(crate) async fn end(mut self) {
        let pod = pod(self.deployment);
        let seconds = |value: &Value| Duration::from_secs(value.as_u64().expect("seconds"));
        let grace = seconds(&pod["terminationGracePeriodSeconds"]);
        let (app, sidecar) = within(grace, format!("the end of {}", self.plan.service), async {
            self.ask_to_drain().await;
            // This time is what the manifest grants; nothing is waited for.
            tokio::time::sleep(seconds(&pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]))
                .await;
            terminate(&self.app);
            let app = self.app.wait().await.expect("a status");
            self.sidecar.term();
            (app, self.sidecar.wait().await.expect("a status"))
        })
        .await;
        let good = |status: ExitStatus| status.code() == Some(0);
        assert!(good(app) && good(sidecar), "app {app}, sidecar {sidecar}: {}", self.sidecar.stderr());
    }

    /// The sidecar's `preStop`.
    async fn ask_to_drain(&self) {
        let container = sidecar(self.deployment);
        let words = list(&container["lifecycle"]["preStop"]["exec"]["command"]);
        assert_eq!(words[0], "/outrigger-proxy");
        let words: Vec<String> = words[1..].iter().map(|word| text(word).to_owned()).collect();
        let mut command = self.ground.sidecar(&self.root, &words, &context(self.deployment, container));
        let heard = command.output().await.expect("the sidecar's binary");
        assert!(heard.status.success(), "preStop: {}", String::from_utf8_lossy(&heard.stderr));
    }

    /// What a caller in this pod is told when it charges: a code.
    pub(crate) async fn charge(&self) -> String {
        let mesh = here("http://127.0.0.1:15001", self.plan.host);
        let words = ["charge", "--mesh", &mesh].map(str::to_owned);
        let app = &pod(self.deployment)["containers"][0];
        let mut command = self.ground.app(&self.root, &words, &context(self.deployment, app));
        let output = command.output().await.expect("an app of the store");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        text(&answer["code"]).to_owned()
    }
}

/// The group that may read what the pod mounts.
pub(crate) fn group(deployment: &Value) -> u32 {
    let group = pod(deployment)["securityContext"]["fsGroup"].as_u64().expect("a group");
    u32::try_from(group).expect("a group")
}

/// The pod's security context and over it that of one of its containers.
pub(crate) fn context(deployment: &Value, container: &Value) -> Value {
    let mut context = pod(deployment)["securityContext"].clone();
    let own = container["securityContext"].as_object().expect("a context").clone();
    context.as_object_mut().expect("a context").extend(own);
    context
}

fn terminate(child: &Child) {
    let pid = child.id().expect("it has not been waited for");
    // SAFETY: kill takes no pointers, and the id is that of our own child.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
}
