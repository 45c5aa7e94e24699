//! A sidecar that is started twice, once with one key changed, and what is asked of it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use bench::call::{Call, CallSpec};
use bench::certs::{Ca, Leaf, write_identity};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::tls::TlsIdentity;
pub(crate) use bench::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The service that is called in most tests.
pub(crate) const ECHO: &str = "echo.shop";
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const BIDI: &str = "/bench.Echo/Bidi";

/// Codes of gRPC that tests meet.
pub(crate) const OK: Option<i32> = Some(0);
pub(crate) const DEADLINE_EXCEEDED: Option<i32> = Some(4);
pub(crate) const PERMISSION_DENIED: Option<i32> = Some(7);
pub(crate) const RESOURCE_EXHAUSTED: Option<i32> = Some(8);
pub(crate) const UNIMPLEMENTED: Option<i32> = Some(12);
pub(crate) const UNAVAILABLE: Option<i32> = Some(14);

/// How long is waited for what must not come. A machine that is slower than that lets a fault pass, and
/// never fails a sidecar that does right.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

const TEST_MAX: Duration = Duration::from_secs(120);
const ANY: &str = "127.0.0.1:0";
/// Keys of the schema whose own keys are the file's: `*` in the name of a leaf key.
const MAPS: [&str; 4] = ["methods", "labels", "set", "add"];

/// The key that a test stands for.
pub(crate) struct Case {
    key: &'static str,
    changed: Cell<bool>,
}

/// Runs a test on a runtime of its own, as [`Sidecar`] wants it.
pub(crate) fn run(key: &'static str, test: impl AsyncFnOnce(&Case)) {
    let case = Case { key, changed: Cell::new(false) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let test = async { tokio::time::timeout(TEST_MAX, test(&case)).await };
    runtime.block_on(test).unwrap_or_else(|_| panic!("{key}: not over within {TEST_MAX:?}"));
    assert!(case.changed.get(), "the test of {key} changed nothing");
}

impl Case {
    /// `base` with one key changed. The place is the way to it, with spaces: `mesh services 0 hosts 0`.
    /// Panics if that is not this case's key, or if more than a leaf would change.
    pub(crate) fn change(&self, base: &Site, place: &str, value: impl Into<Value>) -> Site {
        assert_eq!(key_of(place), self.key, "this test may change no other key");
        let (mut changed, value) = (base.clone(), value.into());
        let leaf = |value: &Value| !value.is_object() && !value.is_array();
        let old = changed.at(place);
        assert!(leaf(old) && leaf(&value) && *old != value, "{place}: {old} to {value}");
        *old = value;
        self.changed.set(true);
        changed
    }
}

/// `mesh.services[].hosts[]`, from a place.
fn key_of(place: &str) -> String {
    let (mut key, mut before) = (String::new(), "");
    for step in place.split(' ') {
        match step {
            _ if step.parse::<usize>().is_ok() => key += "[]",
            _ if MAPS.contains(&before) => key += ".*",
            _ if key.is_empty() => key += step,
            _ => key = format!("{key}.{step}"),
        }
        before = step;
    }
    key
}

/// The value at the end of these steps.
fn at<'v>(value: &'v mut Value, steps: &[&str]) -> &'v mut Value {
    let Some((first, rest)) = steps.split_first() else { return value };
    let Ok(index) = first.parse::<usize>() else { return at(&mut value[*first], rest) };
    if value.is_null() {
        *value = json!([]);
    }
    let list = value.as_array_mut().expect("a list");
    if list.len() == index {
        list.push(Value::Null);
    }
    at(&mut list[index], rest)
}

/// What a sidecar is started with. The two files are JSON, which is YAML.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) sidecar: Value,
    pub(crate) mesh: Value,
    /// Further files, by name.
    pub(crate) files: Vec<(String, String)>,
    identity: Option<(Leaf, String)>,
}

impl Site {
    /// The sidecar of `caller.shop`: no identity, one worker, `services` in its mesh.
    pub(crate) fn outbound(services: &[Value]) -> Self {
        Self::new("caller", json!({"outbound": {"listen": ANY}}), services)
    }

