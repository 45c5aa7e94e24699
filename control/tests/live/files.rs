//! One file at a time.

use std::time::{Duration, Instant};

use bench::wait::until;

use crate::kit::{BAD, Live, ORDERS, USERS};

/// What is written within this time is one change: what is gone in between is waited for, 250 ms long.
const TOGETHER: Duration = Duration::from_millis(200);
/// So often a test begins anew where this machine stood still while it wrote.
const TRIES: usize = 5;

#[tokio::test]
async fn several_files_are_one_mesh_and_a_change_of_one_is_a_new_world() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yml", ORDERS)]).await;
    assert_eq!(live.services().await, ["orders.default", "users.default"]);
    let before = live.version("ClusterLoadAssignment", "users.default").await.expect("a resource");
    let other = live.version("RouteConfiguration", "orders.default").await.expect("a resource");
    live.replace("u.yaml", &USERS.replace("10.0.0.1", "10.0.0.9"));
    until("the endpoint is another one", async || {
        live.version("ClusterLoadAssignment", "users.default").await.expect("a resource") != before
    })
    .await;
    assert_eq!(
        live.version("RouteConfiguration", "orders.default").await,
        Some(other),
        "nothing else changes"
    );
    assert_eq!(live.mesh().await["version"], 2);
}

#[tokio::test]
async fn a_bad_file_is_told_with_its_place_and_stays_as_it_was_while_others_go_on() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    let digest = live.file("u.yaml").await["digest"].clone();
    live.replace("u.yaml", BAD);
    let faults = live.faults("u.yaml").await;
    assert!(faults.concat().contains("u.yaml:2:13: services[0].nam: unknown key `nam`"), "{faults:?}");
    let file = live.file("u.yaml").await;
    assert_eq!((&file["state"], &file["digest"]), (&"as_before".into(), &digest));
    live.says("a mesh file cannot be used, and what was in force stays so").await;
    live.replace("o.yaml", &ORDERS.replace("name: orders", "name: sales"));
    live.has(&["sales.default", "users.default"]).await;
    let label = live.file("u.yaml").await["path"].as_str().expect("a path").to_owned();
    assert_eq!(live.metric("outrigger_control_mesh_rejected_total", &[("file", &label)]).await, 1.0);
    assert_eq!(live.metric("outrigger_control_mesh_files", &[("state", "as_before")]).await, 1.0);
    live.replace("u.yaml", USERS);
    live.good("u.yaml").await;
    live.says("good again").await;
    assert_eq!(live.plane.get("/ready").await.expect("a page").status, 200);
}

#[tokio::test]
async fn a_file_that_was_never_good_is_left_out_and_what_names_its_services_is_warned_of() {
    let live = Live::start(&[("u.yaml", BAD), ("o.yaml", ORDERS)]).await;
    assert_eq!(live.services().await, ["orders.default", "users.default"]);
    assert_eq!(live.file("u.yaml").await["state"], "left_out");
    let warnings = crate::kit::texts(&live.file("o.yaml").await["warnings"]);
    assert!(warnings[0].contains("no service `users.default`; it has no endpoints while"), "{warnings:?}");
    assert!(warnings[0].contains("u.yaml cannot be used"), "{warnings:?}");
    let empty = live.version("ClusterLoadAssignment", "users.default").await;
    live.replace("u.yaml", USERS);
    until("the endpoints are there", async || {
        live.version("ClusterLoadAssignment", "users.default").await != empty
    })
    .await;
    live.good("u.yaml").await;
    assert_eq!(crate::kit::texts(&live.file("o.yaml").await["warnings"]), [""; 0]);
}

