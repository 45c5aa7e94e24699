//! When calls go out again, how often, and what that may cost.

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::outcome::Outcome;
use bench::server::Server;
use serde_json::{Value, json};

use crate::kit::{BIDI, Case, ECHO, OK, Running, Site, UNARY, UNAVAILABLE, echo, stays_away};
use crate::level::Level;

/// Long enough to be told from a few milliseconds on a slow machine.
const LONG: Duration = Duration::from_millis(800);

/// A mesh with a block at one level, and how often a call of it comes to the server.
pub(crate) struct Trial {
    pub(crate) server: Server,
    level: Level,
    block: &'static str,
    pub(crate) base: Site,
}

impl Trial {
    /// `block` says `value` at the level, and `others` stand beside it.
    pub(crate) async fn new(
        level: Level,
        block: &'static str,
        value: Value,
        others: &[(&str, Value)],
    ) -> Self {
        let server = echo("echo").await;
        let mut base = level.base(&server);
        for (other, value) in others {
            *base.at(&level.place(UNARY, other)) = value.clone();
        }
        *base.at(&level.place(UNARY, block)) = value;
        Self { server, level, block, base }
    }

    /// The base with one key of the block changed.
    pub(crate) fn change(&self, case: &Case, key: &str, value: impl Into<Value>) -> Site {
        case.change(&self.base, &self.level.place(UNARY, &format!("{} {key}", self.block)), value)
    }

    /// One call with 1,000 bytes through a sidecar of its own, how long it took, and the attempts of it.
    pub(crate) async fn call(&self, site: &Site) -> (Outcome, Duration, usize) {
        self.call_of(&site.start().await).await
    }

    /// [`Trial::call`] for what takes less than [`LONG`]: the best of a few, since the others tell how busy the machine
    /// is.
    async fn soon(&self, site: &Site) -> (Outcome, Duration, usize) {
        let mut best = self.call(site).await;
        for _ in 0..3 {
            if best.1 < LONG {
                break;
            }
            best = self.call(site).await;
        }
        best
    }

    async fn call_of(&self, sidecar: &Running) -> (Outcome, Duration, usize) {
        let client = sidecar.client().await;
        self.server.clear();
        let began = Instant::now();
        let outcome = client.unary(ECHO, UNARY, &[7; 1_000]).await.expect("a call");
        (outcome, began.elapsed(), self.server.calls().len())
    }

    /// How many attempts come of one call.
    pub(crate) async fn attempts(&self, site: &Site) -> usize {
        self.call(site).await.2
    }
}

pub(crate) mod retries {
    use super::*;

    levels! {
        [method]
        "retries.max_attempts" => a_call_that_fails_goes_out_so_often,
        "retries.retryable_status_codes[]" => a_failure_of_that_kind_is_repeated,
        "retries.initial_backoff" => the_second_attempt_waits_so_long,
        "retries.max_backoff" => no_attempt_waits_longer,
        "retries.backoff_multiplier" => each_attempt_waits_longer_by_so_much,
        "retries.per_attempt_timeout" => an_attempt_that_takes_longer_is_given_up_for_another,
        "retries.commit" => a_status_behind_headers_is_repeated,
        "retries.header_hold" => headers_are_held_back_so_long,
        "retries.replay_limit" => a_request_that_is_longer_is_not_repeated,
    }

    async fn a_call_that_fails_goes_out_so_often(case: &Case, level: Level) {
        let trial = Trial::new(level, "retries", json!({"initial_backoff": "1ms"}), &[]).await;
        trial.server.script_always(Some("trailers-only:14"));
        let changed = trial.change(case, "max_attempts", 5);
        assert_eq!((trial.attempts(&trial.base).await, trial.attempts(&changed).await), (3, 5));
    }

    async fn a_failure_of_that_kind_is_repeated(case: &Case, level: Level) {
        let trial = Trial::new(level, "retries", json!({"initial_backoff": "1ms"}), &[]).await;
        trial.server.script_always(Some("trailers-only:10"));
        let changed = trial.change(case, "retryable_status_codes 0", "ABORTED");
        assert_eq!((trial.attempts(&trial.base).await, trial.attempts(&changed).await), (1, 3));
    }

