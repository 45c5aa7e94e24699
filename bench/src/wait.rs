//! How tests wait: for a condition or an end, never for mere time.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// What has not come by then never comes, not on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until `holds` says so.
///
/// # Panics
/// When it has not within [`PATIENCE`], or does not come to an answer; `what` is told then.
pub async fn until(what: impl Display, holds: impl AsyncFnMut() -> bool) {
    soon(what, look(holds)).await;
}

/// Whether `holds` says so within [`PATIENCE`]: for those who tell what there is instead.
pub async fn comes(holds: impl AsyncFnMut() -> bool) -> bool {
    timeout(PATIENCE, look(holds)).await.is_ok()
}

async fn look(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        sleep(LOOK).await;
    }
}

/// What `future` comes to.
///
/// # Panics
/// When that takes longer than [`PATIENCE`]; `what` is told then.
pub async fn soon<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    within(PATIENCE, what, future).await
}

/// [`soon`] for what is long by nature.
///
/// # Panics
/// When it takes longer than `limit`.
pub async fn within<T>(limit: Duration, what: impl Display, future: impl Future<Output = T>) -> T {
    timeout(limit, future).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        until("the third look", async || {
            looks += 1;
            looks == 3
        })
        .await;
        assert_eq!(looks, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "a condition that hangs: not within 30s")]
    async fn a_condition_that_hangs_is_told_as_one_that_never_holds() {
        until("a condition that hangs", std::future::pending).await;
    }
}
