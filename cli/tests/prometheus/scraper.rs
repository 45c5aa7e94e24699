//! A Prometheus of this test alone.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;

use bench::http1;
use bench::process::die_with_parent;
use bench::wait::until;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::prometheus;

/// A running Prometheus; killed when dropped.
pub(crate) struct Scraper {
    address: SocketAddr,
    _process: Child,
    _folder: TempDir,
}

impl Scraper {
    /// Scrapes these every second.
    pub(crate) async fn start(targets: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
        config += "  - job_name: outrigger\n    static_configs:\n";
        for target in targets {
            let _ = writeln!(config, "      - targets: [\"{target}\"]");
        }
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file");
        let address = free_address();
        let mut command = Command::new(prometheus().expect("it was there"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let mut process = command.spawn().expect("prometheus");
        until("prometheus is ready", async || {
            assert!(process.try_wait().expect("a status").is_none(), "it ended");
            http1::get(address, "/-/ready").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        Self { address, _process: process, _folder: folder }
    }

    /// The one value that a query comes to at this moment, if there is one.
    pub(crate) async fn query(&self, query: &str) -> Option<f64> {
        let answer = self.get(&format!("/api/v1/query?query={}", escaped(query))).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let results = answer["data"]["result"].as_array()?;
        match &results[..] {
            [one] => one["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// What went wrong with the latest scrape of each target.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let answer = self.get("/api/v1/targets?state=active").await;
        let targets = answer["data"]["activeTargets"].as_array().expect("targets");
        assert!(!targets.is_empty());
        let faults = targets.iter().map(|target| target["lastError"].as_str().unwrap_or_default());
        faults.filter(|fault| !fault.is_empty()).map(str::to_owned).collect()
    }

    async fn get(&self, path: &str) -> Value {
        let answer = http1::get(self.address, path).await.expect("an answer");
        serde_json::from_str(&answer.body).unwrap_or_else(|fault| panic!("{path}: {fault}: {}", answer.body))
    }
}

/// Prometheus cannot take port 0. The port is free on a loopback host that nobody else uses, so nobody takes it
/// in the moment between.
fn free_address() -> SocketAddr {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    let host = IpAddr::V4(Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254)));
    let held = TcpListener::bind((host, 0)).expect("a loopback address");
    held.local_addr().expect("an address")
}

/// Percent-encoded, as RFC 3986 wants it in a query.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' => escaped.push(char::from(byte)),
            _ => _ = write!(escaped, "%{byte:02X}"),
        }
    }
    escaped
}
