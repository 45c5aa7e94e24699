//! The client against a scripted control plane, over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bench::ads::{Ads, Manner, Raw, Resource, Seen};
use bench::certs::{Ca, LeafSpec, write_identity};
use bench::tls::ServerTls;
use bench::wait::{soon, until};
use config::model::{Dns, Identity, Mesh};
use config::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use xds::audience::Certificates;
use xds::decode::Own;
use xds::{Audience, Kind, assemble, encode};

use crate::control::lookup::Lookups;
use crate::control::report::Reports;
use crate::control::xds::client::{Client, Link};
use crate::control::xds::connect::Way;
use crate::control::xds::framer::Bounds;
use crate::control::xds::held::Held;
use crate::control::xds::lost::{REASONS, Reason};
use crate::control::xds::node::Me;
use crate::control::xds::patience::{PATIENCE, Patience};
use crate::control::xds::settings::{Address, Protocol, Settings, Who};
use crate::control::xds::state::{Announced, Host, Phase, State};
use crate::dial::Dialled;
use crate::tls::{Credentials, Pem};

const BOTH: [Protocol; 2] = [Protocol::Delta, Protocol::Sotw];

/// Long enough for a machine that compiles beside, short enough to be waited for.
const SHORT: Patience = Patience {
    bounds: Bounds { stall: Duration::from_millis(700), whole: Duration::from_secs(2), ..PATIENCE.bounds },
    first_answer: Duration::from_secs(2),
    spread: Duration::ZERO,
};

/// A running client.
struct Running {
    link: Link,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a client is started.
struct Start {
    addresses: Vec<Address>,
    protocol: Protocol,
    held: Held,
    patience: Patience,
    bundle: Option<std::path::PathBuf>,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
}

fn at(addr: SocketAddr) -> Address {
    Address { tls: false, host: addr.ip().to_string(), port: addr.port() }
}

fn own() -> Own {
    Own { trust_domain: "cluster.local".to_owned(), namespace: "shop".to_owned() }
}

impl Start {
    fn new(addr: SocketAddr, protocol: Protocol) -> Self {
        Self {
            addresses: vec![at(addr)],
            protocol,
            held: Held::default(),
            patience: PATIENCE,
            bundle: None,
            credentials: watch::channel(None).1,
        }
    }

    fn run(self) -> Running {
        let who = Who { service: "orders".to_owned(), namespace: "shop".to_owned(), ..Who::default() };
        let settings = Settings {
            addresses: self.addresses,
            bundle: self.bundle.clone(),
            protocol: self.protocol,
            own: own(),
            node: who.clone(),
            services: vec!["orders.shop".to_owned()],
        };
        let way = Way {
            bundle: self.bundle,
            credentials: self.credentials,
            lookups: Lookups::new(&Dns::default()),
            dialled: Dialled::default(),
        };
        let reports = Reports::start().expect("a thread");
        let (mut client, link) = Client::new(settings, Me::new(who, "here", 7), way, self.held, reports);
        client.patience = self.patience;
        Running { link, task: tokio::spawn(client.run()) }
    }
}

impl Running {
    fn state(&self) -> State {
        self.link.state.borrow().clone()
    }

    /// Waits until the state is as it shall be.
    async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) -> State {
        let mut state = self.link.state.clone();
        soon(what, async { state.wait_for(|state| holds(state)).await.expect("a client").clone() }).await
    }

    /// Waits until the mesh in force is this one.
    async fn until_mesh(&self, what: &str, mesh: &Mesh) -> State {
        self.until(what, |state| assembled(state) == *mesh).await
    }

    fn lost(&self, reason: Reason) -> u64 {
        self.link.counts.lost(reason)
    }

    async fn until_lost(&self, reason: Reason) {
        let all = || REASONS.map(|reason| (reason, self.lost(reason)));
        let what = format!("an end by {reason:?}: {:?}", all());
        until(what, async || self.lost(reason) > 0).await;
    }
}

