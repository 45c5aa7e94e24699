//! Every key of `control.yaml`, each with a test that changes only that key and sees the effect.
//!
//! [`Case::change`] changes the key that the test stands for and nothing else; [`no_key_is_without_a_test`] compares the table
//! with the schema.

use std::io;
use std::time::Duration;

use bench::certs::{Ca, Leaf, LeafSpec, write_identity};
use bench::plane::ControlPlane;
use bench::subscriber::{Subscriber, TYPES, sidecar};
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::ca_keys::{
    a_new_root_waits_as_long, all_together_get_no_more_certificates, certificates_live_as_long,
    lines_are_written_there, one_more_ends_the_oldest_that_proves_nothing,
    one_workload_gets_no_more_certificates, the_control_plane_is_met_by_them, the_first_root_is_made_there,
};
use crate::kit::{BAD, Live, binary, folder};

/// `"key" => function`, and a `#[tokio::test]` for each line.
macro_rules! cases {
    ($($key:literal => $test:ident,)*) => {
        const KEYS: &[&str] = &[$($key),*];

        mod key {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Case($key)).await;
            })*
        }
    };
}

cases! {
    "control.mesh" => it_is_what_is_served,
    "control.ads.listen" => xds_is_served_there,
    "control.ads.plaintext" => no_tls_is_spoken,
    "control.admin.listen" => the_pages_are_there,
    "control.identity.cert" => it_is_read_from_there,
    "control.identity.key" => its_key_is_read_from_there,
    "control.identity.bundle" => callers_that_it_vouches_for_are_let_in,
    "control.cache" => a_start_with_a_bad_file_has_its_last_good_version,
    "control.debounce.quiet" => a_change_waits_as_long,
    "control.debounce.longest" => changes_without_end_wait_as_long,
    "control.on_demand_above" => a_wildcard_brings_nothing_past_it,
    "control.registration.grace" => an_endpoint_stays_as_long,
    "control.limits.connections" => one_more_is_turned_away,
    "control.limits.handshakes" => one_more_ends_the_oldest,
    "control.limits.handshake_timeout" => silence_ends_as_soon,
    "control.limits.streams" => one_more_is_refused,
    "control.limits.subscriptions" => one_name_more_ends_the_stream,
    "control.limits.request" => a_larger_one_ends_the_stream,
    "control.limits.requests_per_second" => more_are_read_more_slowly,
    "control.limits.registrations" => one_more_is_not_taken,
    "control.limits.csrs_per_second" => all_together_get_no_more_certificates,
    "control.limits.csrs_per_identity" => one_workload_gets_no_more_certificates,
    "control.limits.unproven" => one_more_ends_the_oldest_that_proves_nothing,
    "control.ca.folder" => the_first_root_is_made_there,
    "control.ca.leaf_life" => certificates_live_as_long,
    "control.ca.overlap" => a_new_root_waits_as_long,
    "control.ca.names[]" => the_control_plane_is_met_by_them,
    "control.ca.audit" => lines_are_written_there,
}

#[test]
fn no_key_is_without_a_test() {
    let mut keys: Vec<String> =
        config::leaf_keys().into_iter().filter(|key| key.starts_with("control.")).collect();
    keys.sort();
    let mut tested = KEYS.to_vec();
    tested.sort_unstable();
    assert_eq!(tested, keys);
}

const USERS: &str = "version: 1\nservices: [{name: users, namespace: bench, registration: true, endpoints: [\"10.0.0.1:1\"]}]\n";
const OTHERS: &str = "version: 1\nservices: [{name: others, namespace: bench}]\n";

