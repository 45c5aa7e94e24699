//! How names are resolved.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bench::dns::{Answer, NameServer};
use bench::server::{Server, ServerOptions};
use serde_json::json;

use crate::kit::{Case, ECHO, Running, Site, echo, landed, service, stays_away, until};

cases! {
    "sidecar.dns.servers[]" => it_is_the_one_that_is_asked,
    "sidecar.dns.min_ttl" => an_answer_is_kept_as_long,
    "sidecar.dns.timeout" => the_first_answer_is_waited_for_as_long,
    "mesh.services[].endpoints[].dns" => calls_go_where_the_name_leads,
}

const NAME: &str = "one.example";
const OTHER: &str = "two.example";

async fn it_is_the_one_that_is_asked(case: &Case) {
    let (one, two) = two_servers().await;
    let (names, others) = (names().await, names().await);
    names.point(NAME, &[one.addr.ip()], 60);
    others.point(NAME, &[two.addr.ip()], 60);
    let base = site(&names, &one);
    let changed = case.change(&base, "sidecar dns servers 0", others.addr.to_string());
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn an_answer_is_kept_as_long(case: &Case) {
    let (one, two) = two_servers().await;
    let names = names().await;
    let mut base = site(&names, &one);
    *base.at("sidecar dns min_ttl") = json!("1h");
    let changed = case.change(&base, "sidecar dns min_ttl", "20ms");
    let moved = async |running: &Running| {
        until("a call lands on two", async || landed(&running.unary(ECHO).await) == "two").await;
    };
    for (site, keeps) in [(&base, true), (&changed, false)] {
        names.point(NAME, &[one.addr.ip()], 0);
        let running = site.start().await;
        assert_eq!(landed(&running.unary(ECHO).await), "one");
        names.point(NAME, &[two.addr.ip()], 0);
        if keeps {
            assert!(stays_away(moved(&running)).await);
        } else {
            moved(&running).await;
        }
    }
}

async fn the_first_answer_is_waited_for_as_long(case: &Case) {
    const LONG: Duration = Duration::from_secs(6);
    let names = names().await;
    names.set(NAME, Answer::Silence);
    let mut base = site(&names, &echo("one").await);
    *base.at("sidecar dns timeout") = json!("6s");
    let changed = case.change(&base, "sidecar dns timeout", "100ms");
    assert!(base.start().await.ready_after >= LONG);
    assert!(changed.start().await.ready_after < LONG);
}

async fn calls_go_where_the_name_leads(case: &Case) {
    let (one, two) = two_servers().await;
    let names = names().await;
    names.point(NAME, &[one.addr.ip()], 60);
    names.point(OTHER, &[two.addr.ip()], 60);
    let base = site(&names, &one);
    let other = format!("{OTHER}:{}", one.addr.port());
    let changed = case.change(&base, "mesh services 0 endpoints 0 dns", other);
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn names() -> NameServer {
    NameServer::start().await.expect("a name server")
}

/// Two servers on one port.
async fn two_servers() -> (Server, Server) {
    let one = echo("one").await;
    let beside = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), one.addr.port()).into();
    let options = ServerOptions { name: "two".to_owned(), ..ServerOptions::default() };
    (one, Server::start_with(beside, options).await.expect("a server"))
}

/// `echo` at `one.example`, on the port of a server.
fn site(names: &NameServer, server: &Server) -> Site {
    let mut echo = service("echo", &[]);
    echo["endpoints"] = json!([{"dns": format!("{NAME}:{}", server.addr.port())}]);
    let mut site = Site::outbound(&[echo]);
    site.sidecar["dns"] = json!({"servers": [names.addr.to_string()]});
    site
}
