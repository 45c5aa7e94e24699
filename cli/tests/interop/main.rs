//! Real gRPC libraries on either side of two sidecars, and Envoy in the place of one of them.
//!
//! ```text
//! client --h2c--> caller's sidecar --mTLS--> callee's sidecar --h2c--> server
//! ```
//!
//! Clients and servers are small programs in the language of their library: `python/`, `node/`, `go/`. Each
//! client runs the same checks and prints a line of JSON for each; each server has the same methods. Messages
//! are bytes, without code made from a proto:
//!
//! | `interop.Echo/` | what it does |
//! |---|---|
//! | `Unary`, `Chat` | echo messages; `Unary` also metadata named `echo-*`, in headers and in trailers |
//! | `Zip` | echoes a message, compressed by gzip |
//! | `Collect` | the messages of a client stream put together |
//! | `Expand` | `{"count": N, "bytes": M}`: N messages of M bytes, each byte the message's number |
//! | `Fail` | `{"code": N, "message": TEXT, "details": BASE64}`: ends with that status |
//! | `Hang`, `HangStream` | wait for their end; the first message is a name |
//! | `Seen` | what the server saw of the hanging call of that name: `{"began", "ended", "remaining_ms"}` |
//!
//! The control plane has clients that are not ours: gRPC that speaks xDS itself (as client and as server) and Envoy, beside our
//! sidecars, all unmodified and by the bootstraps of `docs/interop.md`; what one of them rejects is a failure (`Plane::settled`). And
//! our sidecar is driven by a control plane in Python (`lab`). There the backend is `interop.Where/ANY`, which tells who answers
//! (`python/where.py`), and the client does as it is told (`python/caller.py`).
//! `agent` has an Envoy whose certificates come from `outrigger certs --sds`.
//! `driven` as well has our sidecar follow a control plane of other people's software, `python/ads.py`.
//!
//! A part that this machine lacks is a skip, printed and counted at the end. With `OUTRIGGER_INTEROP=required`
//! it is a failure: so `.ci/run` has it.

mod agent;
mod callers;
mod driven;
mod envoy;
mod every_key;
mod lab;
mod live;
mod mesh;
mod meter;
mod pairs;
mod parts;
mod plane;
mod programs;
mod proxyless;
mod side_by_side;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use bench::wait::within;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::parts::{Part, Parts};

/// What one case may take at most, on a machine that compiles beside it.
const CASE_MAX: Duration = Duration::from_secs(120);

/// A promise, and the parts that it takes to see it kept.
struct Case {
    name: String,
    needs: Vec<Part>,
    run: Run,
}

type Run = Box<dyn FnOnce(Parts) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl Case {
    fn new<F>(name: String, needs: &[Part], run: impl FnOnce(Parts) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self { name, needs: needs.to_vec(), run: Box::new(|parts| Box::pin(run(parts))) }
    }

    fn trial(self, parts: &Parts, required: bool) -> Trial {
        let Self { name, needs, run } = self;
        let missing: Vec<String> = needs.iter().filter_map(|part| parts.missing(*part)).collect();
        if !missing.is_empty() {
            let missing = missing.join("; ");
            return Trial::test(name, || Err(Failed::from(missing))).with_ignored_flag(!required);
        }
        let (told, parts) = (name.clone(), parts.clone());
        Trial::test(name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(within(CASE_MAX, told, run(parts)));
            Ok(())
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("OUTRIGGER_INTEROP").is_some_and(|value| value == "required");
    let parts = Parts::find();
    let cases = pairs::cases().into_iter().chain(envoy::cases()).chain(driven::cases()).chain(lab::cases());
    let cases = cases
        .chain(side_by_side::cases())
        .chain(live::cases())
        .chain(proxyless::cases())
        .chain(agent::cases())
        .chain(every_key::cases());
    let trials = cases.map(|case| case.trial(&parts, required)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let (ran, skipped) = (conclusion.num_passed + conclusion.num_failed, conclusion.num_ignored);
        let why = parts.all_missing().join("; ");
        let why = if skipped == 0 { String::new() } else { format!(" ({why})") };
        println!("interop: {ran} ran, {skipped} skipped{why}\n");
    }
    conclusion.exit_code()
}
