//! Hosts that the sidecar learns of when a call goes there.

use std::time::Duration;

use bench::ads::{Ads, Manner};
use bench::call::CallSpec;
use bench::wait::until;

use crate::kit::{ECHO, Site, UNAVAILABLE, app, caller, mesh};
use crate::plane::resources;

/// What came of the questions of calls.
const ON_DEMAND: &str = "outrigger_on_demand_total";

/// A control plane that lists nothing unasked.
async fn silent(mesh: &str) -> Ads {
    let ads = Ads::start().await.expect("a control plane");
    ads.behave(Manner::OnDemand);
    ads.set(resources(mesh));
    ads
}

/// How often a listener of this name was asked for.
fn asked(ads: &Ads, name: &str) -> usize {
    ads.seen().iter().filter(|seen| seen.subscribe.iter().any(|asked| asked == name)).count()
}

/// A mesh of 300 services besides `echo`.
fn large(app: std::net::SocketAddr) -> String {
    let others: String =
        (0..300).map(|i| format!("  - {{name: s{i}, namespace: shop, endpoints: [\"{app}\"]}}\n")).collect();
    format!("{}{others}", mesh(&[app]))
}

#[tokio::test]
async fn a_call_to_a_host_that_is_not_here_asks_for_it_and_goes_on() {
    let app = app("one").await;
    for protocol in ["delta", "sotw"] {
        let ads = silent(&large(app.addr)).await;
        let site = Site::ready(&caller(ads.addr, &format!("protocol: {protocol}"))).await;
        assert_eq!(asked(&ads, "s7"), 0);
        for host in ["s7", "s7.shop:50051", ECHO] {
            let outcome = site.call(host).await;
            assert!(outcome.is_ok(), "{protocol} {host}: {outcome:?}");
        }
        let known = site.metric(ON_DEMAND, &[("answer", "known")]).await;
        // The first answer brings every host of its service.
        assert_eq!(known, 2.0, "{protocol}");
        let clusters = site.sidecar.get("/clusters").await.expect("a page").body;
        assert!(clusters.contains("s7.shop") && !clusters.contains("s8.shop"), "{clusters}");
    }
}

#[tokio::test]
async fn a_host_that_is_nobodys_is_asked_for_once() {
    let app = app("one").await;
    let ads = silent(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    for _ in 0..5 {
        let outcome = site.call("nobody.example").await;
        assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
        assert!(
            outcome.message.contains("no service of the mesh answers to `nobody.example`"),
            "{outcome:?}"
        );
    }
    assert_eq!(asked(&ads, "nobody.example"), 1);
    assert_eq!(site.metric(ON_DEMAND, &[("answer", "unknown")]).await, 1.0);
    // It comes to be known by itself, since it stays asked for.
    let named = mesh(&[app.addr]).replace("{name: echo,", "{name: echo, hosts: [nobody.example],");
    ads.set(resources(&named));
    until("it is known", async || site.call("nobody.example").await.is_ok()).await;
}

#[tokio::test]
async fn a_control_plane_that_stands_still_costs_calls_to_a_new_host_their_time_once() {
    let app = app("one").await;
    let ads = silent(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    ads.behave(Manner::Mute);
    // Each has less time than the wait for an answer takes.
    let hasty =
        || site.call_with(CallSpec::new("nobody.example", crate::kit::UNARY).header("grpc-timeout", "600m"));
    assert_eq!(hasty().await.grpc_status, Some(4));
    until("they are told at once", async || hasty().await.grpc_status == UNAVAILABLE).await;
    let before = site.metric(ON_DEMAND, &[]).await;
    let patient = site.call("nobody.example").await;
    assert_eq!(patient.grpc_status, UNAVAILABLE, "{patient:?}");
    assert_eq!(site.metric(ON_DEMAND, &[]).await, before, "it has not asked, and waited for nothing");
}

#[tokio::test]
async fn nobody_waits_while_the_control_plane_is_away() {
    let app = app("one").await;
    let ads = silent(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    ads.behave(Manner::Deaf);
    ads.hang_up();
    until("it is gone", async || site.control().await["connection"]["state"] != "connected").await;
    let outcome = site.call(ECHO).await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    // It may have gone where it was going in plain text: that is counted. Whoever waits is counted otherwise.
    assert_eq!(
        (site.metric(ON_DEMAND, &[("answer", "away")]).await, site.metric(ON_DEMAND, &[]).await),
        (1.0, 1.0)
    );
}

#[tokio::test]
async fn no_call_of_a_steady_stream_fails_while_its_host_comes_to_be_known() {
    let app = app("one").await;
    let ads = silent(&large(app.addr)).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    let client = site.client().await;
    for host in (0..60).map(|number| format!("s{number}")) {
        // Each begins while the answer for those before it is on its way or is being put in force.
        let calls = (0..40_u64).map(|turn| {
            let (client, host) = (&client, &host);
            async move {
                tokio::time::sleep(Duration::from_micros(turn * 500)).await;
                client.unary(host, crate::kit::UNARY, b"ping").await
            }
        });
        for outcome in futures(calls).await {
            assert!(outcome.is_ok(), "{host}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_name_that_is_not_answered_holds_up_no_call_to_another_host() {
    let names = bench::dns::NameServer::start().await.expect("a name server");
    names.set("slow.test", bench::dns::Answer::Silence);
    let app = app("one").await;
    let slow = format!(
        "{}  - {{name: slow, namespace: shop, endpoints: [{{dns: \"slow.test:1\"}}]}}\n",
        mesh(&[app.addr])
    );
    let ads = silent(&slow).await;
    let yaml = format!("{}dns: {{servers: [\"{}\"], timeout: 20s}}\n", caller(ads.addr, ""), names.addr);
    let site = Site::ready(&yaml).await;
    let waits = site.call("slow");
    let other = async {
        until("its name is asked for", async || names.asked().iter().any(|one| one.name == "slow.test"))
            .await;
        let before = site.metric(ON_DEMAND, &[("answer", "unknown")]).await;
        let outcome = site.call("nobody.example").await;
        assert!(outcome.message.contains("no service of the mesh answers"), "{outcome:?}");
        // Whoever waits until the name has had its time gives up before.
        assert_eq!(
            site.metric(ON_DEMAND, &[("answer", "unknown")]).await,
            before + 1.0,
            "it was told, and did not give up"
        );
    };
    tokio::join!(waits, other);
}

#[tokio::test]
async fn more_calls_to_one_host_than_questions_may_wait_all_go_on() {
    let app = app("one").await;
    let ads = silent(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    let client = site.client().await;
    let calls = (0..600).map(|_| client.unary("echo", crate::kit::UNARY, b"ping"));
    for outcome in futures(calls).await {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(site.metric(ON_DEMAND, &[("answer", "refused")]).await, 0.0);
}

#[tokio::test]
async fn many_calls_to_one_host_ask_for_it_once() {
    let app = app("one").await;
    let ads = silent(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    let client = site.client().await;
    let calls = (0..50).map(|_| client.unary("echo", crate::kit::UNARY, b"ping"));
    for outcome in futures(calls).await {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(asked(&ads, "echo"), 1);
}

/// Runs them at the same time.
async fn futures<T, E: std::fmt::Debug>(
    all: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        waiting.retain_mut(|one| match one.as_mut().poll(cx) {
            std::task::Poll::Ready(outcome) => {
                done.push(outcome.expect("a call"));
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