/// A mesh of three services, of which `users` has its endpoints at these ports.
fn mesh(ports: &[u16]) -> Mesh {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("10.0.0.1:{port}")).collect();
    let text = format!(
        "version: 1\n\
         services:\n\
         \x20 - name: orders\n    namespace: shop\n    ports: [50051]\n    endpoints: [10.0.0.2:1]\n\
         \x20 - name: payments\n    namespace: shop\n    ports: [50051]\n    endpoints: [10.0.0.3:1, 10.0.0.3:2]\n\
         \x20   routes: [{{match: {{method: shop.Payment/Charge}}, backends: [{{service: payments}}]}}]\n\
         \x20 - name: users\n    namespace: shop\n    ports: [50051]\n    endpoints: [{}]\n",
        endpoints.join(", ")
    );
    config::parse_mesh(config::Source { name: "mesh.yaml", text: &text }).expect("a mesh")
}

/// What a control plane has of it for our sidecars.
fn resources(mesh: &Mesh) -> Vec<Resource> {
    let audience = Audience { client: xds::Client::Outrigger, certificates: Some(Certificates::Own) };
    encode::mesh(mesh, &audience).iter().map(as_sent).collect()
}

fn as_sent(one: &xds::Resource) -> Resource {
    Resource {
        type_url: one.kind.type_url().to_owned(),
        name: one.name.clone(),
        version: one.version.clone(),
        value: one.bytes.to_vec(),
    }
}

fn assembled(state: &State) -> Mesh {
    assemble::assemble(&state.held.parts(), &own()).mesh
}

/// A control plane that has a mesh, and a client that has it too.
async fn settled(protocol: Protocol, ports: &[u16]) -> (Ads, Running) {
    let ads = Ads::start().await.expect("a control plane");
    ads.set(resources(&mesh(ports)));
    let running = Start { patience: SHORT, ..Start::new(ads.addr, protocol) }.run();
    running.until_mesh("the mesh", &mesh(ports)).await;
    (ads, running)
}

fn nacks(ads: &Ads) -> Vec<Seen> {
    ads.seen().into_iter().filter(|seen| seen.error.is_some()).collect()
}

#[tokio::test]
async fn a_mesh_arrives_as_it_was_sent_and_so_does_every_change_of_it() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1, 2]).await;
        let state = running.until("all is answered", |state| state.synced).await;
        assert_eq!(state.connection.phase, Phase::Connected);
        assert_eq!(state.connection.identifier, bench::ads::IDENTIFIER);
        assert!(state.refused.is_empty() && state.incomplete.is_empty(), "{state:?}");
        for ports in [&[1, 2, 3][..], &[4], &[]] {
            ads.set(resources(&mesh(ports)));
            running.until_mesh("a change", &mesh(ports)).await;
        }
        let mut without = mesh(&[]);
        without.services.retain(|service| service.name != "users");
        ads.set(resources(&without));
        let last = running.until_mesh("a service is gone", &without).await;
        assert!(!last.held.holds(Kind::Endpoints, "users.shop"), "nothing of it is kept");
        assert!(nacks(&ads).is_empty(), "{protocol:?}: {:?}", nacks(&ads));
        let first = &ads.seen()[0];
        assert_eq!(first.node.as_ref().map(|node| &*node.id), Some("orders.shop~here~00000007"));
        assert_eq!(first.is_delta, protocol == Protocol::Delta);
    }
}

#[tokio::test]
async fn a_resource_that_cannot_be_honoured_is_refused_by_name_and_its_siblings_are_taken() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let mut broken = resources(&mesh(&[1, 2]));
        for one in &mut broken {
            if one.name == "payments.shop" && one.type_url == Kind::Endpoints.type_url() {
                // Its name, and then what is no protobuf.
                one.value = b"\x0a\x0dpayments.shop\x12\xff".to_vec();
                one.version = "broken".to_owned();
            }
        }
        ads.set(broken);
        running.until_mesh("the sibling", &mesh(&[1, 2])).await;
        let key = (Kind::Endpoints, "payments.shop".to_owned());
        let state = running.until("told", |state| !state.refused.is_empty()).await;
        assert!(state.refused.contains_key(&key), "{:?}", state.refused);
        until("a NACK that names it", async || {
            nacks(&ads)
                .iter()
                .any(|seen| seen.error.as_ref().is_some_and(|why| why.contains("payments.shop")))
        })
        .await;
        assert_eq!(running.link.counts.answers(Kind::Endpoints, 1), 1);
        ads.set(resources(&mesh(&[3])));
        running.until_mesh("mended", &mesh(&[3])).await;
        running.until("nothing is refused", |state| state.refused.is_empty()).await;
        assert_eq!(ads.streams(), 1, "one stream for all of it");
    }
}