    async fn the_second_attempt_waits_so_long(case: &Case, level: Level) {
        let block = json!({"max_attempts": 2, "max_backoff": "1s"});
        takes_longer(Trial::new(level, "retries", block, &[]).await, case, "initial_backoff", "1s").await;
    }

    /// At a base that is long, the change shortens it.
    async fn no_attempt_waits_longer(case: &Case, level: Level) {
        let block = json!({"initial_backoff": "10ms", "backoff_multiplier": 100});
        let trial = Trial::new(level, "retries", block, &[]).await;
        trial.server.script_always(Some("trailers-only:14"));
        let changed = trial.change(case, "max_backoff", "10ms");
        let (long, short) = (trial.call(&trial.base).await.1, trial.soon(&changed).await.1);
        assert!(long >= LONG && short < LONG, "{long:?} and {short:?}");
    }

    async fn each_attempt_waits_longer_by_so_much(case: &Case, level: Level) {
        let trial = Trial::new(level, "retries", json!({"initial_backoff": "10ms"}), &[]).await;
        takes_longer(trial, case, "backoff_multiplier", 100).await;
    }

    async fn takes_longer(trial: Trial, case: &Case, key: &str, value: impl Into<Value>) {
        trial.server.script_always(Some("trailers-only:14"));
        let changed = trial.change(case, key, value);
        let (short, long) = (trial.soon(&trial.base).await, trial.call(&changed).await);
        assert!(short.1 < LONG && long.1 >= LONG, "{:?} and {:?}", short.1, long.1);
        assert_eq!(short.2, long.2);
    }

    async fn an_attempt_that_takes_longer_is_given_up_for_another(case: &Case, level: Level) {
        let trial = Trial::new(level, "retries", json!({"initial_backoff": "1ms"}), &[]).await;
        trial.server.script_next("hang");
        let changed = trial.change(case, "per_attempt_timeout", "1s");
        assert!(trial.call(&changed).await.0.is_ok());
        trial.server.script_next("hang");
        assert!(stays_away(trial.call(&trial.base)).await);
    }

    async fn a_status_behind_headers_is_repeated(case: &Case, level: Level) {
        let trial = Trial::new(level, "retries", json!({"initial_backoff": "1ms"}), &[]).await;
        let changed = trial.change(case, "commit", "first_message");
        for (site, status) in [(&trial.base, UNAVAILABLE), (&changed, OK)] {
            trial.server.script_next("status-no-message:14");
            assert_eq!(trial.call(site).await.0.grpc_status, status);
        }
    }

    async fn headers_are_held_back_so_long(case: &Case, level: Level) {
        let server = echo("echo").await;
        let mut base = level.base(&server);
        *base.at(&level.place(BIDI, "retries")) = json!({"commit": "first_message"});
        let changed = case.change(&base, &level.place(BIDI, "retries header_hold"), "1h");
        let (before, after) = (base.start().await, changed.start().await);
        let client = before.client().await;
        let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        assert!(call.headers().await.is_some());
        let client = after.client().await;
        let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        assert!(stays_away(call.headers()).await);
        call.send(b"ping").await.expect("an open call");
        assert!(call.headers().await.is_some(), "a message lets them go");
    }

    async fn a_request_that_is_longer_is_not_repeated(case: &Case, level: Level) {
        let trial = Trial::new(level, "retries", json!({"initial_backoff": "1ms"}), &[]).await;
        trial.server.script_always(Some("after:1,trailers-only:14"));
        let changed = trial.change(case, "replay_limit", 100);
        assert_eq!((trial.attempts(&trial.base).await, trial.attempts(&changed).await), (3, 1));
    }
}

pub(crate) mod budget {
    use super::*;

    levels! {
        [service]
        "retry_budget.share" => repeats_come_to_that_share_of_the_calls,
        "retry_budget.min_per_second" => so_many_repeats_are_granted_without_calls,
        "retry_throttling.max_tokens" => repeats_pause_when_half_of_the_tokens_are_gone,
        "retry_throttling.token_ratio" => a_success_gives_so_much_back,
    }

    fn retries() -> (&'static str, Value) {
        ("retries", json!({"initial_backoff": "1ms", "max_attempts": 2}))
    }

