//! `outrigger certs root` and `outrigger certs token`: what they make is what a control plane takes.

use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bench::joiner::{Connection, Csr};
use bench::plane::ControlPlane;
use bench::tls::{TlsIdentity, client_config};
use bench::wait::until;
use serde_json::Value;

const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";

fn certs(dir: &Path, args: &[&str]) -> Output {
    let outrigger = env!("CARGO_BIN_EXE_outrigger");
    Command::new(outrigger).arg("certs").args(args).current_dir(dir).output().expect("it runs")
}

fn says(dir: &Path, args: &[&str]) -> String {
    let output = certs(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_token_says_what_was_asked_for_and_stands_alone_on_stdout() {
    let dir = tempfile::tempdir().expect("a folder");
    let claims = |more: &[&str]| -> Value {
        let token = says(dir.path(), &[&["token", "ca", "--id", ORDERS], more].concat());
        let middle = token.trim_end().split('.').nth(1).expect("three parts").to_owned();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(middle).expect("base64")).expect("JSON")
    };
    let token = claims(&[]);
    assert_eq!(
        (&token["sub"], &token["aud"], &token["iss"]),
        (&ORDERS.into(), &"cluster.local".into(), &"outrigger".into())
    );
    assert_eq!(
        token["exp"].as_u64().zip(token["iat"].as_u64()).map(|(exp, iat)| exp - iat),
        Some(24 * 3_600)
    );
    assert!(token.get("single_use").is_none());
    let token = claims(&["--life", "10m", "--single-use"]);
    assert_eq!(token["exp"].as_u64().zip(token["iat"].as_u64()).map(|(exp, iat)| exp - iat), Some(600));
    assert_eq!(token["single_use"], true);
}

#[test]
fn what_cannot_be_made_is_told_with_what_would_be_right() {
    let dir = tempfile::tempdir().expect("a folder");
    for (args, says) in [
        (&["token", "ca", "--id", "orders"][..], "a SPIFFE id begins with `spiffe://`"),
        (&["token", "ca", "--id", "spiffe://cluster.local"], "names a trust domain and no workload"),
        (&["root", "/dev/null/ca"], "/dev/null/ca"),
    ] {
        let output = certs(dir.path(), args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(says), "{args:?}: {stderr}");
    }
}

#[tokio::test]
async fn a_control_plane_takes_the_roots_and_the_tokens_that_were_made() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(says(dir.path(), &["root", "ca"]).contains("the first root; it signs at once"));
    std::fs::write(dir.path().join("mesh.yaml"), "version: 1\nservices: [{name: users}]\n").expect("a file");
    let yaml = "mesh: mesh.yaml\nads: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\nca: {folder: ca}\n";
    std::fs::write(dir.path().join("control.yaml"), yaml).expect("a file");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["control", "control.yaml"]).current_dir(dir.path());
    let plane = ControlPlane::spawn(command).await.expect("a control plane");
    let token = says(dir.path(), &["token", "ca", "--id", ORDERS]);
    let bundle = std::fs::read_to_string(dir.path().join("ca/bundle.pem")).expect("a bundle");
    let tls = client_config(&TlsIdentity { leaf: None, trust: Some(bundle) }).expect("a configuration");
    let mut connection = Connection::open(plane.bound.ads, tls).await.expect("a connection");
    let csr = Csr::of(&[ORDERS]);
    csr.leaf(&connection.create(Some(token.trim()), &csr.pem, 0).await);

    assert!(says(dir.path(), &["root", "ca"]).contains("trusted from now on"));
    until("the next root is trusted", async || {
        let page = plane.get("/ca").await.expect("a page").body;
        let page: Value = serde_json::from_str(&page).expect("JSON");
        page["trusted"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
}
