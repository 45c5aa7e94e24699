//! `outrigger explain`, `outrigger diff` and `outrigger status` as a person meets them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bench::plane::ControlPlane;
use bench::process::Sidecar;
use bench::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs a command in a folder: exit code, stdout, stderr.
fn outrigger(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger")).args(args).current_dir(folder).output();
    let Output { status, stdout, stderr } = output.expect("our own binary");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// The fenced blocks of the page about these commands, by language.
fn shown(language: &str) -> Vec<String> {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/explain.md")).expect("a page");
    let fences = page.split("\n```").map(str::to_owned).collect::<Vec<_>>();
    let blocks =
        fences.iter().filter_map(|block| block.strip_prefix(&format!("{language}\n")).map(str::to_owned));
    blocks.map(|text| text + "\n").collect()
}

/// A folder with the mesh of the page, and with the change that it talks of.
fn desk() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mesh = shown("yaml").remove(0);
    let canary = mesh.find("      - match: {method").expect("the canary's route");
    let next = mesh.find("      - match: {service").expect("the next route");
    let new = format!("{}{}", &mesh[..canary], &mesh[next..])
        .replace("weight: 90", "weight: 50")
        .replace("weight: 10", "weight: 50")
        .replace("spiffe://cluster.local/ns/shop/sa/orders", "\"*\"");
    fs::write(folder.path().join("mesh.yaml"), mesh).expect("a file");
    fs::write(folder.path().join("new.yaml"), new).expect("a file");
    folder
}

const EXPLAIN: [&str; 9] = [
    "explain",
    "--file",
    "mesh.yaml",
    "--from",
    "orders",
    "--authority",
    "payments",
    "--method",
    "shop.PaymentService/Charge",
];

#[test]
fn the_page_shows_what_explain_and_diff_print() {
    let folder = desk();
    let texts = shown("text");
    assert_eq!(outrigger(folder.path(), &EXPLAIN), (Some(0), texts[0].clone(), String::new()));
    let diff = outrigger(folder.path(), &["diff", "mesh.yaml", "new.yaml"]);
    assert_eq!(diff, (Some(1), texts[1].clone(), String::new()));
}

#[test]
fn explain_prints_json_for_tools_and_goes_by_headers() {
    let folder = desk();
    let args = [&EXPLAIN[..], &["-H", "x-canary: 1", "-H", "grpc-timeout:1S", "--json"]].concat();
    let (code, stdout, stderr) = outrigger(folder.path(), &args);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&told["route"]["index"], &told["deadline"]["granted"]), (&0.into(), &"1s".into()));
    assert_eq!(told["inbound"][0]["allowed"], true);
}

#[test]
fn explain_says_who_may_not_call_and_what_no_service_answers_to() {
    let folder = desk();
    let args = [&EXPLAIN[..], &["--caller", "spiffe://cluster.local/ns/shop/sa/users"]].concat();
    let (code, stdout, _) = outrigger(folder.path(), &args);
    assert_eq!(code, Some(0));
    assert!(
        stdout.contains("payments.shop refuses, by default (deny): no rule decides: spiffe://cluster.local/ns/shop/sa/users may not call"),
        "{stdout}"
    );
    let args = ["explain", "--file", "mesh.yaml", "--authority", "nobody", "--method", "a.B/C"];
    let (code, stdout, _) = outrigger(folder.path(), &args);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("UNAVAILABLE (UNKNOWN_SERVICE)"), "{stdout}");
}