#[tokio::test]
async fn a_new_connection_goes_on_where_the_old_one_ended() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        running.until("all is answered", |state| state.synced).await;
        let before = running.state();
        ads.hang_up();
        running.until("the loss is seen", |state| state.connection.lost.is_some()).await;
        running.until("it is back", |state| state.connection.phase == Phase::Connected).await;
        let again = |seen: &Seen| seen.stream == 1;
        until("all kinds are asked for", async || {
            let seen = ads.seen();
            let kinds: BTreeSet<&str> = seen.iter().filter(|s| again(s)).map(|s| &*s.type_url).collect();
            kinds.len() == Kind::ALL.len()
        })
        .await;
        if protocol == Protocol::Delta {
            for kind in Kind::ALL {
                let seen = ads.seen();
                let first = seen.iter().find(|seen| again(seen) && seen.type_url == kind.type_url());
                let held: BTreeMap<String, String> = before
                    .held
                    .of(kind)
                    .iter()
                    .map(|(name, one)| (name.to_string(), one.version.to_string()))
                    .collect();
                assert_eq!(first.expect("a request").initial, held, "{kind:?}");
            }
        }
        assert_eq!(running.state().generation, before.generation, "nothing has changed");
        ads.set(resources(&mesh(&[5])));
        running.until_mesh("a change", &mesh(&[5])).await;
    }
}

#[tokio::test]
async fn what_was_kept_serves_before_and_without_a_control_plane() {
    let (ads, running) = settled(Protocol::Delta, &[1]).await;
    let held = running.state().held;
    drop((ads, running));
    let nobody = Ads::start().await.expect("a control plane");
    nobody.behave(Manner::Mute);
    nobody.set(resources(&mesh(&[2])));
    let running = Start { held, patience: SHORT, ..Start::new(nobody.addr, Protocol::Delta) }.run();
    assert_eq!(assembled(&running.state()), mesh(&[1]));
    running.until_lost(Reason::Hung).await;
    let state = running.state();
    assert_eq!((state.generation, state.synced, assembled(&state)), (0, false, mesh(&[1])));
    nobody.behave(Manner::Well);
    running.until_mesh("it speaks at last", &mesh(&[2])).await;
}

#[tokio::test]
async fn a_host_that_is_asked_for_comes_or_is_known_not_to_exist() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let audience = Audience { client: xds::Client::Outrigger, certificates: Some(Certificates::Own) };
        let encoded = encode::mesh(&mesh(&[1]), &audience);
        let users = encoded.iter().find(|one| one.kind == Kind::Listener && one.name == "users.shop");
        let alias = as_sent(&encode::alias(users.expect("a listener"), "users:50051"));
        ads.set(resources(&mesh(&[1])).into_iter().chain([alias]));
        running.link.want.send_modify(|want| want.hosts = hosts(&["users:50051", "nobody:1"]));
        let state = running
            .until("both are answered", |state| {
                state.host("users:50051") != Host::Open && state.host("nobody:1") != Host::Open
            })
            .await;
        assert_eq!(state.host("users:50051"), Host::Here);
        assert_eq!(state.host("nobody:1"), Host::Absent);
        assert_eq!(state.host("never.asked:1"), Host::Open);
        assert_eq!(assembled(&state), mesh(&[1]), "one service by two names is one service");
        running.link.want.send_modify(|want| want.hosts = hosts(&[]));
        running.until("forgotten", |state| state.host("nobody:1") == Host::Open).await;
    }
}

