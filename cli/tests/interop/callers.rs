//! Clients of `interop.Where`, on three ways: as xDS clients of their own, behind Envoy, behind our sidecar.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bench::process::Sidecar;
use bench::wait::PATIENCE;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::envoy::Envoy;
use crate::parts::Parts;
use crate::plane::{Plane, Trust};
use crate::programs::{Program, python};

/// How some calls ended, as `python/caller.py` tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Tally {
    /// Answers, by the backend that gave them.
    pub(crate) ids: BTreeMap<String, u32>,
    /// Failures, by their status.
    pub(crate) failed: BTreeMap<String, u32>,
    /// What some of the failures said.
    pub(crate) said: Vec<String>,
    /// Whom backends took the caller for; empty where nobody proved anything.
    pub(crate) callers: Vec<String>,
    /// How long the fastest one took.
    pub(crate) shortest_ms: Option<f64>,
}

/// What the xDS client inside a gRPC program says of one resource.
#[derive(Debug, Deserialize)]
pub(crate) struct Held {
    /// The type's name, without its package.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// `ClientResourceStatus`.
    pub(crate) status: u32,
    pub(crate) error: String,
}

/// `ClientResourceStatus.ACKED`.
pub(crate) const ACKED: u32 = 3;

/// The app of an Envoy that is a caller only.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// A client, and what stands between it and the mesh.
pub(crate) struct Caller {
    /// For people.
    pub(crate) name: String,
    program: Program,
    /// What stands between it and the mesh, for as long as it lives.
    _between: Option<Box<dyn Any>>,
}

impl Caller {
    /// An xDS client of its own, with the identity of a service.
    pub(crate) fn grpc(parts: &Parts, plane: &Plane, service: &str, target: &str) -> Self {
        let id = format!("{service}.shop~grpc~{}", target.replace([':', '/'], "-"));
        let folder = plane.certificates(&id, service);
        let mut command = python(parts, "caller");
        command.env("GRPC_XDS_BOOTSTRAP", plane.grpc_bootstrap(&folder, &id, service));
        command.args(["--target", target]);
        if plane.trust != Trust::PlainText {
            command.arg("--xds-credentials");
        }
        Self { name: format!("{service} by {target}"), program: Program::start(command), _between: None }
    }

    /// Behind an Envoy of `orders` that takes its resources by delta, or as the state of the world.
    pub(crate) async fn envoy(parts: &Parts, plane: &Plane, authority: &str, api_type: &str) -> Self {
        let id = format!("orders.shop~envoy~{api_type}~{}", authority.replace(':', "-"));
        let (folder, config) = match plane.trust {
            // It reads files once: those that are renewed are no good to it.
            Trust::Authority => {
                let (folder, socket) = plane.secrets(&id, "orders");
                let config = plane.agent_bootstrap(&socket, &id, NOBODY);
                (folder, config)
            }
            Trust::Certificates | Trust::PlainText => {
                let folder = plane.certificates(&id, "orders");
                let config = plane.envoy_bootstrap(&folder, &id);
                (folder, config)
            }
        };
        let config = config.replace("api_type: DELTA_GRPC", &format!("api_type: {api_type}"));
        let envoy = Envoy::start(parts, &folder, &config, "outbound").await;
        let program = through(parts, envoy.addr, authority);
        Self {
            name: format!("{authority} behind Envoy ({api_type})"),
            program,
            _between: Some(Box::new(envoy)),
        }
    }

    /// Behind our sidecar of a service.
    pub(crate) async fn sidecar(parts: &Parts, plane: &Plane, service: &str, authority: &str) -> Self {
        let sidecar = plane.sidecar(service, "outbound: {listen: \"127.0.0.1:0\"}\n").await;
        Self::behind(parts, sidecar, authority)
    }

    /// Behind a sidecar that runs.
    pub(crate) fn behind(parts: &Parts, sidecar: Sidecar, authority: &str) -> Self {
        let program = through(parts, sidecar.outbound(), authority);
        Self { name: format!("{authority} behind our sidecar"), program, _between: Some(Box::new(sidecar)) }
    }

    /// By plain text, to a backend itself.
    pub(crate) fn plain(parts: &Parts, backend: SocketAddr) -> Self {
        let program = through(parts, backend, "payments.shop");
        Self { name: "by plain text".to_owned(), program, _between: None }
    }

    /// Calls a method of `interop.Where`.
    pub(crate) async fn call(&mut self, calls: u32, method: &str) -> Tally {
        self.call_with(calls, method, &json!({})).await
    }

    /// [`Caller::call`] with metadata.
    pub(crate) async fn call_with(&mut self, calls: u32, method: &str, metadata: &Value) -> Tally {
        self.ask(&json!({"calls": calls, "method": method, "metadata": metadata})).await
    }

    /// Calls without a pause, until [`Caller::end`].
    pub(crate) async fn begin(&mut self) {
        self.program.ask(&json!({"load": "begin"})).await;
    }

    /// How those calls ended.
    pub(crate) async fn end(&mut self) -> Tally {
        self.ask(&json!({"load": "end"})).await
    }

    /// Waits until `holds` is true of ten calls of `Ask`.
    pub(crate) async fn until(&mut self, what: &str, holds: impl FnMut(&Tally) -> bool) {
        self.until_of("Ask", what, holds).await;
    }

    /// Waits until `holds` is true of ten calls of a method.
    ///
    /// # Panics
    /// When that takes longer than [`PATIENCE`]; with how the last ten ended.
    pub(crate) async fn until_of(&mut self, method: &str, what: &str, mut holds: impl FnMut(&Tally) -> bool) {
        let began = Instant::now();
        loop {
            let tally = self.call(10, method).await;
            if holds(&tally) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{}: {what}: {tally:?}", self.name);
        }
    }

    /// What the xDS client inside the program holds (gRPC's own CSDS).
    pub(crate) async fn held(&mut self) -> Vec<Held> {
        let answer = self.program.ask(&json!({"csds": true})).await;
        serde_json::from_value(answer).unwrap_or_else(|fault| panic!("{}: {fault}", self.name))
    }

    async fn ask(&mut self, command: &Value) -> Tally {
        let answer = self.program.ask(command).await;
        serde_json::from_value(answer).unwrap_or_else(|fault| panic!("{}: {fault}", self.name))
    }
}

impl Tally {
    /// Whether every call was answered by this backend.
    pub(crate) fn all(&self, id: &str) -> bool {
        self.failed.is_empty() && self.ids.len() == 1 && self.ids.contains_key(id)
    }

    /// How many calls this backend answered.
    pub(crate) fn of(&self, id: &str) -> u32 {
        self.ids.get(id).copied().unwrap_or(0)
    }
}

fn through(parts: &Parts, addr: SocketAddr, authority: &str) -> Program {
    let mut command = python(parts, "caller");
    command.args(["--target", &addr.to_string(), "--authority", authority]);
    Program::start(command)
}
