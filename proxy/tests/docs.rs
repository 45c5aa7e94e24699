//! `docs/metrics.md` and a running sidecar name the same series: no name, type, label or value of a closed
//! label that is not documented, and nothing documented that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::certs::{Ca, write_identity};
use bench::client::Client;
use bench::dns::NameServer;
use bench::http1;
use bench::process::Sidecar;
use bench::server::Server;
use bench::tls::TlsIdentity;

const ME: &str = "spiffe://cluster.local/ns/default/sa/echo";

/// How long a counter may take to show what has happened.
const PATIENCE: Duration = Duration::from_secs(30);

/// Labels that take their values from the mesh or from callers.
const OPEN_LABELS: [&str; 8] =
    ["service", "grpc_service", "grpc_method", "peer", "version", "le", "name", "rule"];

/// Their reasons have tables of their own, under these heads.
const OWN_REASONS: [(&str, &str); 6] = [
    ("outrigger_control_losses_total", "`reason` of a loss"),
    ("outrigger_spans_dropped_total", "`reason` of a span"),
    ("outrigger_ejections_total", "`reason` of an ejection"),
    ("outrigger_calls_revoked_total", "`reason` of a revoked call"),
    ("outrigger_identity_failures_total", "`reason` of an identity"),
    ("outrigger_trust_failures_total", "`reason` of an identity"),
];

/// A family: its type and the labels of its series.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    std::fs::read_to_string(path).expect("docs/metrics.md")
}

#[tokio::test]
async fn every_series_of_a_running_sidecar_is_documented_and_the_other_way_round() {
    let text = scrape().await;
    let documented = documented(&document());
    let shown = shown(&text);
    for (name, family) in &shown {
        assert_eq!(documented.get(name), Some(family), "docs/metrics.md on {name}");
    }
    for name in documented.keys() {
        assert!(shown.contains_key(name), "docs/metrics.md has {name}, which no sidecar shows:\n{text}");
    }
}

#[tokio::test]
async fn every_value_of_a_closed_label_is_documented() {
    let text = scrape().await;
    let words = quoted(&document());
    // Those of failures stand in docs/operations.md: see below.
    for (_, labels) in samples(&text).filter(|(name, _)| name != "outrigger_failures_total") {
        for (label, value) in labels.iter().filter(|(label, _)| !OPEN_LABELS.contains(&label.as_str())) {
            assert!(words.contains(value), "docs/metrics.md does not say what {label}={value:?} is");
        }
    }
    for label in ["limit", "reason"] {
        let shown: BTreeSet<String> = samples(&text)
            .filter(|(name, _)| name != "outrigger_failures_total")
            .filter(|(name, _)| OWN_REASONS.iter().all(|(own, _)| name != own))
            .filter_map(|(_, labels)| labels.get(label).cloned())
            .collect();
        assert_eq!(first_column(&document(), label), shown, "the table of `{label}` in docs/metrics.md");
    }
    for (family, head) in OWN_REASONS {
        let shown: BTreeSet<String> = samples(&text)
            .filter(|(name, _)| name == family)
            .filter_map(|(_, labels)| labels.get("reason").cloned())
            .collect();
        assert_eq!(column_of(&document(), head), shown, "the table of {head} in docs/metrics.md");
    }
}

#[test]
fn every_reason_of_a_failure_is_explained_to_operators() {
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/failure.rs"));
    let source = source.expect("src/failure.rs");
    let arms = source.lines().filter_map(|line| line.trim().strip_prefix("Self::"));
    let reasons: BTreeSet<String> =
        arms.filter_map(|arm| Some(arm.split_once("=> \"")?.1.trim_end_matches("\",").to_owned())).collect();
    assert!(reasons.contains("NEVER_SENT"), "{reasons:?}");
    let operations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let operations = std::fs::read_to_string(operations).expect("docs/operations.md");
    assert_eq!(first_column(&operations, "reason"), reasons, "the table of reasons in docs/operations.md");
}

#[test]
fn every_series_that_a_page_names_is_documented() {
    let documented = documented(&document());
    let mut named = 0;
    for page in ["README.md", "docs/metrics.md", "docs/operations.md", "docs/config.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page));
        let text = text.expect(page);
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let ours = ["grpc_server_", "grpc_client_", "outrigger_", "process_"];
            // `grpc_server_*` speaks of a group.
            if word.ends_with('_') || !ours.iter().any(|begin| word.starts_with(begin)) {
                continue;
            }
            assert!(family(word, &documented).is_some(), "{page} names {word}");
            named += 1;
        }
    }
    assert!(named > 40, "{named}");
}