#[tokio::test]
async fn endpoints_are_announced_and_withdrawn_on_the_stream_that_is_open() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let told =
            |seen: &Seen| seen.node.as_ref().map(|node| format!("{node:?}").contains("10.9.9.9:15006"));
        let announced = Announced {
            service: "orders.shop".to_owned(),
            address: "10.9.9.9:15006".parse().unwrap(),
            zone: None,
            labels: BTreeMap::new(),
        };
        running.link.want.send_modify(|want| want.endpoints = vec![announced.clone()]);
        until("announced", async || ads.seen().iter().any(|seen| told(seen) == Some(true))).await;
        running.link.want.send_modify(|want| want.endpoints.clear());
        until("withdrawn", async || ads.seen().iter().rev().find_map(told) == Some(false)).await;
        running.link.want.send_modify(|want| want.endpoints = vec![announced]);
        until("again", async || ads.seen().iter().rev().find_map(told) == Some(true)).await;
        assert_eq!(ads.streams(), 1);
        ads.hang_up();
        until("on the next one too", async || {
            ads.seen().iter().any(|s| s.stream == 1 && told(s) == Some(true))
        })
        .await;
        ads.set(resources(&mesh(&[2])));
        running.until_mesh("it was no question", &mesh(&[2])).await;
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_costs_nothing_else() {
    let whole = bench::grpc::message(&[0; 100]).to_vec();
    let cases = [
        (Raw::Message(b"\xff\xff\xff\xff".to_vec()), Reason::Garbage),
        (Raw::Message([0x12, 0].repeat(200_000)), Reason::Garbage),
        (Raw::Bytes([&[1], &whole[1..]].concat()), Reason::Garbage),
        (Raw::Huge(100 << 20), Reason::TooLarge),
        (Raw::Bytes(whole[..50].to_vec()), Reason::Slow),
        (Raw::Slow(vec![0; 500], Duration::from_millis(50)), Reason::Slow),
    ];
    for (raw, reason) in cases {
        let (ads, running) = settled(Protocol::Delta, &[1]).await;
        let shown = format!("{raw:?}").chars().take(40).collect::<String>();
        ads.send(raw);
        running.until_lost(reason).await;
        assert_eq!(assembled(&running.state()), mesh(&[1]), "{shown}");
        ads.set(resources(&mesh(&[2])));
        running.until_mesh(&format!("it is tried again after {shown}"), &mesh(&[2])).await;
        assert_eq!(ads.connections(), 2, "{shown}");
    }
}

#[tokio::test]
async fn an_answer_about_something_else_is_left_out_and_the_stream_goes_on() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use prost::Message as _;

    let (ads, running) = settled(Protocol::Delta, &[1]).await;
    let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned();
    let answer =
        DeltaDiscoveryResponse { type_url: type_url.clone(), nonce: "x".to_owned(), ..Default::default() };
    ads.send(Raw::Message(answer.encode_to_vec()));
    until("it is counted", async || running.link.counts.unasked.value() == 1).await;
    ads.set(resources(&mesh(&[2])));
    running.until_mesh("it goes on", &mesh(&[2])).await;
    let seen = ads.seen();
    assert!(seen.iter().all(|seen| seen.type_url != type_url), "a NACK would ask for all of them");
    assert_eq!((ads.streams(), running.link.counts.unasked.value()), (1, 1));
}

#[tokio::test]
async fn a_control_plane_that_accepts_and_says_nothing_is_left() {
    for manner in [Manner::Deaf, Manner::Mute] {
        let ads = Ads::start().await.expect("a control plane");
        ads.behave(manner);
        ads.set(resources(&mesh(&[1])));
        let good = Ads::start().await.expect("a control plane");
        good.set(resources(&mesh(&[2])));
        let patience = Patience { first_answer: Duration::from_millis(300), ..SHORT };
        let addresses = vec![at(ads.addr), at(good.addr)];
        let running = Start { patience, addresses, ..Start::new(ads.addr, Protocol::Delta) }.run();
        running.until_mesh("the other one", &mesh(&[2])).await;
    }
}

#[tokio::test]
async fn a_control_plane_that_says_goodbye_each_time_or_no_each_time_is_asked_less_and_less() {
    for (manner, reason) in
        [(Manner::Farewell(h2::Reason::NO_ERROR), Reason::Closed), (Manner::Status(16), Reason::Status)]
    {
        let (ads, running) = settled(Protocol::Delta, &[1]).await;
        ads.behave(manner);
        ads.hang_up();
        until("three more ends", async || running.lost(reason) >= 4 || ads.connections() >= 5).await;
        assert_eq!(assembled(&running.state()), mesh(&[1]));
        assert!(running.state().connection.lost.is_some());
        ads.behave(Manner::Well);
        ads.set(resources(&mesh(&[2])));
        running.until_mesh("it has come round", &mesh(&[2])).await;
    }
}

