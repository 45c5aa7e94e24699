//! Calls that go out several times at once.

use serde_json::json;

use crate::kit::{Case, OK, stays_away};
use crate::level::Level;
use crate::repeats::Trial;

const ABORTED: Option<i32> = Some(10);

levels! {
    [method]
    "hedging.max_attempts" => a_call_without_an_answer_goes_out_so_often,
    "hedging.hedging_delay" => the_next_attempt_comes_after_so_long,
    "hedging.non_fatal_status_codes[]" => a_failure_of_that_kind_does_not_end_the_call,
    "hedging.replay_limit" => a_request_that_is_longer_goes_out_once,
}

async fn a_call_without_an_answer_goes_out_so_often(case: &Case, level: Level) {
    let trial = Trial::new(level, "hedging", json!({"hedging_delay": "0s"}), &[]).await;
    trial.server.script_always(Some("trailers-only:14"));
    let changed = trial.change(case, "max_attempts", 4);
    assert_eq!((trial.attempts(&trial.base).await, trial.attempts(&changed).await), (2, 4));
}

async fn the_next_attempt_comes_after_so_long(case: &Case, level: Level) {
    let trial = Trial::new(level, "hedging", json!({"hedging_delay": "1h"}), &[]).await;
    let changed = trial.change(case, "hedging_delay", "10ms");
    trial.server.script_next("hang");
    assert!(trial.call(&changed).await.0.is_ok());
    trial.server.script_next("hang");
    assert!(stays_away(trial.call(&trial.base)).await);
}

async fn a_failure_of_that_kind_does_not_end_the_call(case: &Case, level: Level) {
    let trial = Trial::new(level, "hedging", json!({"hedging_delay": "1h"}), &[]).await;
    let changed = trial.change(case, "non_fatal_status_codes 0", "ABORTED");
    for (site, status) in [(&trial.base, ABORTED), (&changed, OK)] {
        trial.server.script_next("trailers-only:10");
        assert_eq!(trial.call(site).await.0.grpc_status, status);
    }
}

async fn a_request_that_is_longer_goes_out_once(case: &Case, level: Level) {
    let trial = Trial::new(level, "hedging", json!({"hedging_delay": "50ms"}), &[]).await;
    let changed = trial.change(case, "replay_limit", 100);
    trial.server.script_next("hang");
    assert!(trial.call(&trial.base).await.0.is_ok());
    trial.server.script_next("hang");
    assert!(stays_away(trial.call(&changed)).await);
}
