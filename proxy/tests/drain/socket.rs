//! The Unix socket that takes `drain`: who owns its file, and what is said when it is not there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use bench::process::Sidecar;

use crate::lone::{BINARY, Lone, PATIENCE, call, drain, said};

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_leaves_with_the_sidecar() {
    let mut lone = Lone::start("lag: 0s").await;
    let file = lone.folder.path().join("sidecar.sock");
    let mode = std::fs::metadata(&file).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    lone.sidecar.term();
    lone.ends_well().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn drain_without_a_sidecar_exits_1_and_names_the_socket() {
    let mut lone = Lone::start("lag: 0s").await;
    lone.sidecar.term();
    lone.ends_well().await;
    let said = drain(lone.folder.path()).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    assert!(said.stderr.starts_with("outrigger-proxy: no sidecar answers on "), "{}", said.stderr);
    assert!(said.stderr.contains("sidecar.sock: "), "{}", said.stderr);
}

#[tokio::test]
async fn one_who_connects_and_says_nothing_does_not_hold_up_drain() {
    let lone = Lone::start("lag: 0s").await;
    let connect = |_| UnixStream::connect(lone.folder.path().join("sidecar.sock"));
    let silent: Vec<_> = (0..20).map(connect).collect::<Result<_, _>>().expect("connections");
    lone.drain().await;
    lone.readiness_fails().await;
    drop(silent);
}

#[tokio::test]
async fn what_is_not_drain_is_answered_and_changes_nothing() {
    let lone = Lone::start("lag: 0s").await;
    for command in ["", "drai", "drain\n", "drained", &"drain".repeat(1_000)] {
        let mut socket = UnixStream::connect(lone.folder.path().join("sidecar.sock")).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        // A long one is answered before it has been read to its end, which breaks off what is still to come.
        let _ = socket.write_all(command.as_bytes());
        let _ = socket.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let read = socket.read_to_string(&mut answer);
        assert!(read.is_err() || answer == "the only command is drain\n", "{command:?}: {answer:?}");
    }
    assert_eq!(lone.sidecar.probe("/ready").await.expect("an answer").status, 200);
    call(lone.sidecar.inbound(), "near").await;
}

#[tokio::test]
async fn a_socket_file_that_a_killed_sidecar_left_is_replaced() {
    let mut lone = Lone::start("lag: 0s").await;
    lone.sidecar.kill();
    lone.sidecar.wait().await.expect("a status");
    assert!(lone.folder.path().join("sidecar.sock").exists(), "the dead leave it behind");
    let said = drain(lone.folder.path()).await;
    assert_eq!(said.code, Some(1), "nobody listens on it: {}", said.stderr);

    let read = |name: &str| std::fs::read_to_string(lone.folder.path().join(name)).expect("a file");
    let (sidecar, mesh) = (read("sidecar.yaml"), read("mesh.yaml"));
    let anew = Sidecar::start(BINARY.as_ref(), &sidecar, &mesh, lone.folder.path()).await;
    lone.sidecar = anew.expect("a sidecar that takes the file over");
    lone.drain().await;
    lone.readiness_fails().await;
}

#[tokio::test]
async fn a_second_sidecar_on_the_same_socket_is_refused_and_the_first_keeps_it() {
    let lone = Lone::start("lag: 0s").await;
    let said = said(&["sidecar.yaml"], lone.folder.path()).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    assert!(said.stderr.contains("admin.socket: "), "{}", said.stderr);
    assert!(said.stderr.contains("another sidecar listens there"), "{}", said.stderr);
    lone.drain().await;
    lone.readiness_fails().await;
}
