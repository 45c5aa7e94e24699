//! What it takes to start, and how it ends.

use std::process::Command;

use bench::plane::ControlPlane;
use bench::wait::soon;

use crate::kit::{BAD, Live, PLAIN, USERS, binary, folder};

/// Starts one that must not start; what it says.
async fn refused(dir: tempfile::TempDir, yaml: &str) -> String {
    match ControlPlane::start(binary(), yaml, dir.path()).await {
        Ok(_) => panic!("it has started with\n{yaml}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn plaintext_is_refused_off_loopback() {
    for listen in ["0.0.0.0:0", "192.0.2.1:15012", "[::]:0"] {
        let yaml = format!(
            "mesh: mesh\nads: {{listen: \"{listen}\", plaintext: true}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n"
        );
        let says = refused(folder(&[("u.yaml", USERS)]), &yaml).await;
        assert!(says.contains("control.yaml:2:"), "{says}");
        assert!(says.contains("is not a loopback address, and `plaintext` serves it to anyone"), "{says}");
        assert!(says.contains("exit status: 1"), "{says}");
    }
}

#[tokio::test]
async fn without_an_identity_there_is_plaintext_or_nothing() {
    let says = refused(folder(&[("u.yaml", USERS)]), "mesh: mesh\nads: {listen: \"127.0.0.1:0\"}\n").await;
    assert!(says.contains("there is neither `identity` nor `ca`, and xDS is served by mTLS"), "{says}");
}

#[tokio::test]
async fn clients_that_come_back_never_find_an_empty_mesh_by_mistake() {
    let says = refused(folder(&[]), PLAIN).await;
    assert!(says.contains("there is no mesh file (`*.yaml` or `*.yml`)"), "{says}");
    let says = refused(folder(&[("u.yaml", BAD), ("x.yaml", "x")]), PLAIN).await;
    assert!(says.contains("no mesh file can be used"), "{says}");
    assert!(says.contains("unknown key `nam`") && says.contains("x.yaml:1:1"), "{says}");
    let dir = folder(&[]);
    std::fs::remove_dir(dir.path().join("mesh")).expect("a folder");
    assert!(refused(dir, PLAIN).await.contains("No such file or directory"));
}

#[tokio::test]
async fn every_fault_of_its_file_is_told_at_once() {
    let yaml = "mesh: mesh\nadds: {}\ndebounce: {quiet: 1s, longest: 1ms}\nlimits: {streams: 0}\n";
    let says = refused(folder(&[("u.yaml", USERS)]), yaml).await;
    for fault in [
        "control.yaml:2:1: adds: unknown key",
        "control.yaml:3:19: debounce.quiet: ",
        "control.yaml:4:19: limits.streams: ",
    ] {
        assert!(says.contains(fault), "{fault} is not in\n{says}");
    }
}

#[tokio::test]
async fn a_single_mesh_file_will_do() {
    let dir = folder(&[]);
    std::fs::write(dir.path().join("mesh.yaml"), USERS).expect("a file");
    let live = Live::within(dir, &PLAIN.replace("mesh: mesh", "mesh: mesh.yaml")).await;
    live.has(&["users.default"]).await;
    let next = live.dir.path().join("next");
    std::fs::write(&next, USERS.replace("users", "others")).expect("a file");
    std::fs::rename(&next, live.dir.path().join("mesh.yaml")).expect("a rename");
    live.has(&["others.default"]).await;
}

#[tokio::test]
async fn sigterm_ends_it_in_order() {
    let mut live = Live::start(&[("u.yaml", USERS)]).await;
    live.plane.term();
    let status = soon("its end", live.plane.wait()).await.expect("a status");
    assert_eq!(status.code(), Some(0), "{}", live.plane.stderr());
    assert_eq!(live.plane.stderr(), "");
}

#[test]
fn help_and_version_are_there_and_other_words_are_a_usage_error() {
    let run = |args: &[&str]| Command::new(binary()).args(args).output().expect("our own binary");
    assert!(String::from_utf8_lossy(&run(&["--help"]).stdout).contains("outrigger-control [CONTROL.YAML]"));
    assert!(String::from_utf8_lossy(&run(&["--version"]).stdout).starts_with("outrigger-control "));
    assert_eq!(run(&["a", "b"]).status.code(), Some(2));
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
    let missing = run(&["missing.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("missing.yaml: No such file"));
}
