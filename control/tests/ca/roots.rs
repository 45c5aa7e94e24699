//! Roots that come and go while a control plane runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bench::joiner::Csr;
use bench::plane::ControlPlane;
use bench::wait::until;
use outrigger_control::ca::make::{make_root, make_token};

use crate::kit::{CA, Live, ORDERS, binary, folder, yaml};

async fn trusted(live: &Live) -> Vec<String> {
    let page = live.page().await;
    page["trusted"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn a_control_plane_makes_its_first_root_and_the_next_one_takes_over_after_the_overlap() {
    let live = Live::within(folder(), &yaml(&format!("{CA}, overlap: 6s, leaf_life: 1h"), "")).await;
    let [first] = &trusted(&live).await[..] else { panic!("not one root") };
    let mode = fs::metadata(live.ca().join(format!("{first}.key"))).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(live.page().await["signer"], first.as_str());
    let leaf = live.join(ORDERS).await;
    let held = live.connect(Some(&leaf)).await.expect("a connection");

    let begun = SystemTime::now();
    let second = live.add_root();
    until("it is trusted", async || trusted(&live).await == [first.clone(), second.clone()]).await;
    let page = live.page().await;
    assert_eq!(page["signer"], first.as_str());
    assert_eq!(page["next"]["what"], format!("{second} signs"));
    until("it signs", async || live.page().await["signer"] == second.as_str()).await;
    let after = begun.elapsed().unwrap_or_default();
    assert!(after >= Duration::from_secs(6), "{after:?}: no sooner than after the overlap");
    assert_eq!(trusted(&live).await, [second.clone(), first.clone()]);
    assert_eq!(live.metric("outrigger_control_ca_root_signs", &[("root", &second)]).await, 1.0);
    // What the first has signed is good, and the next is signed by the second.
    let mut connection = live.connect(Some(&leaf)).await.expect("a connection");
    let csr = Csr::of(&[ORDERS]);
    let answer = connection.create(None, &csr.pem, 0).await;
    let root = fs::read_to_string(live.ca().join(format!("{second}.crt"))).expect("a root");
    assert_eq!(answer.chain()[1], root);
    live.connect(Some(&csr.leaf(&answer))).await.expect("a connection");
    assert!(held.is_open());
    let ends = live.metric("outrigger_control_ca_root_expires_timestamp_seconds", &[("root", &second)]).await;
    let in_ten_years =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs_f64()
            + 3_650.0 * 86_400.0;
    assert!((ends - in_ten_years).abs() < 60.0);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_changes_nothing_and_is_told() {
    let live = Live::start().await;
    let [first] = &trusted(&live).await[..] else { panic!("not one root") };
    let key = live.ca().join(format!("{first}.key"));
    let faulty = async |is: f64| {
        until(format!("faulty is {is}"), async || {
            live.metric("outrigger_control_ca_faulty", &[]).await == is
        })
        .await;
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    live.says("what was in force stays so").await;
    live.says(&format!("{first}.key: ")).await;
    live.says("chmod 600").await;
    faulty(1.0).await;
    assert!(live.page().await["fault"]["why"].as_str().is_some_and(|why| why.contains("0644")));
    assert_eq!(live.plane.get("/ready").await.expect("a page").status, 200);
    live.join(ORDERS).await;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    faulty(0.0).await;

    fs::write(live.ca().join("another.crt"), "no certificate").expect("a file");
    faulty(1.0).await;
    fs::remove_file(live.ca().join("another.crt")).expect("a file");
    faulty(0.0).await;
    let away = live.dir.path().join("away");
    fs::rename(live.ca(), &away).expect("a rename");
    faulty(1.0).await;
    assert_eq!(trusted(&live).await, [first.as_str()]);
    fs::rename(&away, live.ca()).expect("a rename");
    faulty(0.0).await;
    assert!(live.metric("outrigger_control_ca_rejected_total", &[]).await >= 3.0);
    live.join(ORDERS).await;
}

#[tokio::test]
async fn a_key_that_others_can_read_stops_the_start() {
    let dir = folder();
    let made = make_root(&dir.path().join("ca"), SystemTime::now()).expect("a root");
    let key = made.certificate.with_extension("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    let error =
        ControlPlane::start(binary(), &yaml(CA, ""), dir.path()).await.err().expect("no start").to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

/// Puts a version of the files into a folder as Kubernetes does: behind a link that is swapped.
fn mount(folder: &Path, version: &str, files: &[(String, Vec<u8>)]) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir_all(&data).expect("a folder");
    for (name, bytes) in files {
        fs::write(data.join(name), bytes).expect("a file");
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o400)).expect("a mode");
        if fs::symlink_metadata(folder.join(name)).is_err() {
            symlink(Path::new("..data").join(name), folder.join(name)).expect("a link");
        }
    }
    symlink(format!("..{version}"), folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a rename");
}

fn files(of: &Path) -> Vec<(String, Vec<u8>)> {
    let all = fs::read_dir(of).expect("a folder").map(|entry| entry.expect("an entry").path());
    let read = |path: std::path::PathBuf| {
        (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("a file"))
    };
    all.filter(|path| path.is_file()).map(read).filter(|(name, _)| name != "bundle.pem").collect()
}

#[tokio::test]
async fn roots_that_are_handed_in_as_a_secret_are_followed_and_the_cache_remembers_used_tokens() {
    let made = tempfile::tempdir().expect("a folder");
    let first = make_root(made.path(), SystemTime::now()).expect("a root");
    let id = config::spiffe::SpiffeId::parse(ORDERS).expect("an id");
    let hour = Duration::from_secs(3_600);
    let token = make_token(made.path(), &id, hour, true, SystemTime::now()).expect("a token");
    let dir = folder();
    let ca = dir.path().join("ca");
    mount(&ca, "1", &files(made.path()));
    // As good as read-only, for root as well: nobody can make a folder of that name.
    fs::write(ca.join("used"), "").expect("a file");
    let live = Live::within(dir, &yaml(&format!("{CA}, overlap: 1h"), "cache: cache")).await;
    let name = first.certificate.file_stem().expect("a name").to_string_lossy().into_owned();
    assert_eq!(trusted(&live).await, std::slice::from_ref(&name));
    let mut connection = live.connect(None).await.expect("a connection");
    let csr = Csr::of(&[ORDERS]);
    csr.leaf(&connection.create(Some(&token), &csr.pem, 0).await);
    assert_eq!(connection.create(Some(&token), &csr.pem, 0).await.code, "UNAUTHENTICATED");
    assert_eq!(fs::read_dir(live.dir.path().join("cache/used")).expect("a folder").count(), 1);

    make_root(made.path(), SystemTime::now()).expect("a root");
    mount(&ca_of(&live), "2", &files(made.path()));
    until("the second is trusted", async || trusted(&live).await.len() == 2).await;
    assert_eq!(live.page().await["signer"], name.as_str());
}

fn ca_of(live: &Live) -> std::path::PathBuf {
    live.ca()
}

#[tokio::test]
async fn the_first_line_is_the_addresses_also_where_the_audit_goes_to_stdout() {
    for _ in 0..3 {
        let live = Live::within(folder(), &yaml("folder: ca, names: [\"127.0.0.1\"]", "")).await;
        live.join(ORDERS).await;
    }
}

#[tokio::test]
async fn a_root_that_was_stolen_renews_nothing_and_the_next_signs_at_once() {
    let live = Live::within(folder(), &yaml(&format!("{CA}, overlap: 1h"), "")).await;
    let [first] = &trusted(&live).await[..] else { panic!("not one root") };
    let leaf = live.join(ORDERS).await;
    let mut connection = live.connect(Some(&leaf)).await.expect("a connection");
    assert_eq!(connection.create(None, &Csr::of(&[]).pem, 0).await.code, "OK");
    let asked = live.audit("issued", 2).await;
    assert_eq!(asked[1]["asker_root"], first.as_str(), "{}", asked[1]);
    let second = live.add_root();
    until("it is trusted", async || trusted(&live).await.len() == 2).await;
    assert_eq!(live.page().await["signer"], first.as_str());
    fs::write(live.ca().join(format!("{first}.stolen")), "").expect("a file");
    until("the next one signs", async || live.page().await["signer"] == second.as_str()).await;
    assert_eq!(trusted(&live).await.len(), 2, "what it has signed is good");
    // Whoever has its key can make a certificate of any workload, and gets no new one by it.
    let answer = connection.create(None, &Csr::of(&[]).pem, 0).await;
    assert_eq!(answer.code, "UNAUTHENTICATED", "{}", answer.message);
    assert!(answer.message.contains("was stolen"), "{}", answer.message);
    assert_eq!(live.refused("stolen_root").await, 1.0);
    let renewed = live.join(ORDERS).await;
    let mut connection = live.connect(Some(&renewed)).await.expect("a connection");
    assert_eq!(connection.create(None, &Csr::of(&[]).pem, 0).await.code, "OK");
}

#[tokio::test]
async fn a_folder_with_other_roots_alone_changes_nothing_until_it_is_asked_for() {
    let live = Live::start().await;
    let before = trusted(&live).await;
    let other = tempfile::tempdir().expect("a folder");
    make_root(other.path(), SystemTime::now()).expect("a root");
    for (name, bytes) in files(other.path()) {
        ::files::write(&live.ca().join(name), &bytes, ::files::PRIVATE).expect("a file");
    }
    until("both are trusted", async || trusted(&live).await.len() == 2).await;
    let all = live.ca();
    let away = live.dir.path().join("away");
    fs::rename(&all, &away).expect("a rename");
    let strange = tempfile::tempdir().expect("a folder");
    let root = make_root(strange.path(), SystemTime::now()).expect("a root");
    fs::create_dir(&all).expect("a folder");
    for (name, bytes) in files(strange.path()) {
        ::files::write(&all.join(name), &bytes, ::files::PRIVATE).expect("a file");
    }
    live.says("not one root that is trusted now is in it").await;
    assert!(trusted(&live).await.contains(&before[0]));
    live.plane.hup();
    let name = root.certificate.file_stem().expect("a name").to_string_lossy().into_owned();
    until("it is meant", async || trusted(&live).await == [name.clone()]).await;
}

#[tokio::test]
async fn a_key_that_would_have_its_root_leave_the_trust_is_not_taken() {
    let live = Live::start().await;
    let older = tempfile::tempdir().expect("a folder");
    let then = SystemTime::now() - Duration::from_secs(90 * 86_400);
    let root = make_root(older.path(), then).expect("a root").certificate;
    let key = root.with_extension("key");
    let to = |path: &Path| live.ca().join(path.file_name().expect("a name"));
    fs::copy(&root, to(&root)).expect("a file");
    until("it is trusted", async || trusted(&live).await.len() == 2).await;
    fs::copy(&key, to(&key)).expect("a file");
    live.says("it would never sign").await;
    assert_eq!(trusted(&live).await.len(), 2);
    assert_eq!(live.metric("outrigger_control_ca_faulty", &[]).await, 1.0);
}

#[tokio::test]
async fn where_a_used_token_cannot_be_remembered_nobody_gets_a_certificate_for_it() {
    let dir = folder();
    let ca = dir.path().join("ca");
    make_root(&ca, SystemTime::now()).expect("a root");
    fs::write(ca.join("used"), "").expect("a file");
    let live = Live::within(dir, &yaml(CA, "")).await;
    let token = live.token_with(ORDERS, Duration::from_secs(600), true);
    let mut connection = live.connect(None).await.expect("a connection");
    let answer = connection.create(Some(&token), &Csr::of(&[ORDERS]).pem, 0).await;
    assert_eq!(answer.code, "UNAVAILABLE", "{}", answer.message);
    assert!(answer.message.contains("`cache`"), "{}", answer.message);
    assert_eq!(live.refused("no_memory_of_tokens").await, 1.0);
    assert_eq!(connection.create(Some(&live.token(ORDERS)), &Csr::of(&[ORDERS]).pem, 0).await.code, "OK");
}

#[tokio::test]
async fn a_root_without_its_key_is_trusted_and_nothing_is_signed() {
    let live = Live::start().await;
    let token = live.token(ORDERS);
    let [first] = &trusted(&live).await[..] else { panic!("not one root") };
    let key = live.ca().join(format!("{first}.key"));
    let away = live.dir.path().join("away.key");
    let leaf = live.join(ORDERS).await;
    fs::rename(&key, &away).expect("a rename");
    until("nothing signs", async || live.page().await["signer"].is_null()).await;
    let mut connection = live.connect(Some(&leaf)).await.expect("who has a certificate is let in");
    let answer = connection.create(Some(&token), &Csr::of(&[ORDERS]).pem, 0).await;
    assert_eq!(answer.code, "UNAVAILABLE", "{}", answer.message);
    assert_eq!(live.refused("no_ca").await, 1.0);
    live.says("our own certificate cannot be renewed").await;
    // Who is let in changes all the same: by another root without a key, and then by that alone.
    let other = bench::certs::Ca::new("cluster.local");
    std::fs::write(live.ca().join("other.crt"), other.bundle_pem()).expect("a file");
    let theirs = other.leaf(ORDERS);
    until("another root is believed", async || live.connect(Some(&theirs)).await.is_ok()).await;
    fs::rename(live.ca().join(format!("{first}.crt")), live.dir.path().join("away.crt")).expect("a rename");
    connection.ended().await;
    fs::rename(live.dir.path().join("away.crt"), live.ca().join(format!("{first}.crt"))).expect("a rename");
    fs::rename(&away, &key).expect("a rename");
    until("it signs again", async || live.page().await["signer"] == first.as_str()).await;
    until("it is let in again", async || live.connect(Some(&leaf)).await.is_ok()).await;
    let mut connection = live.connect(Some(&leaf)).await.expect("a connection");
    assert_eq!(connection.create(None, &Csr::of(&[ORDERS]).pem, 0).await.code, "OK");
}
