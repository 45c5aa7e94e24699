//! How an endpoint is chosen.

use crate::kit::{Case, Site, echo, landings};
use crate::level::Level;

levels! {
    [service]
    "balancing.policy" => an_endpoint_is_chosen_by_the_policy,
}

/// By `least_request`, idle endpoints are as good as each other and chance decides; by `round_robin` they
/// take their turns.
async fn an_endpoint_is_chosen_by_the_policy(case: &Case, level: Level) {
    const CALLS: usize = 60;
    let (one, two) = (echo("one").await, echo("two").await);
    let mut base = level.base(&one);
    *base.at("mesh services 0 endpoints 1") = two.addr.to_string().into();
    let changed = case.change(&base, &level.place("", "balancing policy"), "round_robin");
    let in_turn = async |site: &Site| {
        let landed = landings(&site.start().await.client().await, CALLS).await;
        landed.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    assert_eq!(in_turn(&changed).await, CALLS - 1);
    // All of them by chance: 1 of 2^59.
    assert!(in_turn(&base).await < CALLS - 1, "no call stayed where the one before it had gone");
}
