//! What is explained is what is done: `plan::admit` and an explanation on the same calls, and both against a third opinion, which
//! walks through the routes of the model one by one.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bench::maze::{self, MazeCall, Shape};
use config::model::{HeaderValueMatch, Limits, Match, Mesh, MethodMatch, Service, Unknown, Unmatched};
use config::{Source, words};
use fastrand::Rng;
use http::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::build::Parts;
use crate::call::origin::{Link, Origin, Via, Way};
use crate::call::plan::{Arrival, Callee, Plan, Unidentified, admit, identify};
use crate::call::trail::Trail;
use crate::clock::Clock;
use crate::context::{Context, Shared};
use crate::demand::Demand;
use crate::dial::Dialled;
use crate::dns::{Answers, Resolver};
use crate::explain::question::Call;
use crate::explain::view::View;
use crate::failure::Failure;
use crate::inherited::Inherited;
use crate::local::{Local, Locals};
use crate::metrics::calls::Registry;
use crate::metrics::events::Events;
use crate::record::call::RouteName;
use crate::tables::Tables;
use crate::trace::context::Formats;

const ROUTES: usize = 1_000;
const CALLS: usize = 100_000;
const MESHES: usize = 4;

/// A worker's view of a mesh, as `worker::work` makes it.
struct Worker {
    context: Rc<Context>,
    local: Rc<Local>,
    origin: Origin,
}

impl Worker {
    fn new(mesh: &Mesh) -> Self {
        let text = "{service: s0, namespace: maze, mesh: {file: m}, outbound: {listen: 127.0.0.1:0}}";
        let sidecar = config::parse_sidecar(Source { name: "sidecar", text }).unwrap();
        let tables = Tables::build(&Parts {
            sidecar: &sidecar,
            mesh,
            unruled: &BTreeSet::new(),
            credentials: None,
            answers: &Answers::default(),
            workers: 1,
            before: None,
            now: 0,
        })
        .unwrap();
        let limits = Limits::default();
        let shared = Shared {
            clock: Clock::start(),
            limits,
            tables: ArcSwap::from_pointee(tables),
            published: watch::Sender::new(()),
            events: [Events::default()].into(),
            calls: Registry::new(1, limits.series),
            identity: None,
            no_identity: ArcSwapOption::empty(),
            propagate: Formats::default(),
            recorder: None,
            draining: AtomicBool::new(false),
            leaving: watch::Sender::new(false),
            demand: Demand::new().0,
            entries: [].into(),
            resolver: Resolver::new().0,
            inherited: Inherited::default(),
            dialled: Dialled::default(),
            listeners: OnceLock::new(),
            opaque_ports: Vec::new(),
            strict: false,
            unknown: Unknown::Refuse,
        };
        let context = Rc::new(Context::new(0, Arc::new(shared)));
        let locals = Rc::new(Locals::new(&context));
        let local = locals.current(&context);
        let link = Rc::new(Link::new(Rc::default(), &limits, 0));
        let way = Way::Outbound(Via::Authority);
        Self { context, local, origin: Origin { way, link, locals, mtls: false } }
    }

