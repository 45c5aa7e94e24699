//! The demo from outside: it tells the truth by its exit code and leaves nothing behind, however it ends.

#[path = "parts/run.rs"]
mod run;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run::{Demo, certificates, send};

/// A sidecar writes what it keeps when it has it in force.
const SECRETS_WAIT: Duration = Duration::from_secs(30);

/// How many shop in a demo that is not told. Each may have a call open when a step begins, which ends in it.
const SHOPPERS: u64 = 20;

/// So many calls tell shares from chance.
const TELLING: u64 = 40;

/// What a canary's step told: the percentage that v2 was to get, and the calls that v1 and v2 got.
fn step(line: &str) -> Option<(u64, u64, u64)> {
    let words: Vec<&str> = line.strip_prefix("canary: at ")?.split([' ', ',']).collect();
    let number = |at: usize| words.get(at)?.parse().ok();
    let after = |word: &str| words.iter().position(|other| *other == word);
    Some((number(0)?, number(after("got")? + 1)?, number(after("v2")? + 1)?))
}

#[test]
fn a_canary_goes_from_none_to_all_calls_step_by_step_and_loses_none() {
    let demo = Demo::new();
    let output = demo.command(demo.temporary.path(), &["--for", "6s"]).output().expect("our own binary");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains(" 0 failed, 1 denied as it should be"), "{stdout}");
    let (mut lines, mut all) = (stdout.lines(), 0);
    for (share, least, most) in [(0, 0.0, 0.0), (10, 0.0, 0.4), (50, 0.15, 0.85), (100, 0.9, 1.0)] {
        if share > 0 {
            let edited =
                format!("products.yaml edited to give v2 {share} %; all 7 sidecars had acknowledged");
            assert!(lines.any(|line| line.contains(&edited)), "no `{edited}` in its turn in\n{stdout}");
        }
        let told = lines.find_map(step).unwrap_or_else(|| panic!("no count at {share} % in\n{stdout}"));
        let (at, one, two) = told;
        assert_eq!(at, share, "{stdout}");
        let calls = one + two;
        all += calls;
        // A step that was late has time for a few only; the demo itself holds them against chance.
        if calls > TELLING {
            let (least, most) = (least * (calls - SHOPPERS) as f64, most * calls as f64);
            let got = two as f64;
            assert!((least..=most).contains(&got), "v2 got {two} of {calls} at {share} % in\n{stdout}");
        }
    }
    assert!(all > TELLING, "too few calls to tell in\n{stdout}");
    demo.assert_no_process_is_left();
}

#[test]
fn all_steps_of_the_canary_find_room_in_the_shortest_demo() {
    let demo = Demo::new();
    let output = demo.command(demo.temporary.path(), &["--for", "1ms"]).output().expect("our own binary");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let shares: Vec<_> = stdout.lines().filter_map(step).map(|(share, ..)| share).collect();
    assert_eq!(shares, [0, 10, 50, 100], "{stdout}");
}

#[test]
fn the_status_of_a_running_demo_shows_every_sidecar_in_order() {
    let demo = Demo::new();
    let mut before = Vec::new();
    let (mut child, mut lines) = demo.start(&[], "starting");
    let told = lines.find(|line| {
        before.push(line.clone());
        line.contains("who holds what: ")
    });
    let told = told.unwrap_or_else(|| panic!("no command in {before:?}"));
    let (_, command) = told.split_once("who holds what: ").expect("a command");
    let mut words = command.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("our own binary");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.lines().filter(|line| line.contains(".shop~") && line.contains(" ACK ")).count(), 7);
    send(libc::SIGTERM, &child);
    lines.for_each(drop);
    child.wait().expect("a status");
}

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
    assert!(stdout.contains("who is who: 7 sidecars joined by token and have a certificate"), "{stdout}");
    let [joined, _renewed, refused, left] = certificates(&stdout);
    assert_eq!((joined, refused), (7, 0), "{stdout}");
    assert!(0 < left && left <= 30, "certificates live 30 s: {stdout}");
    // Piped, it prints plain lines.
    assert!(!stdout.contains('\x1b'));
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

/// All files below a folder that are there to be read.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// How many keys and how many join tokens there are below a folder, none of which is anybody else's to read.
fn secrets(folder: &Path) -> (usize, usize) {
    let (mut keys, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    for file in files(folder) {
        // A sidecar puts what it keeps in its place whole, and the name that it had before is gone.
        let (Ok(bytes), Ok(seen)) = (fs::read(&file), fs::metadata(&file)) else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let is_token = file.extension().is_some_and(|extension| extension == "token");
        let key = text.split_once("PRIVATE KEY-----").map(|(_, key)| key.to_owned());
        if key.is_some() || is_token || file.ends_with("tokens.key") {
            assert_eq!(seen.permissions().mode() & 0o777, 0o600, "{}", file.display());
        }
        keys.extend(key);
        tokens.extend(is_token.then_some(text));
    }
    (keys.len(), tokens.len())
}

#[test]
fn nobody_makes_a_certificate_and_what_is_secret_in_a_demo_is_its_owners_alone() {
    let demo = Demo::new();
    let (mut child, lines) = demo.start(&[], "who is who: 7 sidecars joined by token");
    // The root's key, and that which each sidecar made for itself, as soon as it is kept.
    let begun = Instant::now();
    while secrets(demo.temporary.path()) != (1 + 7, 5) {
        let (keys, tokens) = secrets(demo.temporary.path());
        assert!(begun.elapsed() < SECRETS_WAIT, "{keys} keys and {tokens} tokens");
    }
    send(libc::SIGTERM, &child);
    lines.for_each(drop);
    child.wait().expect("a status");
}

#[test]
fn a_sigterm_ends_a_running_demo_in_order() {
    let demo = Demo::new();
    let (mut child, lines) = demo.start(&[], "100.00%");
    assert!(demo.processes().len() >= 16, "seven apps, seven sidecars, the control plane, and the demo");
    send(libc::SIGTERM, &child);
    let last: Vec<_> = lines.collect();
    let status = child.wait().expect("a status");
    assert!(status.success(), "{status}: {last:?}");
    assert!(last.iter().any(|line| line.contains("0 % to v2, when it was stopped")), "{last:?}");
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_sigterm_during_the_start_leaves_nothing() {
    let demo = Demo::new();
    let (mut child, lines) = demo.start(&[], "starting");
    send(libc::SIGTERM, &child);
    let last: Vec<_> = lines.collect();
    let code = child.wait().expect("a status").code();
    // One that had started by then, since we were late, ends in order.
    let had_started = last.iter().any(|line| line == "in all:");
    assert!(code == Some(1) || had_started && code == Some(0), "{code:?}: {last:?}");
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