#[tokio::test]
async fn a_file_that_is_written_in_pieces_is_never_taken_by_half() {
    let text: String = (0..500)
        .map(|at| format!("  - {{name: s{at:03}, endpoints: [\"10.0.0.1:1\"]}}\n"))
        .fold("version: 1\nservices:\n".to_owned(), |text, line| text + &line);
    // Each piece ends a line, so that half of it is good YAML; the pace is that of a slow disk.
    let lines: Vec<&[u8]> = text.as_bytes().split_inclusive(|byte| *byte == b'\n').collect();
    for _ in 0..TRIES {
        use std::io::Write as _;
        let live = Live::start(&[("u.yaml", USERS)]).await;
        let begun = Instant::now();
        let mut file = std::fs::File::create(live.path("u.yaml")).expect("a file");
        for piece in lines.chunks(25) {
            file.write_all(&piece.concat()).expect("a write");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if begun.elapsed() >= TOGETHER {
            continue;
        }
        until("all services are there", async || live.services().await.len() == 500).await;
        assert_eq!(live.mesh().await["version"], 2, "a world was made of half a file");
        return;
    }
    panic!("this machine is too slow for this test: it never wrote the file within {TOGETHER:?}");
}

#[tokio::test]
async fn two_files_with_one_host_are_a_fault_of_the_one_that_came_later() {
    let b = "version: 1\nservices: [{name: b, hosts: [pay.example]}]\n";
    let live = Live::start(&[("b.yaml", b)]).await;
    // Earlier by name, later in time.
    live.replace("a.yaml", &b.replace("name: b", "name: a"));
    let faults = live.faults("a.yaml").await;
    assert!(
        faults[0].contains("the host `pay.example` belongs to the service `b.default` already"),
        "{faults:?}"
    );
    assert!(faults[0].contains("b.yaml"), "{faults:?}");
    assert_eq!(live.services().await, ["b.default"]);
    // It moves: taken from the one first, then to the other.
    live.replace("b.yaml", "version: 1\nservices: [{name: b}]\n");
    live.has(&["a.default", "b.default"]).await;
    live.good("a.yaml").await;
}

#[tokio::test]
async fn a_service_that_moves_between_files_in_two_writes_is_never_gone() {
    let none = "version: 1\nservices: []\n";
    for _ in 0..TRIES {
        let live = Live::start(&[("a.yaml", USERS), ("b.yaml", none)]).await;
        let digest = async |name: &str| live.file(name).await["digest"].clone();
        let (full, empty) = (digest("a.yaml").await, digest("b.yaml").await);
        let begun = Instant::now();
        live.replace("a.yaml", none);
        tokio::time::sleep(Duration::from_millis(60)).await;
        let meanwhile = live.services().await;
        live.replace("b.yaml", USERS);
        if begun.elapsed() >= TOGETHER {
            continue;
        }
        assert_eq!(meanwhile, ["users.default"], "it is given time to come again");
        until("both are in force", async || {
            (digest("a.yaml").await, digest("b.yaml").await) == (empty.clone(), full.clone())
        })
        .await;
        live.good("b.yaml").await;
        live.good("a.yaml").await;
        assert_eq!(live.mesh().await["version"], 1, "no client was told of anything");
        return;
    }
    panic!("this machine is too slow for this test: it never wrote both files within {TOGETHER:?}");
}

#[tokio::test]
async fn a_deleted_file_takes_its_services_away() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    live.remove("o.yaml");
    live.has(&["users.default"]).await;
    live.says("o.yaml: the file is gone, and its services with it").await;
}

#[tokio::test]
async fn sighup_tells_faults_that_stand_once_more() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    live.replace("u.yaml", BAD);
    live.faults("u.yaml").await;
    live.plane.hup();
    until("the fault is told again", async || live.plane.stderr().matches("unknown key `nam`").count() == 2)
        .await;
}

#[tokio::test]
async fn a_new_file_that_takes_a_short_name_from_a_service_in_force_is_told() {
    let live = Live::start(&[("u.yaml", USERS)]).await;
    live.replace("n.yaml", "version: 1\nservices: [{name: users, namespace: new}]\n");
    live.has(&["users.default", "users.new"]).await;
    live.says("the host `users` does not lead to users.default any more").await;
}

#[tokio::test]
async fn a_mesh_file_that_is_a_pipe_is_a_bad_file_and_nobody_waits_for_it() {
    let live = Live::start(&[("u.yaml", USERS)]).await;
    let made = std::process::Command::new("mkfifo").arg(live.path("p.yaml")).status().expect("mkfifo");
    assert!(made.success());
    assert!(live.faults("p.yaml").await[0].contains("it is not a regular file"));
    live.replace("u.yaml", &USERS.replace("name: users", "name: people"));
    live.has(&["people.default"]).await;
}