    /// The sidecar of `echo.shop` before `app`: `mtls: off`, one worker. `echo` is service 0 of its mesh.
    pub(crate) fn inbound(app: &Server) -> Self {
        let entry = json!({"listen": ANY, "app": app.addr.to_string(), "mtls": "off"});
        Self::new("echo", json!({"inbound": [entry]}), &[service("echo", &[])])
    }

    fn new(own: &str, ways_in: Value, services: &[Value]) -> Self {
        let mut sidecar = json!({
            "service": own,
            "namespace": "shop",
            "workers": 1,
            "admin": {"listen": ANY, "socket": "admin.sock"},
            "probes": {"listen": ANY},
            "mesh": {"file": "mesh.yaml"},
            "drain": {"lag": "0s", "deadline": "1h"},
        });
        let Value::Object(ways_in) = ways_in else { panic!("a mapping") };
        sidecar.as_object_mut().expect("a mapping").extend(ways_in);
        let mut site = Self {
            sidecar,
            // By default a connection may take two seconds, which is little on a loaded machine.
            mesh: json!({
                "version": 1,
                "defaults": {"upstream": {"connect_timeout": "20s"}},
                "services": services,
            }),
            files: Vec::new(),
            identity: None,
        };
        if own == "caller" {
            site = site.with(service("caller", &[]));
        }
        site
    }

    /// The value at a place, as [`Case::change`] names places; what is missing on the way is made.
    pub(crate) fn at(&mut self, place: &str) -> &mut Value {
        let (file, way) = place.split_once(' ').expect("a file and a way");
        let document = if file == "sidecar" { &mut self.sidecar } else { &mut self.mesh };
        let steps: Vec<&str> = way.split(' ').collect();
        at(document, &steps)
    }

    /// With one more service, behind those that are there.
    pub(crate) fn with(mut self, service: Value) -> Self {
        self.mesh["services"].as_array_mut().expect("a list").push(service);
        self
    }

    /// With a certificate for `spiffe_id` and the bundle of the same authority.
    pub(crate) fn identified(mut self, ca: &Ca, spiffe_id: &str) -> Self {
        self.sidecar["identity"] = json!({"cert": "tls.crt", "key": "tls.key", "bundle": "ca.crt"});
        self.identity = Some((ca.leaf(spiffe_id), ca.bundle_pem().to_owned()));
        self
    }

    /// With another file beside the two.
    pub(crate) fn file(mut self, name: &str, text: impl Into<String>) -> Self {
        self.files.push((name.to_owned(), text.into()));
        self
    }

    /// Starts the sidecar.
    pub(crate) async fn start(&self) -> Running {
        self.try_start().await.unwrap_or_else(|fault| panic!("{fault}\n{:#}\n{:#}", self.sidecar, self.mesh))
    }

    /// Starts the sidecar, which must refuse; returns what it said.
    pub(crate) async fn refused(&self) -> String {
        match self.try_start().await {
            Ok(_) => panic!("it started with\n{:#}\n{:#}", self.sidecar, self.mesh),
            Err(fault) => {
                let said = fault.to_string();
                assert!(said.contains("exit status: 1"), "{said}");
                said
            }
        }
    }

    async fn try_start(&self) -> std::io::Result<Running> {
        let dir = TempDir::new()?;
        for (name, text) in &self.files {
            std::fs::write(dir.path().join(name), text)?;
        }
        if let Some((leaf, bundle)) = &self.identity {
            write_identity(dir.path(), leaf, bundle)?;
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let (sidecar, mesh) = (self.sidecar.to_string(), self.mesh.to_string());
        let sidecar = Sidecar::start(binary, &sidecar, &mesh, dir.path()).await?;
        Ok(Running { sidecar, dir })
    }

    /// Starts it and makes one unary call to `echo.shop`.
    pub(crate) async fn status(&self) -> Option<i32> {
        self.start().await.unary(ECHO).await.grpc_status
    }
}

/// A running sidecar and its folder.
pub(crate) struct Running {
    sidecar: Sidecar,
    pub(crate) dir: TempDir,
}

impl Deref for Running {
    type Target = Sidecar;

