//! Random meshes with routes that overlap in every way, and random calls into them: for tests that hold one way of deciding
//! against another. All words come from small sets, so that many routes are about the same calls.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use fastrand::Rng;

/// The versions that endpoints are labelled with.
pub const VERSIONS: [&str; 2] = ["v1", "v2"];

const GRPC_SERVICES: [&str; 5] = ["a.B", "a.Bc", "a.b.C", "z.Z", "bench.Echo"];
const METHODS: [&str; 5] = ["Get", "GetAll", "List", "Set", "Unary"];
const HEADERS: [&str; 4] = ["x-canary", "x-tenant", "x-user", "x-zone"];
const VALUES: [&str; 6] = ["1", "10", "2", "blue", "blue-7", "v12"];
const METHOD_REGEXES: [&str; 6] =
    ["a\\.B/.*", ".*/Get.*", "[ab].*/(Get|Set)", "z\\..*", ".*/List", "(a\\.Bc|bench\\.Echo)/[A-Z].*"];
const HEADER_REGEXES: [&str; 4] = ["[0-9]+", "blue(-[0-9])?", "v[0-9]{2}", ".*"];

/// How large a mesh is, and what stands in it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Services, called `s0`, `s1` and so on, in the namespace `maze`.
    pub services: usize,
    /// Routes, all services together.
    pub routes: usize,
    /// Where the endpoint of a version of a service is; without it calls cannot be made. One for each service and version, in
    /// their order.
    pub endpoints: Vec<SocketAddr>,
    /// Faults on purpose too, and deadlines and retries that are short.
    pub harsh: bool,
}

/// A call into a maze.
#[derive(Clone, Debug)]
pub struct MazeCall {
    /// `:authority`.
    pub authority: String,
    /// `package.Service/Method`.
    pub method: String,
    /// Some of its headers; a name may come twice.
    pub headers: Vec<(String, String)>,
}

fn pick<'a>(random: &mut Rng, words: &[&'a str]) -> &'a str {
    words[random.usize(..words.len())]
}

/// A mesh file.
pub fn mesh(random: &mut Rng, shape: &Shape) -> String {
    let mut text = String::from("version: 1\nservices:\n");
    for service in 0..shape.services {
        let routes = shape.routes * (service + 1) / shape.services - shape.routes * service / shape.services;
        write_service(&mut text, random, shape, service, routes);
    }
    text
}

// Writing to a String does not fail.
fn write_service(text: &mut String, random: &mut Rng, shape: &Shape, service: usize, routes: usize) {
    let _ = writeln!(text, "  - name: s{service}\n    namespace: maze\n    hosts: [s{service}.internal]");
    let _ = writeln!(text, "    endpoints:");
    for (at, version) in VERSIONS.iter().enumerate() {
        let fallback = SocketAddr::from(([10, 0, service as u8, at as u8 + 1], 50_051));
        let address = shape.endpoints.get(service * VERSIONS.len() + at).copied().unwrap_or(fallback);
        let _ = writeln!(text, "      - {{address: '{address}', tls: none, labels: {{version: {version}}}}}");
    }
    if random.u8(..4) == 0 {
        let _ = writeln!(text, "    unmatched: refuse");
    }
    for block in blocks(random, shape.harsh) {
        let _ = writeln!(text, "    {block}");
    }
    let methods: BTreeSet<String> = (0..random.usize(1..8)).map(|_| method(random)).collect();
    let _ = writeln!(text, "    methods:");
    for method in methods {
        let mut own = blocks(random, shape.harsh);
        own.extend((random.u8(..3) == 0).then(|| "idempotent: false".to_owned()));
        let _ = writeln!(text, "      {method}: {{{}}}", own.join(", "));
    }
    let mut seen = BTreeSet::new();
    let _ = writeln!(text, "    routes:");
    while seen.len() < routes {
        let matches = conditions(random, service);
        // Two routes with one match are a fault of the file, however it is written.
        if !seen.insert(matches.replace("{exact: ", "").replace('}', "")) {
            continue;
        }
        let mut parts =
            vec![format!("match: {{{matches}}}"), format!("backends: [{}]", backends(random, shape))];
        parts.extend(blocks(random, shape.harsh));
        let _ = writeln!(text, "      - {{{}}}", parts.join(", "));
    }
}

fn method(random: &mut Rng) -> String {
    format!("{}/{}", pick(random, &GRPC_SERVICES), pick(random, &METHODS))
}

fn host(random: &mut Rng, service: usize) -> String {
    let suffix = pick(random, &["", ".maze", ".maze.svc", ".maze.svc.cluster.local", ".internal"]);
    format!("s{service}{suffix}")
}

