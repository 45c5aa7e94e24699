//! What the rules of `outrigger init` do to connections, with listeners of the test's own in the places of the
//! sidecar and the app.

use crate::cluster::{Cluster, INBOUND, OUTBOUND, Pod, SIDECAR_UID};
use crate::door::{ask, open};

/// The app's user.
const APP: u32 = 0;
const TOOLS: [&str; 2] = ["nft", "iptables"];

const SIDECAR: &str = "inbound:\n  - {listen: \"[::]:15006\", app: 127.0.0.1:50051, mtls: strict}\n  \
    - {listen: \"[::]:15007\", app: 127.0.0.1:50052, mtls: strict}\n\
    outbound: {listen: 127.0.0.1:15001, listen_ipv6: \"[::1]:15001\"}\n";

/// Two pods: one with rules to be, with all listeners that it may have, and another one.
async fn pods(cluster: &Cluster) -> (Pod, Pod) {
    let (pod, other) = (cluster.pod("orders").await, cluster.pod("users").await);
    for port in [INBOUND, 15_007, 50_051, 50_052, 8_080, 9_090, 15_020] {
        open(&pod, &format!("[::]:{port}"));
    }
    for loopback in ["127.0.0.1", "[::1]"] {
        open(&pod, &format!("{loopback}:{OUTBOUND}"));
    }
    for port in [80, 3_306, 50_051] {
        open(&other, &format!("[::]:{port}"));
    }
    pod.configure(SIDECAR);
    (pod, other)
}

#[tokio::test]
async fn what_comes_in_goes_to_the_entry_of_its_port_and_all_else_to_the_first() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, other) = pods(&cluster).await;
    for tool in TOOLS {
        pod.init(&format!("--tool {tool} --exclude-inbound-ports 9090")).await;
        for (port, answer) in [
            (50_051, format!("15006 for {}", pod.at(50_051))),
            (50_052, format!("15007 for {}", pod.at(50_052))),
            (8_080, format!("15006 for {}", pod.at(8_080))),
            (9_090, "9090 direct".to_owned()),
            (15_006, "15006 direct".to_owned()),
            (15_007, "15007 direct".to_owned()),
            (15_020, "15020 direct".to_owned()),
            (15_001, "connection refused".to_owned()),
        ] {
            assert_eq!(ask(&other, APP, pod.at(port)).await, answer, "{tool}: {port}");
        }
        let answer = format!("15006 for {}", pod.at_v6(50_051));
        assert_eq!(ask(&other, APP, pod.at_v6(50_051)).await, answer, "{tool}");
        assert_eq!(ask(&other, APP, pod.at_v6(9_090)).await, "9090 direct", "{tool}");
        pod.init("--remove").await;
    }
}

#[tokio::test]
async fn only_included_ports_come_in_through_the_sidecar() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, other) = pods(&cluster).await;
    for tool in TOOLS {
        pod.init(&format!("--tool {tool} --include-inbound-ports 50051-50052")).await;
        for (port, answer) in [
            (50_051, format!("15006 for {}", pod.at(50_051))),
            (50_052, format!("15007 for {}", pod.at(50_052))),
            (8_080, "8080 direct".to_owned()),
        ] {
            assert_eq!(ask(&other, APP, pod.at(port)).await, answer, "{tool}: {port}");
        }
        pod.init("--remove").await;
    }
}

#[tokio::test]
async fn what_the_app_sends_out_goes_to_the_sidecar_and_what_the_sidecar_sends_does_not() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, other) = pods(&cluster).await;
    for tool in TOOLS {
        pod.init(&format!("--tool {tool} --exclude-outbound-ports 3306")).await;
        for to in [other.at(80), other.at_v6(80), "10.96.0.10:50051".parse().expect("an address")] {
            assert_eq!(ask(&pod, APP, to).await, format!("15001 for {to}"), "{tool}");
        }
        for to in [other.at(80), other.at_v6(80)] {
            assert_eq!(ask(&pod, SIDECAR_UID, to).await, "80 direct", "{tool}");
        }
        assert_eq!(ask(&pod, APP, other.at(3_306)).await, "3306 direct", "{tool}");
        let range = other.v4;
        pod.init(&format!("--tool {tool} --exclude-outbound-ranges {range},fd88::/64")).await;
        for to in [other.at(80), other.at_v6(80)] {
            assert_eq!(ask(&pod, APP, to).await, "80 direct", "{tool}");
        }
        pod.init("--remove").await;
    }
}

