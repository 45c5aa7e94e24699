//! Runs the cells of one fault: one sidecar, a service with two endpoints for each cell, all cells at once.

use std::cell::Cell as Flag;
use std::rc::Rc;

use bench::call::CallSpec;
use bench::client::Client;
use bench::closed::ClosedPort;
use bench::grpc::CODES;
use bench::metrics::Metrics;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::record::{CallEnd, CallRecord, digest};
use bench::script::Scripts;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};
use bytes::Bytes;
use h2::Reason;
use tokio::task::{JoinSet, LocalSet};

use crate::cell::{Cell, Commit, Fault, Policy};
use crate::expect::{Caller, Expected, Headers, expect};
use crate::pair::{ANY, Site};

/// Calls that a cell may make until one meets a closed port first. The endpoints take turns, so two would do.
const CALLS_MAX: usize = 20;

/// The endpoints of a cell.
struct Row {
    servers: Vec<Server>,
    closed: Option<ClosedPort>,
}

/// What came of a call.
struct Seen {
    outcome: Outcome,
    messages: Vec<Bytes>,
    /// What endpoints saw of it, in order; and which endpoint.
    records: Vec<(usize, CallRecord)>,
}

/// Makes the calls of all cells; returns what was wrong, a line each.
pub(crate) async fn run(site: &Site, cells: &[Cell]) -> Vec<String> {
    let mut rows = Vec::new();
    let mut mesh = "version: 1\nservices:\n  - {name: shopper, namespace: shop}\n".to_owned();
    for cell in cells {
        let row = row(cell).await;
        mesh += &service(cell, &row);
        rows.push(row);
    }
    let caller = Rc::new(site.caller(&mesh, "workers: 2").await);
    let (local, mut calls) = (LocalSet::new(), JoinSet::new());
    for (cell, row) in cells.iter().copied().zip(rows) {
        let caller = caller.clone();
        calls.spawn_local_on(
            async move {
                let client = Client::connect(caller.outbound(), None).await.expect("a connection");
                let what = format!("{cell:?}");
                let wrong = soon(&what, judge(&cell, &row, &client, &caller)).await;
                wrong.into_iter().map(|wrong| format!("{what}: {wrong}")).collect::<Vec<_>>()
            },
            &local,
        );
    }
    let mut wrong = local.run_until(calls.join_all()).await.concat();
    let metrics = caller.metrics().await.expect("a scrape");
    for limit in ["replay_buffer", "retry_budget"] {
        let refused = metrics.value("outrigger_refused_total", &[("limit", limit)]);
        if refused > 0.0 {
            wrong.push(format!("{:?}: {limit} was in the way {refused} times", cells[0].fault));
        }
    }
    wrong
}

async fn row(cell: &Cell) -> Row {
    let scripts = Scripts::default();
    if let Some(script) = cell.script() {
        scripts.next(&script);
    }
    let closed = (cell.fault == Fault::RefusedConnection).then(|| ClosedPort::take().expect("a port"));
    let mut servers = Vec::new();
    for name in if closed.is_some() { &["one"][..] } else { &["one", "two"] } {
        let options =
            ServerOptions { name: (*name).to_owned(), scripts: scripts.clone(), ..ServerOptions::default() };
        servers.push(Server::start_with(ANY, options).await.expect("a server"));
    }
    Row { servers, closed }
}

fn service(cell: &Cell, row: &Row) -> String {
    let addresses =
        row.servers.iter().map(|server| server.addr).chain(row.closed.iter().map(|port| port.addr));
    let endpoints: Vec<String> =
        addresses.map(|address| format!("{{address: \"{address}\", tls: none}}")).collect();
    let mut retries = format!(
        "initial_backoff: 1ms, max_backoff: 2ms, retryable_status_codes: [{}]",
        CODES[cell.retryable() as usize]
    );
    if cell.commit == Commit::FirstMessage {
        // As long as no machine is slow.
        retries += ", commit: first_message, header_hold: 20s";
    }
    if cell.fault == Fault::Silence {
        retries += ", per_attempt_timeout: 3s";
    }
    let method = match cell.policy {
        Policy::NotIdempotent => {
            format!("    methods: {{{}: {{idempotent: false}}}}\n", cell.path().trim_start_matches('/'))
        }
        _ => String::new(),
    };
    format!(
        "  - name: cell-{}\n    namespace: shop\n    balancing: {{policy: round_robin}}\n    endpoints: [{}]\n    \
         upstream: {{connect_timeout: 20s}}\n    retries: {{{retries}}}\n{method}",
        cell.number,
        endpoints.join(", ")
    )
}