    async fn repeats_come_to_that_share_of_the_calls(case: &Case, level: Level) {
        const CALLS: usize = 20;
        let trial = Trial::new(level, "retry_budget", json!({"min_per_second": 0}), &[retries()]).await;
        trial.server.script_always(Some("trailers-only:14"));
        let changed = trial.change(case, "share", "100%");
        for (site, repeats) in [(&trial.base, CALLS / 5), (&changed, CALLS)] {
            let sidecar = site.start().await;
            let mut attempts = 0;
            for _ in 0..CALLS {
                attempts += trial.call_of(&sidecar).await.2;
            }
            assert_eq!(attempts, CALLS + repeats);
            sidecar.refuses("retry_budget", (CALLS - repeats) as f64).await;
        }
    }

    async fn so_many_repeats_are_granted_without_calls(case: &Case, level: Level) {
        let trial = Trial::new(level, "retry_budget", json!({"share": "0%"}), &[retries()]).await;
        trial.server.script_always(Some("trailers-only:14"));
        let changed = trial.change(case, "min_per_second", 0);
        assert_eq!((trial.attempts(&trial.base).await, trial.attempts(&changed).await), (2, 1));
    }

    async fn repeats_pause_when_half_of_the_tokens_are_gone(case: &Case, level: Level) {
        let retries = ("retries", json!({"initial_backoff": "1ms", "max_attempts": 5}));
        let block = json!({"max_tokens": 4, "token_ratio": 0.001});
        let trial = Trial::new(level, "retry_throttling", block, &[retries]).await;
        trial.server.script_always(Some("trailers-only:14"));
        let changed = trial.change(case, "max_tokens", 1_000);
        assert_eq!((trial.attempts(&trial.base).await, trial.attempts(&changed).await), (2, 5));
    }

    async fn a_success_gives_so_much_back(case: &Case, level: Level) {
        let block = json!({"max_tokens": 4, "token_ratio": 0.001});
        let trial = Trial::new(level, "retry_throttling", block, &[retries()]).await;
        let changed = trial.change(case, "token_ratio", 10);
        for (site, last) in [(&trial.base, 1), (&changed, 2)] {
            let sidecar = site.start().await;
            for (script, attempts) in [("14", 2), ("0", 1), ("14", last)] {
                trial.server.script_always(Some(&format!("trailers-only:{script}")));
                assert_eq!(trial.call_of(&sidecar).await.2, attempts, "after {script}");
            }
        }
    }
}

pub(crate) mod idempotent {
    use super::*;

    cases! {
        "mesh.services[].methods.*.idempotent" => a_call_that_may_have_been_processed_is_not_repeated,
    }

    async fn a_call_that_may_have_been_processed_is_not_repeated(case: &Case) {
        let server = echo("echo").await;
        let mut base = Level::Service.base(&server);
        base.mesh["services"][0]["retries"] = json!({"initial_backoff": "1ms"});
        let changed = case.change(&base, "mesh services 0 methods bench.Echo/Unary idempotent", false);
        server.script_always(Some("trailers-only:14"));
        for (site, attempts) in [(&base, 3), (&changed, 1)] {
            server.clear();
            assert_eq!(site.status().await, UNAVAILABLE);
            assert_eq!(server.calls().len(), attempts);
        }
    }
}

pub(crate) mod replay {
    use super::*;

    cases! {
        "sidecar.limits.replay_buffer" => a_call_that_finds_no_room_is_not_repeated,
    }

    async fn a_call_that_finds_no_room_is_not_repeated(case: &Case) {
        let server = echo("echo").await;
        let mut base = Level::Service.base(&server);
        base.mesh["services"][0]["retries"] = json!({"initial_backoff": "1ms"});
        let changed = case.change(&base, "sidecar limits replay_buffer", 0);
        server.script_always(Some("after:1,trailers-only:14"));
        for (site, attempts, refused) in [(&base, 3, 0.0), (&changed, 1, 1.0)] {
            server.clear();
            let sidecar = site.start().await;
            assert_eq!(sidecar.unary(ECHO).await.grpc_status, UNAVAILABLE);
            assert_eq!(server.calls().len(), attempts);
            sidecar.refuses("replay_buffer", refused).await;
        }
    }
}