    /// What `call::serve` does with a call until an endpoint is picked; chance begins with `seed`.
    fn decide<T>(
        &self,
        call: &MazeCall,
        seed: u64,
        then: impl FnOnce(Result<(usize, Plan<'_>), Failure>) -> T,
    ) -> T {
        let uri = format!("http://{}/{}", call.authority, call.method);
        let mut request = Request::post(uri).header("content-type", "application/grpc");
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        *self.context.random.borrow_mut() = Rng::with_seed(seed);
        let identified = identify(&self.local.tables, &self.origin, &parts, true);
        let decided = identified.map_err(Unidentified::failure).and_then(|called| {
            let Callee::Service(service) = called.callee else { panic!("nothing was redirected") };
            let plan = admit(
                &self.context,
                &self.local,
                &self.origin,
                &called,
                Arrival {
                    headers: &parts.headers,
                    grpc: true,
                    began: Instant::now(),
                    trail: &Trail::Nothing,
                },
            )?;
            Ok((service, plan))
        });
        then(decided)
    }
}

/// Why an explanation is not what happens; `None`: it is.
fn disagreement(worker: &Worker, mesh: &Mesh, call: &MazeCall, told: &Value, seed: u64) -> Option<String> {
    worker.decide(call, seed, |decided| {
        let (service, plan) = match decided {
            Ok(decided) => decided,
            Err(failure) => {
                let said = json!({"code": failure.code.name(), "reason": failure.reason.as_str(), "message": failure.message});
                let oracle = oracle(mesh, call);
                return (told["refused"] != said || !matches!(oracle, Third::Refused))
                    .then(|| format!("refused: {said}, a third opinion {oracle:?}"));
            }
        };
        let model = &mesh.services[service];
        let index = match plan.route {
            Some(RouteName::Index(index)) => Some(index as usize),
            _ => None,
        };
        let third = oracle(mesh, call);
        let method = model.methods.get(&call.method);
        let cluster = plan.target.cluster;
        let backend = told["backends"].as_array().and_then(|backends| {
            backends.iter().find(|backend| {
                backend["service"] == *cluster.service
                    && backend["labels"] == json!(cluster.labels)
                    && backend["weight"] != 0
            })
        });
        let policy = match index {
            Some(index) => &model.routes[index].policy,
            None => &model.policy,
        };
        let block = |name: &str| {
            let blocks = told["policies"].as_array().into_iter().flatten();
            blocks.clone().find(|block| block["block"] == name).map(|block| block["value"].clone())
        };
        let nothing_is_null = |value: Value| match value.as_object() {
            Some(map) if map.is_empty() => Value::Null,
            _ => value,
        };
        let (repeats, rule) = words::repeats(plan.repeats).unwrap_or(("retries", Value::Null));
        let idle = plan.idle.map_or(Value::Null, |idle| json!({"idle": words::duration(idle)}));
        let headers = plan.headers.map(|rules| nothing_is_null(words::headers(&rules.model())));
        let faults = plan.faults.map_or(Value::Null, |faults| words::faults(faults.injection()));
        let deadline = method.and_then(|method| method.deadline).unwrap_or(policy.deadline);
        let addresses: Vec<&str> = cluster.members.iter().map(|member| &*member.name).collect();
        let shown = |backend: &Value| -> Vec<String> {
            let endpoints = backend["endpoints"].as_array().into_iter().flatten();
            endpoints.filter_map(|endpoint| Some(endpoint["address"].as_str()?.to_owned())).collect()
        };
        let checks = [
            ("refused", told["refused"].is_null()),
            ("service", told["service"] == model.full_name()),
            ("a third opinion", third == Third::Taken { service, route: index }),
            ("route", told["route"]["index"] == json!(index)),
            ("backend", backend.is_some_and(|backend| shown(backend) == addresses)),
            ("granted", told["deadline"]["granted"] == json!(plan.granted.map(words::duration))),
            ("deadline", block("deadline") == Some(nothing_is_null(words::deadline(&deadline)))),
            ("stream", block("stream") == Some(idle)),
            ("headers", block("headers") == headers),
            ("repeats", block(repeats) == Some(rule)),
            ("faults", block("faults") == Some(faults)),
            ("idempotent", told["idempotent"] == plan.idempotent),
        ];
        checks.into_iter().find(|(_, holds)| !holds).map(|(what, _)| format!("{what}: {plan:?}"))
    })
}

/// What a third opinion says.
#[derive(Debug, PartialEq)]
enum Third {
    Refused,
    Taken { service: usize, route: Option<usize> },
}

/// The specification, one sentence after the other, without any index.
fn oracle(mesh: &Mesh, call: &MazeCall) -> Third {
    let host = call.authority.split(':').next().unwrap_or_default().to_lowercase();
    let Some(service) = mesh.services.iter().position(|service| service.hosts.contains(&host)) else {
        return Third::Refused;
    };
    let model = &mesh.services[service];
    let route = model.routes.iter().position(|route| takes(&route.matches, &host, call));
    match (route, model.unmatched) {
        (None, Unmatched::Refuse) => Third::Refused,
        (route, _) => Third::Taken { service, route },
    }
}

fn takes(matches: &Match, host: &str, call: &MazeCall) -> bool {
    conditions(matches, host, call).iter().all(|(_, holds)| *holds)
}

/// The conditions of a match in their order, as an explanation names them, and whether each holds.
fn conditions(matches: &Match, host: &str, call: &MazeCall) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    if let Some(wanted) = &matches.host {
        all.push((format!("host {wanted}"), wanted == host));
    }
    if let Some(wanted) = &matches.service {
        all.push((format!("service {wanted}"), call.method.split('/').next() == Some(wanted)));
    }
    if let Some(wanted) = &matches.method {
        let holds = match wanted {
            MethodMatch::Exact(text) => call.method == *text,
            MethodMatch::Prefix(text) => call.method.starts_with(text),
            MethodMatch::Regex(regex) => regex.is_match(&call.method),
        };
        all.push((format!("method {}", words::method_in_words(wanted)), holds));
    }
    for header in &matches.headers {
        let mut values = call.headers.iter().filter(|(name, _)| *name == header.name).map(|(_, value)| value);
        let holds = match &header.value {
            HeaderValueMatch::Exact(text) => values.any(|value| value == text),
            HeaderValueMatch::Prefix(text) => values.any(|value| value.starts_with(text)),
            HeaderValueMatch::Regex(regex) => values.any(|value| regex.is_match(value)),
            HeaderValueMatch::Present(present) => values.next().is_some() == *present,
        };
        all.push((words::header_in_words(header), holds != header.invert));
    }
    all
}

/// Every route before the one that takes the call is named with its first condition that does not hold.
fn passed_over_wrongly(model: &Service, call: &MazeCall, told: &Value) -> Option<String> {
    let host = call.authority.split(':').next().unwrap_or_default().to_lowercase();
    let taken = told["route"]["index"].as_u64().map_or(model.routes.len(), |index| index as usize);
    let passed = told["passed_over"].as_array().map_or(&[][..], Vec::as_slice);
    if passed.len() != taken {
        return Some(format!("{} routes are passed over, not {taken}", passed.len()));
    }
    passed.iter().enumerate().find_map(|(at, said)| {
        let unmet = conditions(&model.routes[at].matches, &host, call).into_iter().find(|(_, holds)| !holds);
        let right =
            said["index"] == at && unmet.as_ref().is_some_and(|(words, _)| said["condition"] == **words);
        (!right).then(|| format!("routes[{at}] does not hold because of {unmet:?}, told is {said}"))
    })
}

#[tokio::test]
async fn an_explanation_is_what_happens_on_every_one_of_100_000_calls_against_1_000_routes() {
    let seed = seed();
    println!("seed {seed}");
    let mut taken = [0_usize; 4];
    for number in 0..MESHES {
        let mut random = Rng::with_seed(seed + number as u64);
        // From many routes of few services to few of many.
        let shape = Shape { services: 1 << (2 * number), routes: ROUTES, endpoints: Vec::new(), harsh: true };
        let text = maze::mesh(&mut random, &shape);
        let mesh =
            config::parse_mesh(Source { name: "maze", text: &text }).unwrap_or_else(|it| panic!("{it}"));
        assert_eq!(mesh.services.iter().map(|service| service.routes.len()).sum::<usize>(), ROUTES);
        let worker = Worker::new(&mesh);
        let view = View::new(mesh.clone(), None).unwrap();
        for nth in 0..CALLS / MESHES {
            let call = maze::call(&mut random, &shape);
            let asked = Call::new(&call.authority, &call.method, &call.headers).unwrap();
            let told = view.explain(&asked);
            let wrong = disagreement(&worker, &mesh, &call, &told, random.u64(..)).or_else(|| {
                let name = told["service"].as_str()?;
                let model = mesh.services.iter().find(|service| service.full_name() == name)?;
                passed_over_wrongly(model, &call, &told)
            });
            assert_eq!(wrong, None, "seed {seed}, mesh {number}, call {nth}: {call:?}\n{told:#}");
            let kind = match (told["refused"].is_null(), told["route"]["index"].as_u64()) {
                (false, _) => 0,
                (true, None) => 1,
                (true, Some(0..5)) => 2,
                (true, Some(_)) => 3,
            };
            taken[kind] += 1;
        }
    }
    println!("refused, by no route, by one of the first five, by a later one: {taken:?}");
    assert!(taken.iter().all(|calls| *calls > CALLS / 100), "every kind of decision is there: {taken:?}");
}

/// Another one each time, so that more is seen than once; `OUTRIGGER_SEED` repeats one.
fn seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's seed is no setting of the sidecar")]
    let given = std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| Rng::new().u64(..1 << 32))
}