/// What is wrong with a cell.
async fn judge(cell: &Cell, row: &Row, client: &Client, caller: &Sidecar) -> Vec<String> {
    let expected = expect(cell);
    let mut calls = 1;
    let mut seen = call(cell, row, client, calls).await;
    // Who is asked first is chance where no script tells; a call that did not meet the closed port is no cell.
    while expected.never_sent > 0 && attempts(&scrape(caller).await, cell, "never_sent") == 0 {
        assert!(calls < CALLS_MAX, "{cell:?}: no call meets the closed port");
        calls += 1;
        seen = call(cell, row, client, calls).await;
    }
    let mut wrong = Vec::new();
    check_caller(cell, expected, &seen, &mut wrong);
    check_endpoints(cell, expected, &seen, row, &mut wrong).await;
    check_attempts(cell, expected, calls as u64 - 1, &scrape(caller).await, &mut wrong);
    if wrong.is_empty() { wrong } else { vec![format!("{}: {}", expected.rule, wrong.join("; "))] }
}

/// One call. What of the request is to come after the fault waits for it.
async fn call(cell: &Cell, row: &Row, client: &Client, number: usize) -> Seen {
    let (authority, nonce) = (format!("cell-{}.shop", cell.number), format!("{}-{number}", cell.number));
    let (count, size) = (Cell::SERVER_STREAM_COUNT.to_string(), Cell::SERVER_STREAM_SIZE.to_string());
    let spec = CallSpec::new(&authority, cell.path())
        .header("x-nonce", &nonce)
        .header("x-count", &count)
        .header("x-size", &size)
        .header("grpc-timeout", "20S");
    let (mut sender, mut receiver) = client.call(spec).await.expect("a call").split();
    let over = Flag::new(false);
    let sending = async {
        let mut messages = cell.messages();
        let rest = messages.split_off(cell.sent);
        // A fault may come before the request is over, and for good; the outcome tells.
        for (at, message) in messages.iter().enumerate() {
            let _ = match rest.is_empty() && at + 1 == messages.len() {
                true => sender.send_ending(message).await,
                false => sender.send(message).await,
            };
        }
        if !rest.is_empty() {
            let what = format!("{cell:?}: the fault");
            until(what, async || over.get() || has_come(cell, &records(row, &nonce))).await;
            for message in rest {
                let _ = sender.send(&message).await;
            }
            sender.half_close();
        }
        sender
    };
    let receiving = async {
        let mut messages = Vec::new();
        while let Some(message) = receiver.recv().await {
            messages.push(message);
        }
        over.set(true);
        (messages, receiver.finish().await)
    };
    let (_sender, (messages, outcome)) = tokio::join!(sending, receiving);
    Seen { outcome, messages, records: records(row, &nonce) }
}

/// Whether the endpoints' records say that the fault has come.
fn has_come(cell: &Cell, records: &[(usize, CallRecord)]) -> bool {
    let had = |record: &CallRecord| record.messages >= cell.sent as u64;
    match cell.fault {
        Fault::Silence | Fault::RefusedConnection => records.iter().any(|(_, record)| had(record)),
        _ => records.len() > 1 || records.iter().any(|(_, record)| record.end != CallEnd::Open),
    }
}

fn records(row: &Row, nonce: &str) -> Vec<(usize, CallRecord)> {
    let of = |(at, server): (usize, &Server)| {
        server.calls_with_nonce(nonce).into_iter().map(move |record| (at, record)).collect::<Vec<_>>()
    };
    let mut records: Vec<_> = row.servers.iter().enumerate().flat_map(of).collect();
    records.sort_by_key(|(_, record)| record.began);
    records
}

/// The caller has one whole answer, or the fault of the one attempt, and never a part of two.
fn check_caller(cell: &Cell, expected: Expected, seen: &Seen, wrong: &mut Vec<String>) {
    let Seen { outcome, messages, .. } = seen;
    let told = format!(
        "status {:?} ({}), {} messages, x-server {:?}, clean {}, {:?}",
        outcome.grpc_status,
        outcome.message,
        messages.len(),
        outcome.headers.get("x-server"),
        outcome.clean_end,
        outcome.fault,
    );
    let right = match expected.caller {
        Caller::Saved => outcome.is_ok() && *messages == cell.answer(),
        Caller::Failed { code, messages: count, .. } => {
            outcome.grpc_status == Some(code)
                && outcome.clean_end
                && messages.len() == count
                && messages.iter().all(|message| message == "scripted")
        }
    };
    let servers: Vec<&str> =
        outcome.headers.get_all("x-server").iter().map(|name| name.to_str().expect("a name")).collect();
    let name = |at: usize| ["one", "two"][at];
    let last = seen.records.last().map(|(at, _)| vec![name(*at)]).unwrap_or_default();
    let from = match expected.caller {
        Caller::Saved | Caller::Failed { headers: Headers::Theirs, .. } => servers == last,
        Caller::Failed { headers: Headers::Ours, .. } => servers.is_empty(),
        Caller::Failed { headers: Headers::Any, .. } => servers.is_empty() || servers == last,
    };
    if !right || !from {
        wrong.push(format!("the caller has {told}, and should have {:?}", expected.caller));
    }
}

