//! Endpoints that are names: every address is used, changes are seen, and trouble with DNS harms no call.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bench::dns::{Answer, NameServer};
use bench::server::{Server, ServerOptions};
use bench::wait::until;

use crate::kit::{ECHO, Live, UNARY, at, call, echo, landed, mesh};

const NAME: &str = "payments.example";
/// A port that is free on several addresses is looked for this many times.
const PORTS_TRIED_MAX: usize = 20;
/// Longer than a machine stands still: what waits for it waits for a name server that says something.
const PATIENT: &str = "timeout: 5s";

/// The loopback address 127.0.`hundred`.`one`.
fn local(hundred: u8, one: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, hundred, one))
}

/// Servers on addresses of their own, all on one port.
async fn on_one_port<const N: usize>(places: [(&str, IpAddr); N]) -> [Server; N] {
    for _ in 0..PORTS_TRIED_MAX {
        let (mut servers, mut port) = (Vec::new(), 0);
        for (name, ip) in places {
            let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
            // Somebody else may have the port there.
            let Ok(server) = Server::start_with(SocketAddr::new(ip, port), options).await else { break };
            port = server.addr.port();
            servers.push(server);
        }
        if let Ok(all) = servers.try_into() {
            return all;
        }
    }
    panic!("no port that is free at each of {places:?}")
}

/// The endpoint `payments.example`, on the port of a server.
fn named(server: &Server) -> String {
    format!("{{dns: \"{NAME}:{}\"}}", server.addr.port())
}

fn dns(server: &NameServer, more: &str) -> String {
    format!("dns: {{servers: [\"{}\"], {more}}}\n", server.addr)
}

async fn endpoints(live: &Live) -> usize {
    let page = live.sidecar.get("/clusters").await.expect("a page");
    page.body.matches(&format!("\"host\": \"{NAME}\"")).count()
}

