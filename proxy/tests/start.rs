//! How a sidecar starts, and what it says when it cannot: every fault at once and by its place, exit code 1,
//! nothing bound.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use bench::certs::{Ca, LeafSpec, write_identity};
use bench::process::{Sidecar, die_with_parent};
use bench::wait::{PATIENCE, until};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_outrigger-proxy");

const ME: &str = "spiffe://cluster.local/ns/default/sa/near";
const MESH: &str = "version: 1\nservices:\n  - name: near\n";

/// With mTLS and every listener; each `KEY` stands for its address.
const SIDECAR: &str = "\
service: near
identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}
inbound: [{listen: \"INBOUND\", app: \"127.0.0.1:1\", mtls: strict}]
outbound: {listen: \"OUTBOUND\"}
admin: {listen: \"ADMIN\", socket: sidecar.sock}
probes: {listen: \"PROBES\"}
mesh: {file: mesh.yaml}
";
const LISTENERS: [(&str, &str); 4] = [
    ("INBOUND", "inbound[0].listen"),
    ("OUTBOUND", "outbound.listen"),
    ("ADMIN", "admin.listen"),
    ("PROBES", "probes.listen"),
];

#[tokio::test]
async fn the_first_line_on_stdout_is_json_with_every_bound_address() {
    let folder = good();
    let sidecar = start(&folder).await;
    let bound = &sidecar.bound;
    let addresses = [sidecar.inbound(), sidecar.outbound(), bound.admin, bound.probes];
    for address in addresses {
        assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
        TcpStream::connect(address).await.expect("it listens there");
    }
    let different: std::collections::BTreeSet<SocketAddr> = addresses.into();
    assert_eq!(different.len(), addresses.len());
    let socket = folder.path().join(bound.socket.as_ref().expect("a socket"));
    std::os::unix::net::UnixStream::connect(socket).expect("it listens there too");
}

#[tokio::test]
async fn it_is_ready_soon_after_exec_and_small() {
    let folder = good();
    let (mut soonest, mut cheapest, mut smallest) = (Duration::MAX, Duration::MAX, u64::MAX);
    // The best of a few: the others tell how busy the machine is. What it costs says more than how long it takes there.
    for _ in 0..10 {
        let mut sidecar = start(&folder).await;
        soonest = soonest.min(sidecar.ready_after);
        cheapest = cheapest.min(sidecar.cpu().expect("it runs"));
        smallest = smallest.min(sidecar.rss_bytes().expect("it runs"));
        sidecar.kill();
        sidecar.wait().await.expect("a status");
    }
    println!("ready after {soonest:?} and {cheapest:?} of CPU, resident {} KiB", smallest >> 10);
    assert!(soonest < Duration::from_secs(1), "{soonest:?}");
    assert!(cheapest < Duration::from_millis(100), "{cheapest:?} of CPU");
    assert!(smallest < 32 << 20, "{smallest} bytes");
}

#[tokio::test]
async fn it_serves_although_nobody_reads_its_first_line() {
    let folder = good();
    let mut command = command(&["sidecar.yaml"], folder.path());
    command.stdout(Stdio::piped());
    let mut child = command.spawn().expect("our own binary");
    drop(child.stdout.take());
    until("it answers", async || said(&["drain", "sidecar.yaml"], folder.path()).await.code == Some(0)).await;
    let pid = child.id().expect("it runs");
    // SAFETY: kill takes no pointers, and the id is that of our own child.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("a status");
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_file_that_is_missing_is_named() {
    for file in ["sidecar.yaml", "mesh.yaml", "tls.crt", "tls.key", "ca.crt"] {
        let folder = good();
        std::fs::remove_file(folder.path().join(file)).expect("a file");
        let told = refuses(&folder).await;
        assert_eq!(
            told.trim_end(),
            format!("outrigger-proxy: {file}: No such file or directory (os error 2)")
        );
    }
}

#[tokio::test]
async fn the_faults_of_both_files_are_told_at_once_each_with_its_place() {
    let folder = good();
    edit(&folder, "sidecar.yaml", |text| {
        text.replace("mtls: strict", "mtls: strickt") + "drain: {lag: soon}\ncolour: red\n"
    });
    edit(&folder, "mesh.yaml", |text| {
        text.replace("version: 1", "version: 2") + "    endpoints: [nowhere]\n"
    });
    let told = refuses(&folder).await;
    let places: Vec<&str> =
        told.lines().skip(1).map(|line| line.split(": ").next().unwrap_or(line)).collect();
    let expected =
        ["sidecar.yaml:3:61", "sidecar.yaml:8:14", "sidecar.yaml:9:1", "mesh.yaml:1:10", "mesh.yaml:4:17"];
    assert_eq!(places, expected, "{told}");
    assert!(told.contains("sidecar.yaml:9:1: colour: "), "{told}");
}

#[tokio::test]
async fn faults_of_a_mesh_are_told_when_the_sidecar_has_none_and_the_other_way_round() {
    for (file, fault) in [("mesh.yaml", "colour: red\n"), ("sidecar.yaml", "colour: red\n")] {
        let folder = good();
        edit(&folder, file, |text| text + fault);
        let told = refuses(&folder).await;
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.lines().last().expect("a fault").starts_with(&format!("{file}:")), "{told}");
    }
}

#[tokio::test]
async fn a_sidecar_that_does_not_fit_its_mesh_is_refused_at_the_place() {
    let folder = good();
    edit(&folder, "mesh.yaml", |text| text.replace("near", "far"));
    let told = refuses(&folder).await;
    assert!(told.contains("sidecar.yaml:1:10: service: "), "{told}");
}

#[tokio::test]
async fn an_identity_that_cannot_work_is_refused_with_the_file_at_fault() {
    let ca = Ca::new("cluster.local");
    let stranger = Ca::new("cluster.local").leaf(ME);
    let other = ca.leaf("spiffe://cluster.local/ns/default/sa/far");
    let past = SystemTime::now() - Duration::from_secs(60);
    let expired = ca.leaf_with(&LeafSpec { uris: vec![ME.into()], not_after: past, ..LeafSpec::default() });
    let nobody = ca.leaf_with(&LeafSpec::default());
    let cases = [
        ("tls.key", stranger.key_pem.as_str(), "tls.key: does not fit tls.crt"),
        ("tls.key", "no key\n", "tls.key: no private key in PEM"),
        ("ca.crt", "", "ca.crt: no certificate in PEM"),
        ("tls.crt", "", "tls.crt: no certificate in PEM"),
        (
            "tls.crt",
            other.cert_pem.as_str(),
            "tls.crt: the certificate is for spiffe://cluster.local/ns/default/sa/far",
        ),
        ("tls.crt", expired.cert_pem.as_str(), "tls.crt: the certificate has expired"),
        ("tls.crt", nobody.cert_pem.as_str(), "tls.crt: not a workload certificate"),
    ];
    for (file, text, expected) in cases {
        let folder = good();
        std::fs::write(folder.path().join(file), text).expect("a file");
        let told = refuses(&folder).await;
        assert!(told.starts_with(&format!("outrigger-proxy: {expected}")), "{told}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_key_and_what_would_be_right() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("an address");
    for (word, key) in LISTENERS {
        let folder = with(|text| text.replace(word, &at.to_string()));
        let told = refuses(&folder).await;
        let expected = format!("outrigger-proxy: {key}: cannot listen on {at}: ");
        assert!(told.starts_with(&expected), "{told}");
        assert!(told.contains("; another process listens there: end it, or name another port"), "{told}");
    }
}

#[tokio::test]
async fn an_address_that_is_not_this_hosts_is_named() {
    // TEST-NET-1 of RFC 5737: nobody has it.
    let folder = with(|text| text.replace("PROBES", "192.0.2.1:0"));
    let told = refuses(&folder).await;
    assert!(told.starts_with("outrigger-proxy: probes.listen: cannot listen on 192.0.2.1:0: "), "{told}");
    assert!(told.contains("; name an address of this host"), "{told}");
}

#[tokio::test]
async fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let folder = good();
    std::fs::write(folder.path().join("sidecar.sock"), "precious").expect("a file");
    let told = said(&["sidecar.yaml"], folder.path()).await;
    assert_eq!((told.code, told.stdout.as_str()), (Some(1), ""));
    assert!(told.stderr.starts_with("outrigger-proxy: admin.socket: cannot listen on "), "{}", told.stderr);
    let text = std::fs::read_to_string(folder.path().join("sidecar.sock")).expect("it is still there");
    assert_eq!(text, "precious");
}

#[tokio::test]
async fn drain_says_what_is_wrong_when_there_is_no_sidecar_or_no_file() {
    let folder = good();
    let drain = said(&["drain", "sidecar.yaml"], folder.path()).await;
    assert_eq!((drain.code, drain.stdout.as_str()), (Some(1), ""));
    assert!(
        drain.stderr.starts_with("outrigger-proxy: no sidecar answers on sidecar.sock: "),
        "{}",
        drain.stderr
    );
    let drain = said(&["drain", "nothing.yaml"], folder.path()).await;
    assert_eq!(drain.code, Some(1));
    assert!(drain.stderr.starts_with("outrigger-proxy: nothing.yaml: "), "{}", drain.stderr);
}

#[tokio::test]
async fn help_and_version_are_printed_and_what_is_not_known_is_answered_with_the_usage() {
    let folder = tempfile::tempdir().expect("a folder");
    for flag in ["--help", "-h"] {
        let help = said(&[flag], folder.path()).await;
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{flag}");
        for word in ["usage:", "drain [SIDECAR.YAML]", "/etc/outrigger/sidecar.yaml", "exit codes:"] {
            assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
        }
    }
    let version = said(&["--version"], folder.path()).await;
    assert_eq!(version.stdout, format!("outrigger-proxy {}\n", env!("CARGO_PKG_VERSION")));
    for args in [&["--colour"][..], &["drain", "a", "b"], &["a", "b"], &["--help", "me"]] {
        let usage = said(args, folder.path()).await;
        assert_eq!((usage.code, usage.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(usage.stderr.contains("usage:"), "{args:?}: {}", usage.stderr);
    }
}

#[tokio::test]
async fn a_variable_that_spans_need_and_that_cannot_be_used_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &b"http://127.0.0.1:4317"[..]);
    for (name, value, wrong) in [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            &b"http/protobuf"[..],
            "`http/protobuf` is not supported; write `grpc`",
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            b"http://user:s3cr3t@a",
            "`http://...@a` is not the URL of a collector",
        ),
        ("OTEL_SERVICE_NAME", b"till-\xff", "it is not UTF-8"),
    ] {
        let folder = good();
        let mut command = command(&["sidecar.yaml"], folder.path());
        for (name, value) in [endpoint, (name, value)] {
            command.env(name, std::ffi::OsStr::from_bytes(value));
        }
        let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("our own binary");
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.starts_with(&format!("outrigger-proxy: {name}: {wrong}")), "{told}");
        // Without an endpoint nobody needs it.
        let mut sidecar = self::command(&["sidecar.yaml"], folder.path());
        if name != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" {
            sidecar.env(name, std::ffi::OsStr::from_bytes(value));
        }
        Sidecar::spawn(sidecar).await.expect("a sidecar");
    }
}

/// A folder with all that a sidecar needs.
fn good() -> TempDir {
    with(str::to_owned)
}

/// The same, with `sidecar.yaml` changed.
fn with(change: impl Fn(&str) -> String) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new("cluster.local");
    write_identity(folder.path(), &ca.leaf(ME), ca.bundle_pem()).expect("files of an identity");
    let mut sidecar = change(SIDECAR);
    for (word, _) in LISTENERS {
        sidecar = sidecar.replace(word, "127.0.0.1:0");
    }
    std::fs::write(folder.path().join("sidecar.yaml"), sidecar).expect("a file");
    std::fs::write(folder.path().join("mesh.yaml"), MESH).expect("a file");
    folder
}

fn edit(folder: &TempDir, file: &str, change: impl Fn(String) -> String) {
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).expect("a file");
    std::fs::write(path, change(text)).expect("a file");
}

async fn start(folder: &TempDir) -> Sidecar {
    Sidecar::spawn(command(&["sidecar.yaml"], folder.path())).await.expect("a sidecar")
}

/// Runs a sidecar that must not start, and returns what it says on stderr.
async fn refuses(folder: &TempDir) -> String {
    let said = said(&["sidecar.yaml"], folder.path()).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
    // It comes last: without it no listener has been told to anyone.
    assert!(!folder.path().join("sidecar.sock").exists(), "{}", said.stderr);
    said.stderr
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `outrigger-proxy` to its end, which must be near.
async fn said(args: &[&str], folder: &Path) -> Said {
    let output = timeout(PATIENCE, command(args, folder).output()).await;
    let output = output.unwrap_or_else(|_| panic!("{args:?} goes on")).expect("our own binary");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    die_with_parent(&mut command);
    command
}
