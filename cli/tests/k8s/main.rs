//! The manifests of `k8s/`, as kustomize renders them: Kubernetes takes them, they hold what they promise, and
//! the store works with the files that they carry.

mod ground;
mod hardening;
mod mounts;
#[path = "../parts/mod.rs"]
mod parts;
mod plane;
mod pod;
mod redirection;
mod rendered;
mod rollout;
mod wiring;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use crate::ground::Ground;
use crate::parts::{Promise, keep, program};
use crate::rendered::{Rendered, kustomize};

fn main() -> ExitCode {
    let renderer = kustomize().err();
    let validator = validator().err();
    let either = |one: &Option<String>, other: &Option<String>| one.clone().or_else(|| other.clone());
    keep(
        "k8s",
        vec![
            Promise {
                name: "kubernetes_takes_every_manifest",
                lacks: either(&renderer, &validator),
                test: kubernetes_takes_every_manifest,
            },
            Promise {
                name: "the_validator_would_see_a_key_that_kubernetes_does_not_know",
                lacks: either(&renderer, &validator),
                test: the_validator_would_see_a_key_that_kubernetes_does_not_know,
            },
            Promise {
                name: "the_command_makes_secrets_that_kubernetes_takes",
                lacks: validator.clone(),
                test: the_command_makes_secrets_that_kubernetes_takes,
            },
            Promise {
                name: "every_container_is_as_small_a_target_as_it_can_be",
                lacks: renderer.clone(),
                test: hardening::every_container_is_as_small_a_target_as_it_can_be,
            },
            Promise {
                name: "every_pod_has_a_native_sidecar_that_starts_first_and_drains_in_time",
                lacks: renderer.clone(),
                test: hardening::every_pod_has_a_native_sidecar_that_starts_first_and_drains_in_time,
            },
            Promise {
                name: "redirection_adds_one_container_with_one_right_before_the_sidecar",
                lacks: renderer.clone(),
                test: redirection::redirection_adds_one_container_with_one_right_before_the_sidecar,
            },
            Promise {
                name: "what_a_pod_mounts_is_there_and_can_change_while_it_runs",
                lacks: renderer.clone(),
                test: wiring::what_a_pod_mounts_is_there_and_can_change_while_it_runs,
            },
            Promise {
                name: "ports_and_names_agree_with_the_files_of_the_sidecars",
                lacks: renderer.clone(),
                test: wiring::ports_and_names_agree_with_the_files_of_the_sidecars,
            },
            Promise {
                name: "the_control_plane_is_where_sidecars_look_for_it",
                lacks: renderer.clone(),
                test: wiring::the_control_plane_is_where_sidecars_look_for_it,
            },
            Promise {
                name: "the_files_in_the_config_maps_pass_check",
                lacks: renderer.clone(),
                test: wiring::the_files_in_the_config_maps_pass_check,
            },
            Promise {
                name: "images_end_from_scratch_with_the_binaries_that_pods_call",
                lacks: renderer.clone(),
                test: wiring::images_end_from_scratch_with_the_binaries_that_pods_call,
            },
            Promise {
                name: "the_store_works_with_these_files_and_a_roll_out_fails_no_call",
                lacks: renderer.clone(),
                test: rollout::the_store_works_with_these_files_and_a_roll_out_fails_no_call,
            },
            Promise {
                name: "the_store_works_from_static_binaries_in_empty_roots",
                lacks: either(&renderer, &Ground::empty().err()),
                test: rollout::the_store_works_from_static_binaries_in_empty_roots,
            },
            Promise {
                name: "no_private_key_is_in_the_folder",
                lacks: None,
                test: no_private_key_is_in_the_folder,
            },
        ],
    )
}

fn kubernetes_takes_every_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rendered.yaml");
    for rendered in [Rendered::control(), Rendered::get()] {
        fs::write(&file, &rendered.text).expect("a file");
        let output = validate(&file);
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        // A kind that it has no schema for is a warning and no more.
        assert_eq!(told.matches(" passed for resource ").count(), rendered.manifests.len(), "{told}");
    }
}

fn the_validator_would_see_a_key_that_kubernetes_does_not_know() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rendered.yaml");
    let text = &Rendered::get().text;
    let wrong = text.replacen("readinessProbe:", "readynessProbe:", 1);
    assert_ne!(&wrong, text);
    fs::write(&file, wrong).expect("a file");
    let output = validate(&file);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn the_command_makes_secrets_that_kubernetes_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = validate(&make_secrets(folder.path()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn no_private_key_is_in_the_folder() {
    for file in files(&k8s()) {
        let text = fs::read_to_string(&file).expect("text");
        assert!(!text.contains("PRIVATE KEY-----"), "{}", file.display());
    }
}

/// The folder of the manifests.
fn k8s() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s")
}

/// Who gets a join token in the store.
const ACCOUNTS: [&str; 5] = ["users", "products", "payments", "orders", "storefront"];

/// Runs `outrigger certs kubernetes` for the store, on the authority in `folder`, and returns the file of Secrets.
fn make_secrets(folder: &Path) -> PathBuf {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["certs", "kubernetes"]).arg(authority(folder));
    if !authority(folder).exists() {
        command.arg("--new");
    }
    let output = command.args(ACCOUNTS.map(|account| format!("shop/{account}"))).output();
    let output = output.expect("our own binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = folder.join("secrets.yaml");
    fs::write(&file, output.stdout).expect("a file");
    file
}

/// Where the operator keeps roots, their keys and the key of join tokens.
fn authority(folder: &Path) -> PathBuf {
    folder.join("authority")
}

/// A Python that has `kubernetes-validate`.
fn validator() -> Result<PathBuf, String> {
    let python = program("OUTRIGGER_PYTHON", &["python3"], "--version")?;
    let known = Command::new(&python).args(["-c", "import kubernetes_validate"]).output();
    match known {
        Ok(output) if output.status.success() => Ok(python),
        _ => Err(format!("no kubernetes-validate in {}", python.display())),
    }
}

fn validate(file: &Path) -> Output {
    let mut command = Command::new(validator().expect("it was there"));
    command.args(["-m", "kubernetes_validate", "--strict"]).arg(file);
    command.output().expect("Python")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