/// Endpoints have seen just the attempts that the rule asks for, each whole and on another endpoint.
async fn check_endpoints(cell: &Cell, expected: Expected, seen: &Seen, row: &Row, wrong: &mut Vec<String>) {
    let records = &seen.records;
    let (count, should) = (records.len() as u64, expected.refused + expected.processed);
    if count != should {
        wrong.push(format!("endpoints saw {count} attempts, and should {should}"));
        return;
    }
    // Twice the same on purpose: whatever `expect` says, this never may be.
    let committed = matches!(expected.caller, Caller::Failed { headers: Headers::Theirs, .. });
    if (cell.policy == Policy::NotIdempotent || committed) && count - expected.refused > 1 {
        wrong.push("a DUPLICATE of a call that is committed or not idempotent".to_owned());
    }
    let asked: Vec<usize> = records.iter().map(|(at, _)| *at).collect();
    if asked.len() > 1 && asked[0] == asked[1] {
        wrong.push("the same endpoint was asked again though there is another".to_owned());
    }
    let said: Vec<Option<&str>> = records.iter().map(|(_, record)| previous(record)).collect();
    let mut should = vec![None; records.len()];
    if let Some(last) = should.last_mut() {
        *last = expected.previous;
    }
    if said != should {
        wrong.push(format!("grpc-previous-rpc-attempts {said:?}, and should be {should:?}"));
    }
    let messages = cell.messages();
    let whole = |record: &CallRecord, count: usize| {
        record.messages == count as u64 && record.digest == digest(&messages[..count])
    };
    let has_fault = expected.never_sent == 0;
    for (at, (_, record)) in records.iter().enumerate() {
        let right = match (at, cell.fault) {
            (0, Fault::Silence) => {
                (0..=messages.len()).any(|count| count >= cell.sent && whole(record, count))
            }
            (0, _) if has_fault => whole(record, cell.sent),
            _ => whole(record, messages.len()),
        };
        if !right {
            let (count, bytes) = (record.messages, record.bytes);
            wrong.push(format!(
                "attempt {at} had {count} messages of {bytes} bytes, not those that were sent"
            ));
        }
    }
    if cell.fault == Fault::Silence {
        let nonce = records[0].1.nonce.clone().expect("a nonce");
        let cancelled = CallEnd::ResetByPeer(Reason::CANCEL);
        let what = format!("{cell:?}: the cancelled attempt");
        until(what, async || self::records(row, &nonce)[0].1.end == cancelled).await;
    }
}

fn previous(record: &CallRecord) -> Option<&str> {
    record.headers.get("grpc-previous-rpc-attempts").map(|value| value.to_str().expect("ASCII"))
}

/// The sidecar's own account is the same. `before` calls went well before the one that met the fault.
fn check_attempts(cell: &Cell, expected: Expected, before: u64, metrics: &Metrics, wrong: &mut Vec<String>) {
    let count = |outcome: &str| attempts(metrics, cell, outcome);
    let answered = before + u64::from(expected.caller == Caller::Saved);
    let all = expected.never_sent + expected.refused + expected.processed + before;
    let right = total(metrics, cell) == all
        && expected.outcome.is_none_or(|outcome| match outcome {
            "answered" => count(outcome) == answered + 1,
            _ => count(outcome) == 1 && count("answered") == answered,
        });
    if !right {
        let outcomes = ["never_sent", "refused", "broken", "timed_out", "answered", "abandoned", "outrun"]
            .map(|outcome| format!("{outcome} {}", count(outcome)));
        wrong.push(format!("the attempts are {outcomes:?}, of calls before {before}"));
    }
}

fn total(metrics: &Metrics, cell: &Cell) -> u64 {
    let service = format!("cell-{}.shop", cell.number);
    metrics.value("outrigger_attempts_total", &[("service", &service)]) as u64
}

fn attempts(metrics: &Metrics, cell: &Cell, outcome: &str) -> u64 {
    let service = format!("cell-{}.shop", cell.number);
    metrics.value("outrigger_attempts_total", &[("service", &service), ("outcome", outcome)]) as u64
}

async fn scrape(caller: &Sidecar) -> Metrics {
    caller.metrics().await.expect("a scrape")
}