#[test]
fn explain_says_of_a_path_that_may_mean_another_one_that_this_is_why_it_is_refused() {
    let folder = desk();
    let mesh = "version: 1\nservices:\n  - name: users\n    namespace: shop\n    inbound: {authorization: \
                [{allow: {}}, {deny: {methods: [shop.Users/Delete]}}]}\n  - {name: orders, namespace: shop}\n";
    fs::write(folder.path().join("strict.yaml"), mesh).expect("a file");
    let said = |method: &str, more: &[&str]| {
        let whose =
            ["explain", "--file", "strict.yaml", "--from", "orders", "--authority", "users", "--method"];
        let (code, stdout, stderr) = outrigger(folder.path(), &[&whose[..], &[method], more].concat());
        assert_eq!((code, &*stderr), (Some(0), ""));
        stdout
    };
    let (html, why) =
        (["-H", "content-type: text/html"], "users.shop refuses, by ambiguous_path: servers may read");
    for (method, more) in [("shop.Users/%44elete", &[][..]), ("pages/../shop.Users/Delete", &html[..])] {
        assert!(said(method, more).contains(why), "{}", said(method, more));
    }
    assert!(said("pages/one", &html).contains("users.shop lets spiffe://"), "{}", said("pages/one", &html));
}

#[test]
fn explain_tells_what_is_wrong_with_the_question() {
    let folder = desk();
    for (args, told) in [
        (vec!["--file", "mesh.yaml", "--authority", "a b", "--method", "a.B/C"], "not HOST or HOST:PORT"),
        (vec!["--file", "none.yaml", "--authority", "a", "--method", "a.B/C"], "none.yaml: cannot be read"),
        (
            vec!["--file", "mesh.yaml", "--from", "nobody", "--authority", "a", "--method", "a.B/C"],
            "the mesh has no service \"nobody\"",
        ),
        // Nothing listens there (tcpmux, RFC 1078).
        (vec!["--admin", "127.0.0.1:1", "--authority", "a", "--method", "a.B/C"], "nothing listens there"),
    ] {
        let (code, stdout, stderr) = outrigger(folder.path(), &[&["explain"], &args[..]].concat());
        assert_eq!((code, &*stdout), (Some(1), ""), "{args:?}");
        assert!(stderr.contains(told), "{args:?}: {stderr}");
    }
}