#[tokio::test]
async fn every_address_is_used_and_a_changed_answer_is_followed() {
    let names = NameServer::start().await.expect("a name server");
    let [one, two, three] =
        on_one_port([("one", local(0, 1)), ("two", local(0, 2)), ("three", local(0, 3))]).await;
    names.point(NAME, &[one.addr.ip(), two.addr.ip()], 0);
    let live = Live::caller(&mesh(&[named(&one)]), &dns(&names, &format!("min_ttl: 50ms, {PATIENT}"))).await;
    let client = live.client().await;
    for _ in 0..50 {
        call(&client).await;
    }
    assert!(!one.calls().is_empty() && !two.calls().is_empty(), "both are used from the first call on");
    names.point(NAME, &[three.addr.ip()], 0);
    live.lands_on(&client, "three").await;
    for _ in 0..20 {
        assert_eq!(landed(&call(&client).await), "three");
    }
    until("what is no address any more is let go", async || {
        one.open_connections() == 0 && two.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_goes_has_its_name_asked_for_before_its_time() {
    let names = NameServer::start().await.expect("a name server");
    let [mut one, two, mut three] =
        on_one_port([("one", local(0, 1)), ("two", local(0, 2)), ("three", local(0, 3))]).await;
    names.point(NAME, &[one.addr.ip()], 3_600);
    let live = Live::caller(&mesh(&[named(&one)]), &dns(&names, &format!("min_ttl: 50ms, {PATIENT}"))).await;
    let client = live.client().await;
    call(&client).await;
    let finds = async |name: &str| {
        until(format!("{name} is found"), async || {
            let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
            outcome.is_ok() && landed(&outcome) == name
        })
        .await;
    };
    // It says that it goes, as in a roll-out.
    names.point(NAME, &[three.addr.ip()], 3_600);
    one.stop().await;
    finds("three").await;
    // It is gone without a word.
    names.point(NAME, &[two.addr.ip()], 3_600);
    three.kill().await;
    finds("two").await;
}

#[tokio::test]
async fn a_name_with_a_dot_at_its_end_is_the_same_name() {
    let names = NameServer::start().await.expect("a name server");
    let one = echo("one").await;
    names.point(NAME, &[one.addr.ip()], 60);
    let endpoint = format!("{{dns: \"{NAME}.:{}\"}}", one.addr.port());
    let live = Live::caller(&mesh(&[endpoint]), &dns(&names, PATIENT)).await;
    assert_eq!(landed(&call(&live.client().await).await), "one");
    assert!(names.asked().iter().all(|question| question.name == NAME), "{:?}", names.asked());
}

#[tokio::test]
async fn the_last_answer_stays_while_no_good_one_comes() {
    let names = NameServer::start().await.expect("a name server");
    let [one, two] = on_one_port([("one", local(0, 1)), ("two", local(0, 2))]).await;
    names.point(NAME, &[one.addr.ip()], 0);
    let live = Live::caller(&mesh(&[named(&one)]), &dns(&names, "min_ttl: 20ms, timeout: 300ms")).await;
    let client = live.client().await;
    until("it has been resolved", async || endpoints(&live).await == 1).await;
    call(&client).await;
    let failures = async || live.metric("outrigger_dns_failures_total", &[("name", NAME)]).await;
    for nothing in [Answer::Code(2), Answer::Code(3), Answer::Code(5), Answer::Empty, Answer::Silence] {
        let before = failures().await;
        names.set(NAME, nothing.clone());
        until(format!("{nothing:?} is met"), async || failures().await > before).await;
        assert_eq!(landed(&call(&client).await), "one", "{nothing:?}");
    }
    live.says("dns: payments.example: ").await;
    let age = async || live.metric("outrigger_dns_age_seconds", &[("name", NAME)]).await;
    until("the answer grows old", async || age().await >= 1.0).await;
    let pointed = Instant::now();
    names.point(NAME, &[two.addr.ip()], 3_600);
    live.lands_on(&client, "two").await;
    // The one before is a second older than this at least.
    let age = age().await;
    assert!(age <= pointed.elapsed().as_secs_f64(), "{age} s, {:?}", pointed.elapsed());
    live.says("payments.example: resolved again").await;
}

#[tokio::test]
async fn without_a_first_answer_calls_are_told_why_and_the_name_is_asked_again() {
    let said = [
        (Answer::Code(3), "NXDOMAIN"),
        (Answer::Empty, "has no address"),
        (Answer::Code(2), "the name server says"),
        (Answer::Silence, "no answer"),
    ];
    for (nothing, why) in said {
        let names = NameServer::start().await.expect("a name server");
        let one = echo("one").await;
        names.set(NAME, nothing.clone());
        // Where something is said, a machine that stands still must not make silence of it.
        let timeout = if nothing == Answer::Silence { "timeout: 500ms" } else { PATIENT };
        let began = Instant::now();
        let live = Live::caller(&mesh(&[named(&one)]), &dns(&names, timeout)).await;
        // It waits for the first answer as long as one may take, and no longer.
        assert!(began.elapsed() < Duration::from_secs(10), "{nothing:?}: {:?}", began.elapsed());
        let client = live.client().await;
        let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(14), "{nothing:?}: {outcome:?}");
        assert!(outcome.message.contains("payments.example has not been resolved yet"), "{outcome:?}");
        assert!(outcome.message.contains(why), "{nothing:?}: {}", outcome.message);
        names.point(NAME, &[one.addr.ip()], 60);
        until("it has been resolved", async || endpoints(&live).await == 1).await;
        assert_eq!(landed(&call(&client).await), "one", "{nothing:?}");
    }
}

#[tokio::test]
async fn an_answer_of_200_addresses_comes_by_tcp_and_all_are_endpoints() {
    let names = NameServer::start().await.expect("a name server");
    // One server, behind all addresses of the loopback interface.
    let all = Server::start(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)).await.expect("a server");
    let addresses: Vec<IpAddr> = (1..=200).map(|one| local(1, one)).collect();
    names.point(NAME, &addresses, 60);
    let live = Live::caller(&mesh(&[named(&all)]), &dns(&names, PATIENT)).await;
    assert_eq!(endpoints(&live).await, 200);
    assert!(names.asked().iter().any(|question| question.tcp), "{:?}", names.asked());
    let client = live.client().await;
    for _ in 0..200 {
        call(&client).await;
    }
    assert!(all.accepted() > 50, "calls spread over them: {} connections", all.accepted());
}

#[tokio::test]
async fn a_name_that_a_new_file_brings_is_resolved_before_the_file_is_in_force() {
    let names = NameServer::start().await.expect("a name server");
    let (one, two) = (echo("one").await, echo("two").await);
    names.point(NAME, &[two.addr.ip()], 60);
    let live = Live::caller(&mesh(&[at(&one)]), &dns(&names, PATIENT)).await;
    assert_eq!(names.asked().len(), 0, "nothing is asked for where no name is");
    let client = live.client().await;
    live.replace("mesh.yaml", &mesh(&[named(&two)]));
    // Every call goes well, the first one that goes by the new file as well.
    live.lands_on(&client, "two").await;
    let asked = names.asked();
    assert!(asked.iter().any(|q| q.ipv6) && asked.iter().any(|q| !q.ipv6), "both kinds: {asked:?}");
    // A name and an address of its own that come to the same are one endpoint.
    let both = mesh(&[named(&two), at(&two)]);
    live.replace("mesh.yaml", &both);
    live.in_force("mesh", 3).await;
    let page = live.sidecar.get("/clusters").await.expect("a page").body;
    assert_eq!(page.matches(&two.addr.to_string()).count(), 1, "{page}");
}