/// What a sidecar shows that has served and made calls, good ones and bad ones.
async fn scrape() -> String {
    let app = Server::start(([127, 0, 0, 1], 0).into()).await.expect("an app");
    let names = NameServer::start().await.expect("a name server");
    names.point("app.example", &[app.addr.ip()], 60);
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new("cluster.local");
    write_identity(folder.path(), &ca.leaf(ME), ca.bundle_pem()).expect("files of an identity");
    let yaml = format!(
        "service: echo\n\
         identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n\
         inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: strict}}]\n\
         outbound: {{listen: \"127.0.0.1:0\"}}\n\
         admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
         probes: {{listen: \"127.0.0.1:0\"}}\n\
         mesh: {{file: mesh.yaml}}\n\
         dns: {{servers: [\"{}\"]}}\n\
         drain: {{lag: 1ms, deadline: 1s}}\n",
        app.addr, names.addr
    );
    let mesh = format!(
        "version: 1\nservices:\n  - name: echo\n    endpoints: [{{dns: \"app.example:{}\", tls: none}}]\n    \
         outliers: {{}}\n    health: {{check: grpc, interval: 10ms}}\n    \
         methods: {{bench.Echo/Unary: {{type: unary}}}}\n    \
         inbound: {{authorization: [{{allow: {{methods: [bench.Echo/*]}}}}]}}\n",
        app.addr.port()
    );
    let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
    let sidecar = Sidecar::start(binary, &yaml, &mesh, folder.path()).await.expect("a sidecar");

    let peer = TlsIdentity::mutual(&ca.leaf(ME), ca.bundle_pem());
    let inbound = Client::connect(sidecar.inbound(), Some(peer)).await.expect("a connection of a peer");
    let outbound = Client::connect(sidecar.outbound(), None).await.expect("a connection of the app");
    for client in [&inbound, &outbound] {
        let outcome = client.unary("echo", "/bench.Echo/Unary", b"hello").await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
        let spec = CallSpec::new("echo", "/bench.Echo/Unary").header("x-script", "refused");
        let outcome = client.unary_with(spec, b"hello").await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    }
    let outcome = outbound.unary("nobody", "/bench.Echo/Unary", b"hello").await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");

    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = sidecar.metrics().await.expect("a scrape");
        if metrics.value("grpc_server_handled_total", &[]) + metrics.value("grpc_client_handled_total", &[])
            == 4.0
        {
            return http1::get(sidecar.bound.probes, "/metrics").await.expect("a scrape").body;
        }
        assert!(Instant::now() < deadline, "four calls have ended and are not counted");
        tokio::task::yield_now().await;
    }
}

/// The families of a scrape, with the labels that their samples carry.
fn shown(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("name and type");
        families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for (name, labels) in samples(text) {
        let family = family(&name, &families).unwrap_or_else(|| panic!("{name} has no type")).to_owned();
        let known = &mut families.get_mut(&family).expect("just found").1;
        known.extend(labels.into_keys().filter(|label| label != "le"));
    }
    families
}

/// The family of a sample.
fn family<'n>(name: &'n str, families: &Families) -> Option<&'n str> {
    let ends = ["", "_bucket", "_sum", "_count"];
    ends.iter().find_map(|end| name.strip_suffix(end).filter(|name| families.contains_key(*name)))
}

/// The samples of a scrape: their names and labels.
fn samples(text: &str) -> impl Iterator<Item = (String, BTreeMap<String, String>)> {
    let metrics = bench::metrics::Metrics::parse(text);
    let samples: Vec<_> = metrics.samples().to_vec();
    samples.into_iter().map(|sample| (sample.name, sample.labels.into_iter().collect()))
}

/// The families of the tables `| name | type | labels | meaning |`.
fn documented(text: &str) -> Families {
    let mut families = Families::new();
    for row in text.lines().map(cells).filter(|row| row.len() == 4 && row[0].starts_with('`')) {
        let [name] = &Vec::from_iter(quoted(row[0]))[..] else { panic!("one name in {row:?}") };
        let before = families.insert(name.clone(), (row[1].to_owned(), quoted(row[2])));
        assert!(before.is_none(), "{name} stands twice");
    }
    assert!(families.len() > 20, "{families:?}");
    families
}

/// The first cells, without backquotes, of the table whose head begins with `` `HEAD` ``.
fn first_column(text: &str, head: &str) -> BTreeSet<String> {
    column_of(text, &format!("`{head}`"))
}

/// [`first_column`] of the table whose head begins with these words.
fn column_of(text: &str, head: &str) -> BTreeSet<String> {
    let head = format!("| {head} |");
    let rows = text.lines().skip_while(|line| !line.starts_with(&head)).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| cells(row)[0].trim_matches('`').to_owned())
        .collect()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// Every text between backquotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
