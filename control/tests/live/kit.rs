//! A control plane whose files change while it runs.

use std::path::{Path, PathBuf};

use bench::plane::ControlPlane;
use bench::wait::{comes, until};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const USERS: &str = "version: 1\nservices: [{name: users, endpoints: [\"10.0.0.1:1\"]}]\n";
pub(crate) const ORDERS: &str = "version: 1\nservices:\n  - {name: orders, endpoints: [\"10.0.0.2:1\"], routes: [{backends: [{service: users}]}]}\n";
pub(crate) const BAD: &str = "version: 1\nservices: [{nam: users}]\n";

/// A control plane and its folder, in which `mesh` is the folder of mesh files.
pub(crate) struct Live {
    pub(crate) plane: ControlPlane,
    pub(crate) dir: TempDir,
}

/// `control.yaml` of a control plane without TLS.
pub(crate) const PLAIN: &str =
    "mesh: mesh\nads: {listen: \"127.0.0.1:0\", plaintext: true}\nadmin: {listen: \"127.0.0.1:0\"}\n";

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_outrigger-control"))
}

/// A folder with these mesh files.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("mesh")).expect("a folder");
    for (name, text) in files {
        std::fs::write(dir.path().join("mesh").join(name), text).expect("a file");
    }
    dir
}

impl Live {
    /// One with these mesh files, without TLS.
    pub(crate) async fn start(files: &[(&str, &str)]) -> Self {
        Self::within(folder(files), PLAIN).await
    }

    pub(crate) async fn within(dir: TempDir, yaml: &str) -> Self {
        let plane = ControlPlane::start(binary(), yaml, dir.path()).await.expect("a control plane");
        Self { plane, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mesh").join(name)
    }

    /// Replaces a mesh file by renaming another over it.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let next = self.path(&format!(".{name}.next"));
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(&next, self.path(name)).expect("a rename");
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("a file");
    }

    /// `/mesh`.
    pub(crate) async fn mesh(&self) -> Value {
        let answer = self.plane.get("/mesh").await.expect("a page");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
    }

    /// What `/mesh` says of one file.
    pub(crate) async fn file(&self, name: &str) -> Value {
        let mesh = self.mesh().await;
        let ends = format!("mesh/{name}");
        let files = mesh["files"].as_array().expect("files").clone();
        files
            .into_iter()
            .find(|file| file["path"].as_str().is_some_and(|path| path.ends_with(&ends)))
            .unwrap_or_default()
    }

    pub(crate) async fn services(&self) -> Vec<String> {
        texts(&self.mesh().await["services"])
    }

    /// Waits until these are the services.
    pub(crate) async fn has(&self, services: &[&str]) {
        let has_come = comes(async || self.services().await == services).await;
        assert!(has_come, "not the services {services:?}; stderr: {}", self.plane.stderr());
    }

    /// Waits until a file has faults, and returns them.
    pub(crate) async fn faults(&self, name: &str) -> Vec<String> {
        until(format!("{name} has faults"), async || !texts(&self.file(name).await["faults"]).is_empty())
            .await;
        texts(&self.file(name).await["faults"])
    }

    /// Waits until a file is good, and in force as it is.
    pub(crate) async fn good(&self, name: &str) {
        until(format!("{name} is good"), async || {
            let file = self.file(name).await;
            file["state"] == "in_force" && texts(&file["faults"]).is_empty()
        })
        .await;
    }

    /// Waits until stderr holds a text.
    pub(crate) async fn says(&self, text: &str) {
        self.plane.says(text).await;
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.plane.metrics().await.expect("a scrape").value(name, labels)
    }

    /// The version of a resource of our own audience, such as `Cluster` `users.default`.
    pub(crate) async fn version(&self, kind: &str, name: &str) -> Option<String> {
        let answer = self.plane.get("/resources").await.expect("a page");
        let all: Value = serde_json::from_str(&answer.body).expect("JSON");
        let found = all.as_array().expect("a list").iter().find(|resource| {
            resource["type"].as_str().is_some_and(|url| url.ends_with(kind)) && resource["name"] == name
        })?;
        found["version"].as_str().map(str::to_owned)
    }
}

pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text").to_owned()).collect()
}