#[tokio::test]
async fn inside_the_pod_only_the_sidecars_way_to_its_own_service_is_redirected() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, _other) = pods(&cluster).await;
    for tool in TOOLS {
        pod.init(&format!("--tool {tool}")).await;
        let loopback = "127.0.0.1:50051".parse().expect("an address");
        let loopback_v6 = "[::1]:50051".parse().expect("an address");
        for to in [loopback, loopback_v6, pod.at(50_051), pod.at_v6(50_051)] {
            assert_eq!(ask(&pod, APP, to).await, "50051 direct", "{tool}: the app to {to}");
        }
        for to in [loopback, loopback_v6] {
            assert_eq!(ask(&pod, SIDECAR_UID, to).await, "50051 direct", "{tool}: the sidecar to {to}");
        }
        for to in [pod.at(50_051), pod.at_v6(50_051)] {
            let answer = format!("15006 for {to}");
            assert_eq!(ask(&pod, SIDECAR_UID, to).await, answer, "{tool}: the sidecar to {to}");
        }
        assert_eq!(ask(&pod, SIDECAR_UID, pod.at(15_006)).await, "15006 direct", "{tool}");
        assert_eq!(
            ask(&pod, SIDECAR_UID, pod.at(8_080)).await,
            "8080 direct",
            "{tool}: no entry is for this port"
        );
        pod.init("--remove").await;
    }
}

#[tokio::test]
async fn the_sidecar_of_a_pure_server_or_of_an_app_on_the_pods_address_reaches_the_app() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, other) = pods(&cluster).await;
    let app = pod.at(50_051);
    pod.configure(&format!("inbound: [{{listen: 0.0.0.0:15006, app: \"{app}\", mtls: strict}}]\n"));
    for tool in TOOLS {
        pod.init(&format!("--tool {tool}")).await;
        assert_eq!(ask(&other, APP, app).await, format!("15006 for {app}"), "{tool}");
        assert_eq!(ask(&pod, SIDECAR_UID, app).await, "50051 direct", "{tool}: the last hop");
        let loopback = "127.0.0.1:50051".parse().expect("an address");
        assert_eq!(ask(&pod, APP, loopback).await, "50051 direct", "{tool}: nothing sees what stays inside");
        assert_eq!(ask(&pod, APP, other.at(80)).await, "80 direct", "{tool}: there is no `outbound`");
        assert_eq!(ask(&other, APP, pod.at_v6(8_080)).await, "8080 direct", "{tool}: IPv6 is left alone");
        pod.init("--remove").await;
    }
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_a_removal_leaves_nothing() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, other) = pods(&cluster).await;
    let list = async || pod.namespace.run("nft list ruleset").await;
    assert_eq!(list().await, "");
    pod.init("").await;
    let once = list().await;
    assert!(once.contains("table inet outrigger"), "{once}");
    pod.init("").await;
    assert_eq!(list().await, once);
    pod.init("--remove").await;
    assert_eq!(list().await, "");
    pod.init("--remove").await;
    assert_eq!(ask(&other, APP, pod.at(50_051)).await, "50051 direct");

    let rules = async |tool: &str| {
        let saved = pod.namespace.run(&format!("{tool} -t nat")).await;
        saved.lines().filter(|line| line.contains("OUTRIGGER")).map(str::to_owned).collect::<Vec<_>>()
    };
    pod.init("--tool iptables").await;
    let (once, once_v6) = (rules("iptables-save").await, rules("ip6tables-save").await);
    assert!(once.len() > 10 && once_v6.len() > 10, "{once:?} {once_v6:?}");
    pod.init("--tool iptables").await;
    assert_eq!((rules("iptables-save").await, rules("ip6tables-save").await), (once, once_v6));
    // Without being told who wrote them.
    pod.init("--remove").await;
    assert_eq!(rules("iptables-save").await, Vec::<String>::new());
    assert_eq!(rules("ip6tables-save").await, Vec::<String>::new());
    assert_eq!(ask(&other, APP, pod.at(50_051)).await, "50051 direct");
}

#[tokio::test]
async fn what_is_printed_is_what_would_be_written_and_nothing_is_written() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, _other) = pods(&cluster).await;
    let text = pod.init("--print").await;
    assert_eq!(pod.namespace.run("nft list ruleset").await, "");
    std::fs::write(pod.folder.join("rules"), text).expect("a file");
    pod.namespace.run(&format!("nft -f {}", pod.folder.join("rules").display())).await;
    let by_hand = pod.namespace.run("nft list ruleset").await;
    pod.init("").await;
    assert_eq!(pod.namespace.run("nft list ruleset").await, by_hand);
}

#[tokio::test]
async fn one_right_is_all_that_it_takes() {
    let Some(cluster) = Cluster::open().await else { return };
    let (pod, other) = pods(&cluster).await;
    let (program, file) = (env!("CARGO_BIN_EXE_outrigger"), pod.folder.join("sidecar.yaml"));
    for (rights, tool) in [("+net_admin", "nft"), ("+net_admin,+net_raw", "iptables")] {
        let alone = format!("setpriv --bounding-set=-all,{rights} --inh-caps=-all");
        let words = format!("{alone} {program} init {} --tool {tool}", file.display());
        pod.namespace.run(&words).await;
        assert_eq!(ask(&other, APP, pod.at(8_080)).await, format!("15006 for {}", pod.at(8_080)), "{tool}");
        pod.namespace.run(&format!("{words} --remove")).await;
        assert_eq!(ask(&other, APP, pod.at(8_080)).await, "8080 direct", "{tool}");
    }
}
