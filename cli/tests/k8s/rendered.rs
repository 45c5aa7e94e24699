//! What kustomize makes of the folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::k8s;
use crate::parts::program;

/// The manifests as they go to the cluster.
pub(crate) struct Rendered {
    pub(crate) text: String,
    pub(crate) manifests: Vec<Value>,
}

static RENDERED: LazyLock<Rendered> = LazyLock::new(|| Rendered::of(&k8s()));
static CONTROL: LazyLock<Rendered> = LazyLock::new(|| Rendered::of(&k8s().join("control")));
static REDIRECTED: LazyLock<Rendered> = LazyLock::new(|| Rendered::of(&k8s().join("redirected")));

impl Rendered {
    /// The folder itself, rendered once.
    pub(crate) fn get() -> &'static Self {
        &RENDERED
    }

    /// The control plane.
    pub(crate) fn control() -> &'static Self {
        &CONTROL
    }

    /// The same store with redirection.
    pub(crate) fn redirected() -> &'static Self {
        &REDIRECTED
    }

    fn of(folder: &Path) -> Self {
        let (program, word) = kustomize().expect("it was there");
        let output = Command::new(program).arg(word).arg(folder).output().expect("kustomize");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let manifests = documents(&text);
        Self { text, manifests }
    }

    /// All of one kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        let found: Vec<_> = self.manifests.iter().filter(|manifest| manifest["kind"] == kind).collect();
        assert!(!found.is_empty(), "no {kind}");
        found
    }

    /// The one of this kind and name.
    pub(crate) fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self.all(kind).into_iter().find(|manifest| manifest["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }
}

/// `kubectl kustomize` or `kustomize build`: the program and its word.
pub(crate) fn kustomize() -> Result<(PathBuf, &'static str), String> {
    let program = program("OUTRIGGER_KUSTOMIZE", &["kubectl", "kustomize"], "--help")?;
    let word = if program.ends_with("kubectl") { "kustomize" } else { "build" };
    Ok((program, word))
}

/// The documents of a YAML file, which stand between lines of three dashes.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents.map(yaml).collect()
}

/// One YAML document.
pub(crate) fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

/// What a manifest calls itself: `Deployment/orders`.
pub(crate) fn title(manifest: &Value) -> String {
    format!("{}/{}", text(&manifest["kind"]), text(&manifest["metadata"]["name"]))
}

/// A list, empty where there is none.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The pod of a Deployment.
pub(crate) fn pod(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]
}

/// The sidecar of a Deployment's pod.
pub(crate) fn sidecar(deployment: &Value) -> &Value {
    let found = list(&pod(deployment)["initContainers"]).iter().find(|one| one["name"] == "outrigger");
    found.unwrap_or_else(|| panic!("{} has no sidecar", title(deployment)))
}