#[tokio::test]
async fn ten_thousand_changes_a_second_make_few_sets_and_the_last_one_counts() {
    for protocol in BOTH {
        let (ads, running) = settled(protocol, &[1]).await;
        let meshes: Vec<Vec<Resource>> = (1..=100).map(|port| resources(&mesh(&[port]))).collect();
        let (began, mut rounds, mut worst) = (Instant::now(), 0, Duration::ZERO);
        while began.elapsed() < Duration::from_secs(2) {
            let turn = Instant::now();
            ads.set(meshes[rounds % 100].clone());
            tokio::task::yield_now().await;
            rounds += 1;
            worst = worst.max(turn.elapsed());
        }
        ads.set(resources(&mesh(&[9_999])));
        running.until_mesh("the last", &mesh(&[9_999])).await;
        let (sets, seconds) = (running.link.counts.published.value(), began.elapsed().as_secs_f64());
        println!("{protocol:?}: {rounds} changes, {sets} sets in {seconds:.2} s, longest turn {worst:?}");
        assert!(sets as f64 <= seconds * 20.0 + 5.0, "{sets} sets in {seconds} s");
        // One thread runs all of this test: a turn is as long as the client keeps it.
        assert!(worst < Duration::from_secs(1), "{worst:?}");
    }
}

/// The credentials of a leaf, by files in `folder`.
fn credentials(folder: &Path, ca: &Ca, id: &str) -> Arc<Credentials> {
    write_identity(folder, &ca.leaf(id), ca.bundle_pem()).expect("files");
    let [cert, key, bundle] = ["tls.crt", "tls.key", "ca.crt"].map(|file| folder.join(file));
    let files = Identity { cert, key, bundle };
    let id = SpiffeId::parse(id).expect("an id");
    Arc::new(Credentials::new(&files, &Pem::read(&files), &id, SystemTime::now()).expect("credentials"))
}