/// The key that a test stands for.
pub(crate) struct Case(&'static str);

impl Case {
    /// A `control.yaml` with another value there.
    pub(crate) fn change(&self, base: &Value, value: impl Into<Value>) -> Value {
        let pointer = self.0.trim_start_matches("control").trim_end_matches("[]").replace('.', "/");
        let mut changed = base.clone();
        let (block, key) = pointer.rsplit_once('/').expect("a key");
        let mut at = &mut changed;
        for name in block.split('/').filter(|name| !name.is_empty()) {
            let blocks = at.as_object_mut().expect("a block");
            at = blocks.entry(name).or_insert_with(|| json!({}));
        }
        let before = at.as_object_mut().expect("a block").insert(key.to_owned(), value.into());
        assert_ne!(before.as_ref(), changed.pointer(&pointer), "nothing would change");
        changed
    }
}

/// What all tests begin with.
fn base() -> Value {
    json!({
        "mesh": "mesh",
        "ads": {"listen": "127.0.0.1:0"},
        "admin": {"listen": "127.0.0.1:0"},
        "identity": {"cert": "tls.crt", "key": "tls.key", "bundle": "ca.crt"},
    })
}

/// An authority, and control planes with certificates of it.
struct Site {
    ca: Ca,
}

impl Site {
    fn new() -> Self {
        Self { ca: Ca::new("cluster.local") }
    }

    /// A folder with a mesh and an identity.
    fn folder(&self) -> TempDir {
        let dir = folder(&[("others.yaml", OTHERS), ("users.yaml", USERS)]);
        let spec = LeafSpec { addresses: vec![[127, 0, 0, 1].into()], ..LeafSpec::default() };
        write_identity(dir.path(), &self.ca.leaf_with(&spec), self.ca.bundle_pem()).expect("an identity");
        dir
    }

    async fn start(&self, yaml: &Value) -> Live {
        Live::within(self.folder(), &yaml.to_string()).await
    }

    fn leaf(&self) -> Leaf {
        self.ca.leaf("spiffe://cluster.local/ns/bench/sa/users")
    }

    /// A sidecar of `users` on a connection of its own, which announces these addresses.
    async fn subscriber(&self, live: &Live, id: &str, announced: &[&str]) -> io::Result<Subscriber> {
        self.subscriber_as(&self.leaf(), live, id, announced).await
    }

    async fn subscriber_as(
        &self,
        leaf: &Leaf,
        live: &Live,
        id: &str,
        announced: &[&str],
    ) -> io::Result<Subscriber> {
        let tls = client_config(&TlsIdentity::mutual(leaf, self.ca.bundle_pem()))?;
        let endpoints: Vec<(&str, String)> =
            announced.iter().map(|address| ("users", (*address).to_owned())).collect();
        soon("a stream", Subscriber::connect(live.plane.bound.ads, tls, sidecar(id, &endpoints))).await
    }

    /// One that has asked for all listeners and has its answer.
    async fn served(&self, live: &Live, id: &str) -> io::Result<Subscriber> {
        let mut subscriber = self.subscriber(live, id, &[]).await?;
        subscriber.ask(TYPES[0], &[])?;
        soon("an answer", subscriber.take()).await?;
        Ok(subscriber)
    }
}

async fn refused(live: &Live, limit: &str) -> f64 {
    live.metric("outrigger_control_refused_total", &[("limit", limit)]).await
}

async fn registered(live: &Live) -> f64 {
    live.metric("outrigger_control_registered_endpoints", &[]).await
}

/// Why it does not start.
async fn fails(dir: &TempDir, yaml: &Value) -> String {
    let started = ControlPlane::start(binary(), &yaml.to_string(), dir.path()).await;
    started.err().expect("it cannot start").to_string()
}

/// What the xDS listener says to an HTTP/2 preface without TLS, as far as a frame's head goes.
async fn greeted(live: &Live) -> io::Result<[u8; 9]> {
    let mut tcp = TcpStream::connect(live.plane.bound.ads).await?;
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut head = [0; 9];
    soon("an answer or an end", tcp.read_exact(&mut head)).await?;
    Ok(head)
}

async fn it_is_what_is_served(case: Case) {
    let site = Site::new();
    for (yaml, services) in [
        (base(), &["others.bench", "users.bench"][..]),
        (case.change(&base(), "mesh/users.yaml"), &["users.bench"]),
    ] {
        assert_eq!(site.start(&yaml).await.services().await, services);
    }
}

async fn xds_is_served_there(case: Case) {
    let site = Site::new();
    for (yaml, address) in [(base(), "127.0.0.1"), (case.change(&base(), "127.0.0.2:0"), "127.0.0.2")] {
        let live = site.start(&yaml).await;
        assert_eq!(live.plane.bound.ads.ip().to_string(), address);
        TcpStream::connect(live.plane.bound.ads).await.expect("it listens");
    }
}

async fn no_tls_is_spoken(case: Case) {
    let site = Site::new();
    let plain = case.change(&base(), true);
    assert!(greeted(&site.start(&base()).await).await.map_or(true, |head| head[3] != 4), "no SETTINGS");
    assert_eq!(greeted(&site.start(&plain).await).await.expect("a frame")[3], 4, "SETTINGS");
}

async fn the_pages_are_there(case: Case) {
    let site = Site::new();
    for (yaml, address) in [(base(), "127.0.0.1"), (case.change(&base(), "127.0.0.2:0"), "127.0.0.2")] {
        let live = site.start(&yaml).await;
        assert_eq!(live.plane.bound.admin.ip().to_string(), address);
        assert_eq!(live.plane.get("/ready").await.expect("a page").status, 200);
    }
}

/// The file stands elsewhere: only whoever looks there starts.
async fn moved(case: Case, file: &str) {
    let site = Site::new();
    let dir = site.folder();
    std::fs::rename(dir.path().join(file), dir.path().join("moved")).expect("a rename");
    let says = fails(&dir, &base()).await;
    assert!(says.contains(file), "{says}");
    let live = Live::within(dir, &case.change(&base(), "moved").to_string()).await;
    site.served(&live, "a").await.expect("an answer");
}

async fn it_is_read_from_there(case: Case) {
    moved(case, "tls.crt").await;
}

async fn its_key_is_read_from_there(case: Case) {
    moved(case, "tls.key").await;
}

async fn callers_that_it_vouches_for_are_let_in(case: Case) {
    let (site, other) = (Site::new(), Ca::new("cluster.local"));
    let leaf = other.leaf("spiffe://cluster.local/ns/bench/sa/users");
    for (yaml, is_in) in [(base(), false), (case.change(&base(), "other.crt"), true)] {
        let dir = site.folder();
        std::fs::write(dir.path().join("other.crt"), other.bundle_pem()).expect("a file");
        let live = Live::within(dir, &yaml.to_string()).await;
        let subscribed = async {
            let mut subscriber = site.subscriber_as(&leaf, &live, "a", &[]).await?;
            subscriber.ask(TYPES[0], &[])?;
            soon("an answer", subscriber.take()).await
        };
        assert_eq!(subscribed.await.is_ok(), is_in);
    }
}

async fn a_start_with_a_bad_file_has_its_last_good_version(case: Case) {
    let site = Site::new();
    for (yaml, services) in [
        (base(), &["others.bench"][..]),
        (case.change(&base(), "kept/here"), &["others.bench", "users.bench"]),
    ] {
        let live = site.start(&yaml).await;
        let kept = live.dir.path().join("kept/here");
        if yaml.get("cache").is_some() {
            let is_whole = |file: &io::Result<std::fs::DirEntry>| {
                file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|ending| ending == "kept"))
            };
            let files = || std::fs::read_dir(&kept).map_or(0, |files| files.filter(is_whole).count());
            until("both files are kept", async || files() == 2).await;
        }
        live.plane.kill();
        let Live { mut plane, dir } = live;
        soon("its end", plane.wait()).await.expect("a status");
        std::fs::write(dir.path().join("mesh/users.yaml"), BAD).expect("a file");
        let live = Live::within(dir, &yaml.to_string()).await;
        assert_eq!(live.services().await, services);
        live.says("unknown key `nam`").await;
        if yaml.get("cache").is_some() {
            live.says("users.yaml: its last good version is in force, which the cache has from 0 h ago")
                .await;
            let file = live.file("users.yaml").await;
            assert_eq!(file["state"], "as_before");
            assert!(file["in_force_since"].as_f64() > Some(0.0), "{file}");
            // What is kept stays while the file is bad, and what is good again replaces it.
            live.replace("users.yaml", &USERS.replace("name: users", "name: people"));
            live.has(&["others.bench", "people.bench"]).await;
            let text =
                |file: io::Result<std::fs::DirEntry>| std::fs::read_to_string(file.expect("a file").path());
            let texts = || std::fs::read_dir(&kept).expect("a folder").map(text).collect::<Vec<_>>();
            let holds = |name: &str| texts().iter().flatten().any(|text| text.contains(name));
            until("it is kept", async || holds("name: people") && !holds("name: users")).await;
        }
    }
}