    fn deref(&self) -> &Sidecar {
        &self.sidecar
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Sidecar {
        &mut self.sidecar
    }
}

impl Running {
    /// Where calls come in: outbound, or the first inbound.
    pub(crate) fn entry(&self) -> SocketAddr {
        self.bound.outbound.unwrap_or_else(|| self.inbound())
    }

    /// A plain connection to [`Running::entry`].
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.entry(), None).await.expect("a connection to the sidecar")
    }

    /// One unary call on a connection of its own.
    pub(crate) async fn unary(&self, authority: &str) -> Outcome {
        self.call(CallSpec::new(authority, UNARY)).await
    }

    /// One call with one message on a connection of its own.
    pub(crate) async fn call(&self, spec: CallSpec<'_>) -> Outcome {
        self.client().await.unary_with(spec, b"ping").await.expect("a call")
    }

    /// A counter of the sidecar.
    pub(crate) async fn counter(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.expect("a scrape").value(name, labels)
    }

    /// Waits until a counter stands at `value`; it may do so a moment after its effect is seen.
    pub(crate) async fn counts(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name} {labels:?} at {value}");
        until(&what, async || self.counter(name, labels).await == value).await;
    }

    /// Waits until a limit has refused something this many times.
    pub(crate) async fn refuses(&self, limit: &str, times: f64) {
        self.counts("outrigger_refused_total", &[("limit", limit)], times).await;
    }
}

/// An echo server whose answers say `name` in `x-server`.
pub(crate) async fn echo(name: &str) -> Server {
    serve(ServerOptions { name: name.to_owned(), ..ServerOptions::default() }).await
}

/// An echo server on any port.
pub(crate) async fn serve(options: ServerOptions) -> Server {
    Server::start_with(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), options).await.expect("a server")
}

/// A service in the namespace `shop`.
pub(crate) fn service(name: &str, endpoints: &[&Server]) -> Value {
    let endpoints: Vec<String> = endpoints.iter().map(|server| server.addr.to_string()).collect();
    json!({"name": name, "namespace": "shop", "endpoints": endpoints})
}

/// `spiffe://cluster.local/ns/shop/sa/ACCOUNT`.
pub(crate) fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

/// Which server answered; empty: none did.
pub(crate) fn landed(outcome: &Outcome) -> &str {
    outcome.headers.get("x-server").map_or("", |name| name.to_str().expect("a name"))
}

/// Where unary calls land that are made one after another.
pub(crate) async fn landings(client: &Client, calls: usize) -> Vec<String> {
    let mut landings = Vec::with_capacity(calls);
    for _ in 0..calls {
        let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
        landings.push(landed(&outcome).to_owned());
    }
    landings
}

/// A bidirectional call on which one message has gone there and back.
pub(crate) async fn open(client: &Client) -> Call {
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    assert!(echoes(&mut call).await, "the call does not come through");
    call
}

/// Whether a message goes there and comes back.
pub(crate) async fn echoes(call: &mut Call) -> bool {
    call.send(b"ping").await.is_ok() && call.recv().await.is_some()
}

/// Whether a unary call on a new connection, plain or by TLS, goes well.
pub(crate) async fn admits(addr: SocketAddr, tls: impl Into<Option<TlsIdentity>>) -> bool {
    let Ok(client) = Client::connect(addr, tls.into()).await else { return false };
    client.unary(ECHO, UNARY, b"ping").await.is_ok_and(|outcome| outcome.is_ok())
}

/// Whether something that has gone so far that `there` holds stays away from then on.
pub(crate) async fn stays_away_from<T>(
    what: impl Future<Output = T>,
    there: impl AsyncFnMut() -> bool,
) -> bool {
    let mut what = std::pin::pin!(what);
    tokio::select! {
        _ = &mut what => return false,
        () = until("it is on its way", there) => {}
    }
    stays_away(what).await
}

/// Whether something stays away for as long as tests wait for what must not come.
pub(crate) async fn stays_away<T>(what: impl Future<Output = T>) -> bool {
    tokio::time::timeout(NEVER, what).await.is_err()
}