#[tokio::test]
async fn a_control_plane_is_known_by_its_name_and_knows_us_by_our_certificate() {
    let (ca, folder) = (Ca::new("cluster.local"), tempfile::tempdir().expect("a folder"));
    let good = credentials(folder.path(), &ca, ID);
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let spec = |addresses: &[IpAddr], names: &[&str]| LeafSpec {
        addresses: addresses.to_vec(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        uris: vec!["spiffe://cluster.local/ns/mesh/sa/control".to_owned()],
        ..LeafSpec::default()
    };
    let stranger = tempfile::tempdir().expect("a folder");
    let foreign = credentials(stranger.path(), &Ca::new("cluster.local"), ID);
    let cases = [
        (spec(&[loopback], &[]), Some(good.clone()), "127.0.0.1", true),
        (spec(&[], &["localhost"]), Some(good.clone()), "localhost", true),
        (spec(&[], &["other.example"]), Some(good.clone()), "localhost", false),
        (spec(&[], &[]), Some(good), "127.0.0.1", false),
        (spec(&[loopback], &[]), None, "127.0.0.1", false),
        (spec(&[loopback], &[]), Some(foreign), "127.0.0.1", false),
    ];
    for (case, (spec, own, host, is_good)) in cases.into_iter().enumerate() {
        let tls = ServerTls { leaf: ca.leaf_with(&spec), client_trust: Some(ca.bundle_pem().to_owned()) };
        let ads = Ads::start_at((loopback, 0).into(), Some(&tls)).await.expect("a control plane");
        ads.set(resources(&mesh(&[1])));
        let address = Address { tls: true, host: host.to_owned(), port: ads.addr.port() };
        let running = Start {
            addresses: vec![address],
            bundle: Some(folder.path().join("ca.crt")),
            credentials: watch::channel(own).1,
            ..Start::new(ads.addr, Protocol::Delta)
        }
        .run();
        if is_good {
            running.until_mesh(&format!("case {case}"), &mesh(&[1])).await;
        } else {
            let lost = running.until(&format!("case {case}"), |state| state.connection.lost.is_some()).await;
            assert!(running.link.counts.connected.value() == 0, "case {case}: {lost:?}");
        }
    }
}

#[tokio::test]
async fn of_several_addresses_one_that_serves_is_found() {
    let ads = Ads::start().await.expect("a control plane");
    ads.set(resources(&mesh(&[1])));
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("its address");
    let addresses = vec![at(nobody), at(nobody), at(ads.addr)];
    let running = Start { addresses, ..Start::new(ads.addr, Protocol::Delta) }.run();
    let state = running.until_mesh("the mesh", &mesh(&[1])).await;
    assert_eq!(state.connection.address, at(ads.addr).to_string());
}

/// A control plane that lets in whom its authority vouches for, a client of it, and where the client's credentials come from.
struct Renewed {
    ads: Ads,
    running: Running,
    ca: Ca,
    folder: tempfile::TempDir,
    renew: watch::Sender<Option<Arc<Credentials>>>,
}

const ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";

async fn renewed() -> Renewed {
    let (ca, folder) = (Ca::new("cluster.local"), tempfile::tempdir().expect("a folder"));
    let first = credentials(folder.path(), &ca, ID);
    let spec = LeafSpec {
        addresses: vec![IpAddr::from(Ipv4Addr::LOCALHOST)],
        uris: vec!["spiffe://cluster.local/ns/mesh/sa/control".to_owned()],
        ..LeafSpec::default()
    };
    let tls = ServerTls { leaf: ca.leaf_with(&spec), client_trust: Some(ca.bundle_pem().to_owned()) };
    let ads = Ads::start_at(([127, 0, 0, 1], 0).into(), Some(&tls)).await.expect("a control plane");
    ads.set(resources(&mesh(&[1])));
    let (renew, credentials_in_force) = watch::channel(Some(first));
    let running = Start {
        addresses: vec![Address { tls: true, ..at(ads.addr) }],
        bundle: Some(folder.path().join("ca.crt")),
        credentials: credentials_in_force,
        patience: SHORT,
        ..Start::new(ads.addr, Protocol::Delta)
    }
    .run();
    running.until_mesh("the mesh", &mesh(&[1])).await;
    Renewed { ads, running, ca, folder, renew }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_on_a_second_stream_before_the_first_one_goes() {
    let Renewed { ads, running, ca, folder, renew } = renewed().await;
    for round in 1..=2 {
        renew.send_replace(Some(credentials(folder.path(), &ca, ID)));
        until("a second stream", async || ads.streams() == round + 1).await;
        ads.set(resources(&mesh(&[10 + round as u16])));
        running.until_mesh("what comes over it", &mesh(&[10 + round as u16])).await;
    }
    assert!(running.state().connection.lost.is_none(), "{:?}", running.state().connection);
    assert_eq!(running.state().connection.phase, Phase::Connected);
}

#[tokio::test]
async fn a_renewed_certificate_that_is_refused_does_not_end_the_stream_that_is_open() {
    let Renewed { ads, running, folder, renew, .. } = renewed().await;
    let connections = ads.connections();
    renew.send_replace(Some(credentials(folder.path(), &Ca::new("cluster.local"), ID)));
    until("a second connection", async || ads.connections() > connections).await;
    for port in 11..20 {
        ads.set(resources(&mesh(&[port])));
        running.until_mesh("what comes over the first one", &mesh(&[port])).await;
    }
    assert!(running.state().connection.lost.is_none(), "{:?}", running.state().connection);
    assert_eq!(ads.streams(), 1);
}

#[tokio::test]
async fn a_part_of_a_first_set_is_not_taken_for_the_whole_when_its_connection_has_ended() {
    let ads = Ads::start().await.expect("a control plane");
    let listener = resources(&mesh(&[1])).into_iter().find(|one| one.type_url == Kind::Listener.type_url());
    ads.behave(Manner::Mute);
    let running = Start { patience: SHORT, ..Start::new(ads.addr, Protocol::Delta) }.run();
    until("a stream", async || ads.streams() == 1).await;
    ads.send(Raw::Message(listener.expect("a listener").answer()));
    until("a listener, and no routes", async || running.link.counts.connected.value() == 1).await;
    ads.behave(Manner::Deaf);
    ads.hang_up();
    running.until("it ends", |state| state.connection.lost.is_some()).await;
    let mut state = running.link.state.clone();
    // Longer than what is missing of a first set is waited for.
    let synced = tokio::time::timeout(Duration::from_secs(4), state.wait_for(|state| state.synced)).await;
    assert!(synced.is_err(), "nobody has said that this is all");
    ads.behave(Manner::Well);
    ads.set(resources(&mesh(&[1])));
    ads.hang_up();
    running.until_mesh("all of it", &mesh(&[1])).await;
}
