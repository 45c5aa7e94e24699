//! A changed mesh file: for calls that begin from then on, and without harm to those in flight.

use bench::wait::{soon, until};

use crate::kit::{Live, at, call, echo, echoes, landed, mesh, stream};

#[tokio::test]
async fn calls_go_by_the_new_file_and_streams_end_where_they_began() {
    let (one, two) = (echo("one").await, echo("two").await);
    let live = Live::caller(&mesh(&[at(&one)]), "").await;
    let client = live.client().await;
    let mut stream = stream(&client).await;
    live.replace("mesh.yaml", &mesh(&[at(&two)]));
    live.lands_on(&client, "two").await;
    one.clear();
    for _ in 0..100 {
        assert_eq!(landed(&call(&client).await), "two");
    }
    assert!(one.calls().is_empty(), "no call goes where the old file said");
    echoes(&mut stream).await;
    let outcome = stream.finish().await;
    assert!(outcome.is_ok(), "{outcome:?}");
    until("the connection is let go", async || one.open_connections() == 0).await;
}

#[tokio::test]
async fn a_call_of_an_old_snapshot_is_ended_by_the_drain_like_any_other() {
    let (one, two) = (echo("one").await, echo("two").await);
    let mut live = Live::caller(&mesh(&[at(&one)]), "").await;
    let client = live.client().await;
    let mut stream = stream(&client).await;
    live.replace("mesh.yaml", &mesh(&[at(&two)]));
    live.lands_on(&client, "two").await;
    echoes(&mut stream).await;
    live.sidecar.term();
    // `drain.deadline` is a second, and nobody ends the stream.
    let outcome = soon("the end of the stream", stream.receiver.finish()).await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.message.contains("shutting down"), "{outcome:?}");
    assert!(soon("the sidecar's end", live.sidecar.wait()).await.expect("a status").success());
}

#[tokio::test]
async fn connections_to_what_was_taken_out_are_closed_though_nobody_calls() {
    let (one, two) = (echo("one").await, echo("two").await);
    let live = Live::caller(&mesh(&[at(&one)]), "").await;
    // One connection to the sidecar for each of its two workers.
    let clients = (live.client().await, live.client().await);
    call(&clients.0).await;
    call(&clients.1).await;
    assert_eq!(one.open_connections(), 2);
    live.replace("mesh.yaml", &mesh(&[at(&two)]));
    until("both are closed", async || one.open_connections() == 0 && live.upstream().await == 0.0).await;
}

#[tokio::test]
async fn what_has_not_changed_keeps_its_connections_and_its_counts() {
    let (one, two) = (echo("one").await, echo("two").await);
    let live = Live::caller(&mesh(&[at(&one)]), "").await;
    let client = live.client().await;
    call(&client).await;
    let answered = async || {
        let labels = [("service", "echo.shop"), ("outcome", "answered")];
        live.metric("outrigger_attempts_total", &labels).await
    };
    until("it is counted", async || answered().await == 1.0).await;
    live.replace("mesh.yaml", &mesh(&[at(&one), at(&two)]));
    live.in_force("mesh", 2).await;
    assert_eq!(answered().await, 1.0);
    for _ in 0..20 {
        call(&client).await;
    }
    assert_eq!(one.accepted(), 1, "the connection is still the one from before");
    // Without the service at all, what was counted stays.
    let without = "version: 1\nservices: [{name: caller, namespace: shop}]\n";
    live.replace("mesh.yaml", without);
    live.in_force("mesh", 3).await;
    until("the counts stay", async || answered().await == 21.0).await;
    live.replace("mesh.yaml", &mesh(&[at(&one)]));
    live.in_force("mesh", 4).await;
    live.lands_on(&client, "one").await;
    assert!(answered().await >= 22.0);
}

#[tokio::test]
async fn a_file_is_followed_however_it_is_replaced() {
    let servers = [echo("0").await, echo("1").await, echo("2").await, echo("3").await, echo("4").await];
    let live = Live::caller(&mesh(&[at(&servers[0])]), "").await;
    let client = live.client().await;
    let path = |name: &str| live.dir.path().join(name);

    live.write("mesh.yaml", &mesh(&[at(&servers[1])]));
    live.lands_on(&client, "1").await;

    // As the kubelet does it: mesh.yaml -> ..data/mesh.yaml, ..data -> a folder for each version.
    for version in ["v2", "v3"] {
        std::fs::create_dir(path(version)).expect("a folder");
    }
    std::fs::write(path("v2/mesh.yaml"), mesh(&[at(&servers[2])])).expect("a file");
    std::fs::write(path("v3/mesh.yaml"), mesh(&[at(&servers[3])])).expect("a file");
    std::os::unix::fs::symlink("v2", path("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/mesh.yaml", path("next")).expect("a link");
    std::fs::rename(path("next"), path("mesh.yaml")).expect("a rename");
    live.lands_on(&client, "2").await;
    std::os::unix::fs::symlink("v3", path("..data_tmp")).expect("a link");
    std::fs::rename(path("..data_tmp"), path("..data")).expect("a rename");
    live.lands_on(&client, "3").await;

    // In the folder that the link leads to.
    std::fs::write(path("v3/mesh.yaml"), mesh(&[at(&servers[4])])).expect("a file");
    live.lands_on(&client, "4").await;
}

#[tokio::test]
async fn a_hangup_forces_a_look_and_says_that_the_sidecars_own_file_is_not_followed() {
    let (one, two) = (echo("one").await, echo("two").await);
    let live = Live::caller(&mesh(&[at(&one)]), "").await;
    let client = live.client().await;
    call(&client).await;
    let path = live.dir.path().join("mesh.yaml");
    let before = std::fs::metadata(&path).expect("a file").modified().expect("a time");
    live.in_force("mesh", 1).await;
    // The same length and the same time as before, in the same file: no stamp tells that it has changed.
    let (old, new) = (mesh(&[at(&one)]), mesh(&[at(&two)]));
    let pad = " ".repeat(old.len().saturating_sub(new.len()));
    live.write("mesh.yaml", &(new + &pad));
    let file = std::fs::File::options().append(true).open(&path).expect("a file");
    file.set_modified(before).expect("a time");
    let yaml = std::fs::read_to_string(live.dir.path().join("sidecar.yaml")).expect("a file");
    live.write("sidecar.yaml", &yaml.replace("workers: 2", "workers: 3"));
    live.sidecar.hup();
    live.lands_on(&client, "two").await;
    live.says("sidecar.yaml has changed").await;
}
