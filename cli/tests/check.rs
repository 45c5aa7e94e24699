//! `outrigger check` and `outrigger schema` as a person or a CI job meets them.

use std::fs;
use std::process::{Command, Output};

const MESH: &str = "\
version: 1
services:
  - name: payments
    endpoints: [10.0.0.7:15006]
";

fn outrigger(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outrigger")).args(args).output().expect("our own binary")
}

/// Checks files with these texts and returns the exit code and stderr, file names without their folder.
fn check(texts: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut args = vec!["check".to_owned()];
    for (name, text) in texts {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("a file");
        args.push(file.display().to_string());
    }
    let output = outrigger(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let stderr = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), stderr.replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn good_files_exit_0_in_silence_on_stderr() {
    assert_eq!(check(&[("mesh.yaml", MESH)]), (Some(0), String::new()));
}

#[test]
fn every_fault_of_every_file_is_told_with_its_place_and_the_exit_is_1() {
    let first = MESH.replace("endpoints", "endpoint");
    let second = MESH.replace("version: 1", "version: 1\nservice_s: []").replace("payments", "Pay ments");
    let (code, stderr) = check(&[("first.yaml", &first), ("second.yaml", &second)]);
    assert_eq!(code, Some(1));
    for fault in
        ["first.yaml:4:5: services[0].endpoint: ", "second.yaml:2:1: service_s: ", "second.yaml:4:11: "]
    {
        assert!(stderr.contains(fault), "{fault} is not in\n{stderr}");
    }
    assert!(stderr.contains("did you mean `endpoints`?"), "{stderr}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_does_not_hide_the_faults_of_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (missing, bad) = (folder.path().join("missing.yaml"), folder.path().join("bad.yaml"));
    fs::write(&bad, "version: 2\nservices: []\n").expect("a file");
    let output = outrigger(&["check", &missing.display().to_string(), &bad.display().to_string()]);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("missing.yaml: cannot be read: "), "{stderr}");
    assert!(stderr.contains("bad.yaml:1:10: version: "), "{stderr}");
}

#[test]
fn the_mesh_files_of_a_folder_are_one_mesh() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write(
        "a.yaml",
        "version: 1\nservices:\n  - {name: orders, routes: [{backends: [{service: payments}]}]}\n",
    );
    let shown = folder.path().display().to_string();
    // Without the other file, the backend is nowhere.
    let output = outrigger(&["check", &shown]);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("a.yaml:3:51: services[0].routes[0].backends[0].service: there is no service"),
        "{stderr}"
    );
    write("b.yml", MESH);
    write(".hidden.yaml", "x");
    write("notes.txt", "x");
    let output = outrigger(&["check", &shown]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 files are good\n");
    // Given one by one they are two meshes.
    let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yml"));
    let output = outrigger(&["check", &a.display().to_string(), &b.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    write("c.yaml", MESH);
    let output = outrigger(&["check", &shown]);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(stderr.contains("c.yaml:3:11: services[0].name: the service `payments`"), "{stderr}");
}

#[test]
fn the_file_of_a_control_plane_is_checked_too() {
    let good = "mesh: mesh\nidentity: {cert: a, key: b, bundle: c}\n";
    assert_eq!(check(&[("control.yaml", good)]), (Some(0), String::new()));
    let (code, stderr) =
        check(&[("control.yaml", "mesh: mesh\nads: {listen: 0.0.0.0:1, plaintext: true}\n")]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("control.yaml:2:37: ads.plaintext: "), "{stderr}");
}

#[test]
fn check_of_a_folder_without_files_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = outrigger(&["check", &folder.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no file to check"));
}

#[test]
fn check_without_a_file_is_a_usage_error() {
    assert_eq!(outrigger(&["check"]).status.code(), Some(2));
}

#[test]
fn the_schema_is_json_and_defines_both_files() {
    let output = outrigger(&["schema"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for file in ["sidecar", "mesh", "control"] {
        assert!(schema["$defs"][file].is_object(), "{file}");
    }
}

#[test]
fn the_yaml_of_the_example_store_is_good() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/yaml/");
    let files = [format!("{folder}mesh.yaml"), format!("{folder}sidecar-orders.yaml")];
    let output = outrigger(&["check", &files[0], &files[1]]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