fn conditions(random: &mut Rng, service: usize) -> String {
    let mut parts = Vec::new();
    if random.u8(..5) == 0 {
        parts.push(format!("host: {}", host(random, service)));
    }
    match random.u8(..8) {
        0 | 1 => parts.push(format!("method: {}", method(random))),
        2 => parts.push(format!("method: {{exact: {}}}", method(random))),
        3 => {
            let whole = method(random);
            let end = random.usize(1..whole.len());
            parts.push(format!("method: {{prefix: '{}'}}", &whole[..end]));
        }
        4 => parts.push(format!("method: {{regex: '{}'}}", pick(random, &METHOD_REGEXES))),
        5 | 6 => parts.push(format!("service: {}", pick(random, &GRPC_SERVICES))),
        _ => {}
    }
    // More conditions make more different routes, and what asks for nothing may stand last only.
    let most = if parts.is_empty() { 3 } else { 2 };
    let least = usize::from(parts.is_empty());
    let headers: Vec<String> = (0..random.usize(least..=most)).map(|_| header(random)).collect();
    if !headers.is_empty() {
        parts.push(format!("headers: [{}]", headers.join(", ")));
    }
    parts.join(", ")
}

fn header(random: &mut Rng) -> String {
    let value = pick(random, &VALUES);
    let condition = match random.u8(..5) {
        0 | 1 => format!("exact: '{value}'"),
        2 => format!("prefix: '{}'", &value[..random.usize(1..=value.len())]),
        3 => format!("regex: '{}'", pick(random, &HEADER_REGEXES)),
        _ => format!("present: {}", random.bool()),
    };
    let invert = if random.u8(..4) == 0 { ", invert: true" } else { "" };
    format!("{{name: {}, {condition}{invert}}}", pick(random, &HEADERS))
}

fn backends(random: &mut Rng, shape: &Shape) -> String {
    let count = if random.u8(..5) < 3 { 1 } else { random.usize(2..=4) };
    let mut backends: Vec<String> = (0..count)
        .map(|at| {
            let service = random.usize(..shape.services);
            let labels = match random.u8(..4) {
                0 => String::new(),
                _ => format!(", labels: {{version: {}}}", pick(random, &VERSIONS)),
            };
            // One has a weight for sure.
            let weight = if at == 0 { random.u32(1..100) } else { random.u32(..100) * random.u32(..2) };
            format!("{{service: s{service}{labels}, weight: {weight}}}")
        })
        .collect();
    random.shuffle(&mut backends);
    backends.join(", ")
}

/// Some policy blocks of one level.
fn blocks(random: &mut Rng, harsh: bool) -> Vec<String> {
    let mut blocks = Vec::new();
    let seconds = |random: &mut Rng| random.u32(20..90);
    if random.u8(..4) == 0 {
        let default = seconds(random);
        let inherit = random.bool();
        let max = default + random.u32(..10);
        blocks.push(format!("deadline: {{default: {default}s, max: {max}s, inherit: {inherit}}}"));
    }
    if random.u8(..4) == 0 {
        blocks.push(format!("stream: {{idle: {}s}}", seconds(random)));
    }
    if random.u8(..5) == 0 {
        blocks.push(format!("headers: {{request: {{set: {{x-route: '{}'}}}}}}", random.u32(..)));
    }
    match random.u8(..8) {
        0 | 1 => blocks.push(format!("retries: {{max_attempts: {}}}", random.u32(2..6))),
        2 => blocks.push(format!("hedging: {{max_attempts: 2, hedging_delay: {}s}}", seconds(random))),
        _ => {}
    }
    if harsh && random.u8(..6) == 0 {
        let (seed, share) = (random.u32(..), random.u32(1..100));
        blocks.push(format!("faults: {{seed: {seed}, abort: {{percentage: {share}%, code: ABORTED}}}}"));
    }
    blocks
}

/// A call, most often to a service of the maze.
pub fn call(random: &mut Rng, shape: &Shape) -> MazeCall {
    let host = match random.u8(..40) {
        0 => "nowhere".to_owned(),
        _ => {
            let service = random.usize(..shape.services);
            host(random, service)
        }
    };
    let host = if random.u8(..10) == 0 { host.to_ascii_uppercase() } else { host };
    let authority = if random.bool() { format!("{host}:50051") } else { host };
    let method = match random.u8(..20) {
        0 => "other.Service/Method".to_owned(),
        _ => method(random),
    };
    let headers = (0..random.usize(..4))
        .map(|_| (pick(random, &HEADERS).to_owned(), pick(random, &VALUES).to_owned()))
        .collect();
    MazeCall { authority, method, headers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_maze_again_with_as_many_routes_as_asked_for() {
        let shape = Shape { services: 3, routes: 100, endpoints: Vec::new(), harsh: true };
        let make = |seed| mesh(&mut Rng::with_seed(seed), &shape);
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        assert_eq!(make(1).matches("- {match:").count(), 100);
    }
}