#[test]
fn diff_has_the_exit_codes_of_diff() {
    let folder = desk();
    let path = folder.path();
    let (code, stdout, stderr) = outrigger(path, &["diff", "mesh.yaml", "mesh.yaml"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(stdout.starts_with("the two mean the same; "), "{stdout}");
    fs::write(path.join("bad.yaml"), "version: 2\n").expect("a file");
    let (code, stdout, stderr) = outrigger(path, &["diff", "mesh.yaml", "bad.yaml"]);
    assert_eq!((code, &*stdout), (Some(2), ""));
    assert!(stderr.contains("bad.yaml:1:"), "{stderr}");
}

#[test]
fn diff_follows_the_calls_of_a_file() {
    let folder = desk();
    let path = folder.path();
    fs::write(path.join("calls"), "# two\npayments a.B/C\npayments shop.PaymentService/Charge x-canary:1\n")
        .expect("a file");
    let (code, stdout, _) = outrigger(path, &["diff", "mesh.yaml", "new.yaml", "--calls", "calls", "--json"]);
    assert_eq!(code, Some(1));
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(told["calls"]["followed"], 2);
    let touched = told["calls"]["touched"].as_array().expect("a list");
    assert_eq!(touched.len(), 1, "{stdout}");
    assert_eq!(touched[0]["call"], "payments shop.PaymentService/Charge x-canary:1");
    assert_eq!(touched[0]["elsewhere"], true);
}

#[test]
fn a_folder_of_files_is_one_mesh() {
    let folder = desk();
    let path = folder.path();
    for (name, service) in [("a.yaml", "a"), ("b.yml", "b"), (".hidden.yaml", "c")] {
        fs::create_dir_all(path.join("mesh.d")).expect("a folder");
        let text = format!(
            "version: 1\nservices:\n  - {{name: {service}, namespace: shop, endpoints: ['10.0.0.1:1']}}\n"
        );
        fs::write(path.join("mesh.d").join(name), text).expect("a file");
    }
    for (authority, known) in [("a", true), ("b", true), ("c", false)] {
        let args = ["explain", "--file", "mesh.d", "--authority", authority, "--method", "a.B/C"];
        let (code, stdout, _) = outrigger(path, &args);
        assert_eq!((code, stdout.contains("UNKNOWN_SERVICE")), (Some(0), !known), "{stdout}");
    }
    let (code, stdout, _) = outrigger(path, &["diff", "mesh.d", "mesh.d"]);
    assert_eq!(code, Some(0), "{stdout}");
}

#[test]
fn status_says_when_there_is_no_control_plane() {
    let folder = desk();
    let (code, stdout, stderr) = outrigger(folder.path(), &["status", "--control", "127.0.0.1:1"]);
    assert_eq!((code, &*stdout), (Some(2), ""));
    assert!(
        stderr.contains("http://127.0.0.1:1 cannot be reached: nothing listens there; --control"),
        "{stderr}"
    );
}

const CONTROL: &str =
    "mesh: mesh.yaml\nads: {listen: \"127.0.0.1:0\", plaintext: true}\nadmin: {listen: \"127.0.0.1:0\"}\n";

const SIDECAR: &str = "
service: orders
namespace: shop
outbound: {listen: 127.0.0.1:0}
admin: {listen: 127.0.0.1:0, socket: admin.sock}
probes: {listen: 127.0.0.1:0}
workers: 1
mesh: {control: ['http://ADS']}
";

/// Runs a subcommand of ours that stays, in a folder.
fn serving(folder: &Path, args: [&str; 2]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(args).current_dir(folder);
    command
}

#[tokio::test]
async fn status_and_explain_go_by_what_a_control_plane_has_sent_to_a_sidecar() {
    let folder = desk();
    let path = folder.path();
    fs::write(path.join("control.yaml"), CONTROL).expect("a file");
    let plane =
        ControlPlane::spawn(serving(path, ["control", "control.yaml"])).await.expect("a control plane");
    let control = plane.bound.admin.to_string();
    let (code, stdout, _) = outrigger(path, &["status", "--control", &control]);
    assert_eq!((code, &*stdout), (Some(0), "no proxy is connected\n"));

    let sidecar = SIDECAR.replace("ADS", &plane.bound.ads.to_string());
    fs::write(path.join("sidecar.yaml"), sidecar).expect("a file");
    let sidecar = Sidecar::spawn(serving(path, ["proxy", "sidecar.yaml"])).await.expect("a sidecar");
    until("status shows a sidecar that holds all", async || {
        let (code, stdout, _) = outrigger(path, &["status", "--control", &control]);
        code == Some(0) && stdout.contains("orders.shop~") && stdout.contains("ACK")
    })
    .await;
    let (_, stdout, _) = outrigger(path, &["status", "--control", &control, "--json"]);
    let proxies: Value = serde_json::from_str(&stdout).expect("JSON");
    let id = proxies[0]["id"].as_str().expect("an id");

    let question = ["--authority", "payments", "--method", "shop.PaymentService/Charge", "--json"];
    let ask = |source: &[&str]| -> Value {
        let (code, stdout, stderr) = outrigger(path, &[&["explain"], source, &question].concat());
        assert_eq!((code, &*stderr), (Some(0), ""), "{source:?}");
        serde_json::from_str(&stdout).expect("JSON")
    };
    let file = ask(&["--file", "mesh.yaml", "--from", "orders"]);
    let mut held = ask(&["--control", &control, "--proxy", id]);
    assert_eq!(held["inbound"], json!([]), "rules about callers are told to those who go by them only");
    held["inbound"] = file["inbound"].clone();
    assert_eq!(held, file, "what went over the wire means the same");
    assert_eq!(ask(&["--control", &control, "--from", "orders"]), file);
    let live = ask(&["--admin", &sidecar.bound.admin.to_string()]);
    for key in ["service", "route", "passed_over", "policies", "deadline", "idempotent", "refused"] {
        assert_eq!(live[key], file[key], "{key}");
    }
    let (code, _, stderr) =
        outrigger(path, &[&["explain", "--control", &control, "--proxy", "x"], &question[..]].concat());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no proxy `x` is connected"), "{stderr}");
}
