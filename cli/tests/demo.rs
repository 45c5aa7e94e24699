//! The demo from outside: it tells the truth by its exit code and leaves nothing behind, however it ends.

#[path = "parts/run.rs"]
mod run;

use std::fs;

use crate::run::{Demo, send};

#[test]
fn a_demo_of_three_seconds_exits_0_with_every_count_agreed_and_leaves_nothing() {
    let demo = Demo::new();
    let output = demo.command(demo.temporary.path(), &["--for", "3s"]).output().expect("our own binary");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stderr, "");
    assert!(stdout.contains("only orders may: PermissionDenied"), "{stdout}");
    assert!(stdout.contains(" 0 failed, 1 denied as it should be"), "{stdout}");
    for service in ["users", "products", "payments", "orders", "storefront"] {
        let rows = stdout.lines().filter(|line| line.starts_with(service) && line.contains("100.00%"));
        assert!(rows.count() > 0, "no calls to {service} in\n{stdout}");
    }
    // Piped, it prints plain lines.
    assert!(!stdout.contains('\x1b'));
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_sigterm_ends_a_running_demo_in_order() {
    let demo = Demo::new();
    let (mut child, lines) = demo.start(&[], "100.00%");
    assert!(demo.processes().len() >= 15, "seven apps, seven sidecars, and the demo");
    send(libc::SIGTERM, &child);
    let last: Vec<_> = lines.collect();
    let status = child.wait().expect("a status");
    assert!(status.success(), "{status}: {last:?}");
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_sigterm_during_the_start_leaves_nothing() {
    let demo = Demo::new();
    let (mut child, _lines) = demo.start(&[], "starting");
    send(libc::SIGTERM, &child);
    assert_eq!(child.wait().expect("a status").code(), Some(1));
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_killed_demo_takes_its_processes_along() {
    let demo = Demo::new();
    let (mut child, _lines) = demo.start(&[], "100.00%");
    send(libc::SIGKILL, &child);
    child.wait().expect("a status");
    demo.assert_no_process_is_left();
}

#[test]
fn a_start_error_names_the_process_and_leaves_nothing() {
    let demo = Demo::new();
    // No Unix socket can be made below so long a name, so the first sidecar gives up.
    let long = demo.temporary.path().join("x".repeat(120));
    fs::create_dir(&long).expect("a folder");
    let output = demo.command(&long, &["--for", "3s"]).output().expect("our own binary");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("sidecar of users: "), "{stderr}");
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(&long);
}