/// The file is another one and in force; clients may not have been told yet.
async fn edited(live: &Live) {
    let digest = live.file("users.yaml").await["digest"].clone();
    live.replace("users.yaml", &USERS.replace("10.0.0.1", "10.0.0.9"));
    until("the file is in force", async || live.file("users.yaml").await["digest"] != digest).await;
}

async fn a_change_waits_as_long(case: Case) {
    let site = Site::new();
    let mut base = base();
    base["debounce"] = json!({"quiet": "1h", "longest": "1h"});
    let (long, short) = (site.start(&base).await, site.start(&case.change(&base, "1ms")).await);
    edited(&long).await;
    edited(&short).await;
    until("it is sent", async || short.mesh().await["version"] == 2).await;
    assert_eq!(long.mesh().await["version"], 1);
}

async fn changes_without_end_wait_as_long(case: Case) {
    let site = Site::new();
    let mut base = base();
    base["debounce"] = json!({"quiet": "6s", "longest": "1h"});
    let (long, short) = (site.start(&base).await, site.start(&case.change(&base, "6s")).await);
    let mut last = 10;
    // There are never six seconds without a change.
    until("what there is, is sent", async || {
        last += 1;
        for live in [&long, &short] {
            live.replace("users.yaml", &USERS.replace("10.0.0.1", &format!("10.0.0.{}", last % 200)));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        short.mesh().await["version"].as_u64() >= Some(2)
    })
    .await;
    assert_eq!(long.mesh().await["version"], 1);
}

async fn a_wildcard_brings_nothing_past_it(case: Case) {
    let site = Site::new();
    for (yaml, listeners) in [(base(), 2), (case.change(&base(), 1), 0)] {
        let live = site.start(&yaml).await;
        assert_eq!(site.served(&live, "a").await.expect("an answer").holds(), listeners);
    }
}

async fn an_endpoint_stays_as_long(case: Case) {
    let site = Site::new();
    let (long, short) = (site.start(&base()).await, site.start(&case.change(&base(), "50ms")).await);
    for live in [&long, &short] {
        let mut one = site.subscriber(live, "a", &["10.0.0.9:1"]).await.expect("a stream");
        one.ask(TYPES[1], &[]).expect("a request");
        until("it is registered", async || registered(live).await == 1.0).await;
    }
    until("it is gone", async || registered(&short).await == 0.0).await;
    assert_eq!(registered(&long).await, 1.0);
}

async fn one_more_is_turned_away(case: Case) {
    let site = Site::new();
    for (yaml, is_in) in [(base(), true), (case.change(&base(), 1), false)] {
        let live = site.start(&yaml).await;
        let _first = site.served(&live, "a").await.expect("an answer");
        assert_eq!(site.served(&live, "b").await.is_ok(), is_in);
        assert_eq!(refused(&live, "connections").await, f64::from(u8::from(!is_in)));
    }
}

async fn one_more_ends_the_oldest(case: Case) {
    let site = Site::new();
    for (yaml, limited) in [(base(), false), (case.change(&base(), 1), true)] {
        let live = site.start(&yaml).await;
        let mut silent = TcpStream::connect(live.plane.bound.ads).await.expect("a connection");
        let _one_more = site.served(&live, "a").await.expect("an answer");
        assert_eq!(refused(&live, "handshakes").await, f64::from(u8::from(limited)));
        if limited {
            assert!(matches!(soon("its end", silent.read(&mut [0])).await, Ok(0) | Err(_)));
        }
    }
}

async fn silence_ends_as_soon(case: Case) {
    let site = Site::new();
    let (long, short) = (site.start(&base()).await, site.start(&case.change(&base(), "50ms")).await);
    let _silent = TcpStream::connect(long.plane.bound.ads).await.expect("a connection");
    let mut ended = TcpStream::connect(short.plane.bound.ads).await.expect("a connection");
    assert!(matches!(soon("its end", ended.read(&mut [0])).await, Ok(0) | Err(_)));
    until("it is counted", async || refused(&short, "handshake_timeout").await == 1.0).await;
    assert_eq!(refused(&long, "handshake_timeout").await, 0.0);
}

async fn one_more_is_refused(case: Case) {
    let site = Site::new();
    for (yaml, is_in) in [(base(), true), (case.change(&base(), 1), false)] {
        let live = site.start(&yaml).await;
        let _first = site.served(&live, "a").await.expect("an answer");
        assert_eq!(site.served(&live, "b").await.is_ok(), is_in);
        assert_eq!(refused(&live, "streams").await, f64::from(u8::from(!is_in)));
    }
}

/// Whether a stream that asks for clusters of these names is answered.
async fn answered(site: &Site, live: &Live, names: &[String]) -> bool {
    let mut subscriber = site.subscriber(live, "a", &[]).await.expect("a stream");
    subscriber.ask(TYPES[2], names).expect("a request");
    soon("an answer or an end", subscriber.take()).await.is_ok()
}

async fn one_name_more_ends_the_stream(case: Case) {
    let site = Site::new();
    let names = ["a.b".to_owned(), "c.d".to_owned()];
    for (yaml, is_in) in [(base(), true), (case.change(&base(), 1), false)] {
        let live = site.start(&yaml).await;
        assert_eq!(answered(&site, &live, &names).await, is_in);
        assert_eq!(refused(&live, "subscriptions").await, f64::from(u8::from(!is_in)));
    }
}

async fn a_larger_one_ends_the_stream(case: Case) {
    let site = Site::new();
    let names: Vec<String> = (0..100).map(|at| format!("service-number-{at:03}.bench")).collect();
    for (yaml, is_in) in [(base(), true), (case.change(&base(), "1KiB"), false)] {
        let live = site.start(&yaml).await;
        assert_eq!(answered(&site, &live, &names).await, is_in);
        assert_eq!(refused(&live, "request").await, f64::from(u8::from(!is_in)));
    }
}

async fn more_are_read_more_slowly(case: Case) {
    let site = Site::new();
    let mut base = base();
    base["limits"] = json!({"requests_per_second": 1_000_000});
    // More than may come at once whatever the key says.
    const REQUESTS: usize = 2_500;
    for (yaml, paused) in [(base.clone(), false), (case.change(&base, 1), true)] {
        let live = site.start(&yaml).await;
        let mut flood = site.subscriber(&live, "a", &[]).await.expect("a stream");
        for _ in 0..REQUESTS {
            flood.ask(TYPES[3], &["nobody.bench".to_owned()]).expect("a request");
        }
        match paused {
            true => until("the pause", async || refused(&live, "requests_per_second").await > 0.0).await,
            false => {
                let read = async || live.metric("outrigger_control_requests_total", &[]).await;
                until("all are read", async || read().await >= REQUESTS as f64).await;
                assert_eq!(refused(&live, "requests_per_second").await, 0.0);
            }
        }
    }
}

async fn one_more_is_not_taken(case: Case) {
    let site = Site::new();
    for (yaml, places) in [(base(), 2.0), (case.change(&base(), 1), 1.0)] {
        let live = site.start(&yaml).await;
        let mut all = Vec::new();
        for (id, address) in [("a", "10.0.0.8:1"), ("b", "10.0.0.9:1")] {
            let mut one = site.subscriber(&live, id, &[address]).await.expect("a stream");
            one.ask(TYPES[1], &[]).expect("a request");
            soon("an answer", one.take()).await.expect("an answer");
            all.push(one);
        }
        assert_eq!(registered(&live).await, places);
        assert_eq!(refused(&live, "registrations").await, 2.0 - places);
        let page = live.plane.get("/proxies").await.expect("a page").body;
        assert_eq!(page.contains("as many as it may (limits.registrations)"), places == 1.0, "{page}");
    }
}
