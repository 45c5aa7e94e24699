//! `outrigger init` as a person or a container meets it where it can do nothing. What its rules do is in `netns/`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

const SIDECAR: &str = "service: orders\n\
    inbound: [{listen: 0.0.0.0:15006, app: 127.0.0.1:50051, mtls: off}]\n\
    outbound: {}\nmesh: {file: mesh.yaml}\n";

fn command(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("init").args(words.split_whitespace()).current_dir(folder);
    command
}

/// Runs `outrigger init` beside a `sidecar.yaml` of this text; returns its exit code, stdout and stderr.
fn init(sidecar: &str, words: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("sidecar.yaml"), sidecar).expect("a file");
    told(&command(folder.path(), words).output().expect("our own binary"))
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn rules_are_printed_without_any_right_and_without_their_tool() {
    for (tool, word) in [("nft", "table inet outrigger {"), ("iptables", "*nat\n:OUTRIGGER_")] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("sidecar.yaml"), SIDECAR).expect("a file");
        let output =
            command(folder.path(), &format!("sidecar.yaml --print --tool {tool}")).env("PATH", "").output();
        let (code, stdout, stderr) = told(&output.expect("our own binary"));
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(word), "{stdout}");
        assert!(stderr.contains("IPv6 that comes in is left alone"), "{stderr}");
    }
}

#[test]
fn a_line_that_cannot_be_understood_exits_2() {
    for (words, wrong) in [
        ("", "<SIDECAR.YAML>"),
        ("sidecar.yaml --exclude-inbound-ports http", "`http` is no port"),
        ("sidecar.yaml --exclude-outbound-ranges 10.0.0.1/8", "write `10.0.0.0/8` or `10.0.0.1`"),
        ("sidecar.yaml --tool ipfw", "[possible values: auto, nft, iptables]"),
        ("sidecar.yaml --uid sidecar", "--uid"),
    ] {
        let (code, _, stderr) = init(SIDECAR, words);
        assert_eq!(code, Some(2), "{words}");
        assert!(stderr.contains(wrong), "{words}: {stderr}");
    }
}

#[test]
fn a_file_that_does_not_suit_exits_1_with_all_that_is_wrong() {
    let (code, _, stderr) = init(SIDECAR, "missing.yaml --print");
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("outrigger init: missing.yaml: cannot be read: "), "{stderr}");

    let (code, _, stderr) = init(&SIDECAR.replace("service", "servise"), "sidecar.yaml --print");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("\nsidecar.yaml:1:1: servise: "), "{stderr}");

    let wrong = SIDECAR.replace("0.0.0.0:15006", "127.0.0.1:0").replace("{}", "{listen: 127.0.0.2:15001}");
    let (code, stdout, stderr) = init(&wrong, "sidecar.yaml --print");
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    for told in ["inbound[0].listen: port 0", "inbound[0].listen: redirected", "write `127.0.0.1:15001`"] {
        assert!(stderr.contains(told), "{told}: {stderr}");
    }
}

#[test]
fn who_may_not_write_rules_is_told_what_it_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("sidecar.yaml"), SIDECAR).expect("a file");
    for words in ["sidecar.yaml", "--remove"] {
        let mut command = command(folder.path(), words);
        // SAFETY: plain system calls. Root without this capability, or whoever is no root anyway, may not.
        unsafe {
            command.pre_exec(|| {
                const NET_ADMIN: libc::c_ulong = 12;
                libc::prctl(libc::PR_CAPBSET_DROP, NET_ADMIN, 0, 0, 0);
                Ok(())
            });
        }
        let (code, stdout, stderr) = told(&command.output().expect("our own binary"));
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{words}");
        assert!(stderr.contains("rules need CAP_NET_ADMIN"), "{words}: {stderr}");
        assert!(stderr.contains("capabilities: {add: [NET_ADMIN, NET_RAW]}"), "{words}: {stderr}");
    }
}
