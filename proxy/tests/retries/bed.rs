//! One sidecar before servers of one row: what comes next, whichever is asked, is scripted for all of them together.

use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::record::CallRecord;
use bench::script::Scripts;
use bench::server::{Server, ServerOptions};

use crate::pair::{ANY, ECHO, Site, UNARY};

/// The names of the servers, which they say in `x-server`.
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

pub(crate) struct Bed {
    pub(crate) caller: Sidecar,
    pub(crate) client: Client,
    pub(crate) servers: Vec<Server>,
    pub(crate) scripts: Scripts,
    _site: Site,
}

/// An attempt as its server saw it.
pub(crate) struct Seen {
    pub(crate) server: usize,
    pub(crate) record: CallRecord,
}

impl Bed {
    /// So many servers, and `policies` of theirs: lines of YAML without indentation.
    pub(crate) async fn new(count: usize, policies: &str) -> Self {
        Self::with(count, policies, "").await
    }

    /// [`Bed::new`] with `more` in `sidecar.yaml`.
    pub(crate) async fn with(count: usize, policies: &str, more: &str) -> Self {
        let (site, scripts, mut servers) = (Site::new(), Scripts::default(), Vec::new());
        for name in &NAMES[..count] {
            let options = ServerOptions {
                name: (*name).to_owned(),
                scripts: scripts.clone(),
                ..ServerOptions::default()
            };
            servers.push(Server::start_with(ANY, options).await.expect("a server"));
        }
        let listed: Vec<String> =
            servers.iter().map(|server| format!("{{address: \"{}\", tls: none}}", server.addr)).collect();
        let caller = site.caller(&mesh(&listed, policies), more).await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        Self { caller, client, servers, scripts, _site: site }
    }

    /// One unary call.
    pub(crate) async fn call(&self) -> Outcome {
        self.call_with(CallSpec::new(ECHO, UNARY)).await
    }

    /// One call with one message.
    pub(crate) async fn call_with(&self, spec: CallSpec<'_>) -> Outcome {
        self.client.unary_with(spec, b"x").await.expect("a call")
    }

    /// All attempts, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let of = |(server, has): (usize, &Server)| {
            has.calls().into_iter().map(move |record| Seen { server, record }).collect::<Vec<_>>()
        };
        let mut seen: Vec<Seen> = self.servers.iter().enumerate().flat_map(of).collect();
        seen.sort_by_key(|seen| seen.record.began);
        seen
    }

    /// How long each attempt came after the one before it.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.seen().windows(2).map(|two| two[1].record.began - two[0].record.began).collect()
    }

    /// Forgets the attempts.
    pub(crate) fn clear(&self) {
        self.servers.iter().for_each(Server::clear);
    }

    /// A counter of the sidecar.
    pub(crate) async fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        crate::pair::metric(&self.caller, name, labels).await
    }

    /// What a limit has refused.
    pub(crate) async fn refused(&self, limit: &str) -> u64 {
        self.count("outrigger_refused_total", &[("limit", limit)]).await
    }
}

impl Seen {
    /// `grpc-previous-rpc-attempts`.
    pub(crate) fn previous(&self) -> Option<&str> {
        self.header("grpc-previous-rpc-attempts")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.record.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

/// A mesh of `echo` with these endpoints, as YAML has them. By default a connection may take two seconds, which is little
/// on a loaded machine.
pub(crate) fn mesh(endpoints: &[String], policies: &str) -> String {
    let policies: String = policies.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "version: 1\nservices:\n  - {{name: shopper, namespace: shop}}\n  - name: echo\n    namespace: shop\n    \
         endpoints: [{}]\n    upstream: {{connect_timeout: 20s}}\n{policies}",
        endpoints.join(", ")
    )
}
