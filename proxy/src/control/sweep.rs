//! Looks at the rates of endpoints in time, and takes back those whose ejection is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::context::Shared;

/// How long nothing is looked at where nothing is to be looked for.
const IDLE: Duration = Duration::from_secs(3_600);

/// Sweeps each service at its own interval, for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut published = shared.published.subscribe();
    let mut random = fastrand::Rng::new();
    loop {
        published.borrow_and_update();
        let wait = sweep(&shared, &mut random);
        tokio::select! {
            () = sleep(wait) => {}
            _ = published.changed() => {}
        }
    }
}

/// Sweeps what is due; returns how long nothing is.
fn sweep(shared: &Shared, random: &mut fastrand::Rng) -> Duration {
    let now = shared.clock.nanos(Instant::now());
    let mut wait = IDLE;
    for detector in &shared.tables.load().detectors {
        if detector.due(now) <= now {
            detector.sweep(now, || random.u64(..));
        }
        wait = wait.min(Duration::from_nanos(detector.due(now).saturating_sub(now)));
    }
    wait
}
