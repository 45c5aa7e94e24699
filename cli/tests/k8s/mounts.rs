//! What a pod mounts, written the way the kubelet does: the files of one version in a folder of their own, `..data`
//! leads to it, and the names that are read lead through `..data`, which is replaced at once.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::hardening::config_map_of;
use crate::rendered::{Rendered, documents, text};

/// A pod that is planned: its service, and its address.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) service: String,
    pub(crate) host: Ipv4Addr,
}

/// A folder that is mounted.
#[derive(Debug)]
pub(crate) struct Mounts {
    folder: PathBuf,
    version: u32,
}

impl Mounts {
    /// Nothing yet.
    pub(crate) fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, version: 0 }
    }

    /// Puts files in the place of those that were there.
    pub(crate) fn replace(&mut self, files: &[(String, String)]) {
        self.version += 1;
        let version = format!("..version-{}", self.version);
        fs::create_dir(self.folder.join(&version)).expect("a folder");
        for (name, content) in files {
            let file = self.folder.join(&version).join(name);
            fs::write(&file, content).expect("a file");
            // Keys and tokens are among them.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("a mode");
            let link = self.folder.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).expect("a link");
            }
        }
        symlink(&version, self.folder.join("..data_tmp")).expect("a link");
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).expect("a link");
    }
}

/// What the pod of `plan` mounts; `more` is added to the file of its sidecar.
pub(crate) fn files(
    plan: &Plan,
    secrets: &Path,
    run: &Path,
    kept: &Path,
    more: &str,
) -> Vec<(String, String)> {
    let own = config_map_of(Rendered::get(), &format!("sidecar-{}", plan.service));
    let own = here(text(&own["data"]["sidecar.yaml"]), plan.host);
    let own = own.replace("/run/outrigger", &run.display().to_string());
    let own = own.replace("/run/identity", &kept.display().to_string()) + more;
    let mut files = vec![("sidecar.yaml".to_owned(), own)];
    files.extend(secret(secrets, &format!("{}-join", plan.service)));
    files
}

/// The files of a Secret.
pub(crate) fn secret(secrets: &Path, name: &str) -> Vec<(String, String)> {
    let secrets: Vec<Value> =
        documents(fs::read_to_string(secrets).expect("the Secrets").trim_start_matches("---\n"));
    let secret = secrets.iter().find(|one| one["metadata"]["name"] == name).expect("a Secret");
    let data = secret["data"].as_object().expect("files");
    let plain =
        |content: &Value| String::from_utf8(STANDARD.decode(text(content)).expect("base64")).expect("text");
    data.iter().map(|(name, content)| (name.clone(), plain(content))).collect()
}

/// The pod's own address in the place of its loopback and of all of its addresses.
pub(crate) fn here(text: &str, host: Ipv4Addr) -> String {
    text.replace("127.0.0.1", &host.to_string()).replace("0.0.0.0", &host.to_string())
}
