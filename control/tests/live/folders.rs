//! The folder as a whole: gone, empty, unreadable, swapped.

use std::os::unix::fs::symlink;

use bench::wait::until;

use crate::kit::{Live, ORDERS, PLAIN, USERS, folder};

#[tokio::test]
async fn an_emptied_folder_takes_nothing_away_and_is_told() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    live.remove("u.yaml");
    live.remove("o.yaml");
    live.says("there is no mesh file (`*.yaml` or `*.yml`); what was in force stays so").await;
    assert_eq!(live.services().await, ["orders.default", "users.default"]);
    assert_eq!(live.metric("outrigger_control_mesh_lost", &[]).await, 1.0);
    assert_eq!(live.metric("outrigger_control_mesh_lost_total", &[]).await, 1.0);
    live.replace("u.yaml", USERS);
    live.says("it is there again").await;
    until("it is found", async || live.mesh().await["lost"].is_null()).await;
    // One file that is there says what there is.
    live.has(&["users.default"]).await;
}

#[tokio::test]
async fn a_folder_that_goes_away_takes_nothing_away() {
    let live = Live::start(&[("u.yaml", USERS)]).await;
    let (mesh, away) = (live.dir.path().join("mesh"), live.dir.path().join("away"));
    std::fs::rename(&mesh, &away).expect("a rename");
    live.says("No such file or directory").await;
    assert_eq!(live.services().await, ["users.default"]);
    assert!(live.mesh().await["lost"]["why"].as_str().is_some_and(|why| why.contains("No such file")));
    std::fs::write(away.join("u.yaml"), USERS.replace("users", "others")).expect("a file");
    std::fs::rename(&away, &mesh).expect("a rename");
    live.has(&["others.default"]).await;
}

#[tokio::test]
async fn what_is_in_the_folders_place_is_unreadable_and_takes_nothing_away() {
    let live = Live::start(&[("u.yaml", USERS)]).await;
    let mesh = live.dir.path().join("mesh");
    std::fs::rename(&mesh, live.dir.path().join("away")).expect("a rename");
    // Nobody can read a link that leads to itself, not even root.
    symlink(&mesh, &mesh).expect("a link");
    live.says("what was in force stays so").await;
    assert_eq!(live.services().await, ["users.default"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_as_bad_as_any_and_stays_as_it_was() {
    let live = Live::start(&[("u.yaml", USERS), ("o.yaml", ORDERS)]).await;
    let aside = live.dir.path().join("aside");
    // Where it stands in the end, it leads to itself.
    symlink("u.yaml", &aside).expect("a link");
    std::fs::rename(&aside, live.path("u.yaml")).expect("a rename");
    let faults = live.faults("u.yaml").await;
    assert!(faults[0].contains("it cannot be read: "), "{faults:?}");
    assert_eq!(live.file("u.yaml").await["state"], "as_before");
    assert_eq!(live.services().await, ["orders.default", "users.default"]);
}

#[tokio::test]
async fn a_folder_behind_a_link_that_is_swapped_is_one_change() {
    let dir = folder(&[]);
    for (version, text) in [("v1", USERS.to_owned()), ("v2", USERS.replace("users", "others"))] {
        std::fs::create_dir(dir.path().join(version)).expect("a folder");
        std::fs::write(dir.path().join(version).join("u.yaml"), text).expect("a file");
    }
    std::fs::remove_dir(dir.path().join("mesh")).expect("a folder");
    symlink("v1", dir.path().join("mesh")).expect("a link");
    let live = Live::within(dir, PLAIN).await;
    assert_eq!(live.services().await, ["users.default"]);
    symlink("v2", live.dir.path().join("next")).expect("a link");
    std::fs::rename(live.dir.path().join("next"), live.dir.path().join("mesh")).expect("a rename");
    live.has(&["others.default"]).await;
    // And the new folder is followed.
    live.replace("u.yaml", USERS);
    live.has(&["users.default"]).await;
}

#[tokio::test]
async fn a_config_map_is_followed_as_kubernetes_swaps_it() {
    let dir = folder(&[]);
    let mesh = dir.path().join("mesh");
    for (version, text) in [("..1", USERS.to_owned()), ("..2", USERS.replace("10.0.0.1", "10.0.0.9"))] {
        std::fs::create_dir(mesh.join(version)).expect("a folder");
        std::fs::write(mesh.join(version).join("u.yaml"), text).expect("a file");
    }
    symlink("..1", mesh.join("..data")).expect("a link");
    symlink("..data/u.yaml", mesh.join("u.yaml")).expect("a link");
    let live = Live::within(dir, PLAIN).await;
    let before = live.version("ClusterLoadAssignment", "users.default").await;
    symlink("..2", mesh.join("..tmp")).expect("a link");
    std::fs::rename(mesh.join("..tmp"), mesh.join("..data")).expect("a rename");
    std::fs::remove_dir_all(mesh.join("..1")).expect("a folder");
    until("the new version is in force", async || {
        live.version("ClusterLoadAssignment", "users.default").await != before
    })
    .await;
    assert_eq!(live.mesh().await["version"], 2);
}

#[tokio::test]
async fn what_editors_leave_beside_a_file_is_no_mesh_file() {
    let live =
        Live::start(&[("u.yaml", USERS), (".u.yaml.swp", "x"), (".hidden.yaml", "x"), ("u.yaml~", "x")])
            .await;
    assert_eq!(live.mesh().await["files"].as_array().expect("files").len(), 1);
}
