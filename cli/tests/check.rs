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
fn check_without_a_file_is_a_usage_error() {
    assert_eq!(outrigger(&["check"]).status.code(), Some(2));
}

#[test]
fn the_schema_is_json_and_defines_both_files() {
    let output = outrigger(&["schema"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for file in ["sidecar", "mesh"] {
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