#[tokio::test]
async fn a_deadline_of_the_call_s_own_is_cut_to_the_cap_and_none_left_is_refused() {
    let text = "version: 1\nservices:\n  - {name: s0, namespace: maze, deadline: {default: 2s, max: 5s}}\n";
    let mesh = config::parse_mesh(Source { name: "mesh", text }).unwrap();
    let worker = Worker::new(&mesh);
    let view = View::new(mesh, None).unwrap();
    for (timeout, granted) in
        [(None, Some(2)), (Some("1S"), Some(1)), (Some("1M"), Some(5)), (Some("0S"), None)]
    {
        let headers: Vec<(String, String)> =
            timeout.iter().map(|value| ("grpc-timeout".to_owned(), (*value).to_owned())).collect();
        let call = MazeCall { authority: "s0".into(), method: "a.B/C".into(), headers };
        let told = view.explain(&Call::new(&call.authority, &call.method, &call.headers).unwrap());
        let real = worker.decide(&call, 1, |decided| match decided {
            Ok((_, plan)) => Ok(plan.granted),
            Err(failure) => Err(failure.message),
        });
        match granted.map(Duration::from_secs) {
            Some(granted) => {
                assert_eq!(real, Ok(Some(granted)));
                assert_eq!(told["deadline"]["granted"], words::duration(granted), "{told:#}");
                assert_eq!(told["refused"], Value::Null);
            }
            None => assert_eq!(told["refused"]["message"], real.unwrap_err()),
        }
    }
}
