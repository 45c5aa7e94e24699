//! Sees whether the machine stood still while a test went by the clock: on one that does no bound in real time
//! holds, and what was seen proves nothing.

use std::mem;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bench::pin::pin_self;

/// A core that stood still for longer was not there for the test.
pub(crate) const STILL: Duration = Duration::from_millis(200);

/// How often something is run at most, until no core stands still.
pub(crate) const RUNS_MAX: u32 = 3;

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(20);

/// A thread on each core, which wants to run every now and then.
pub(crate) struct Watchdog {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Watchdog {
    pub(crate) fn begin() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (0..cores).map(|core| {
            let is_over = is_over.clone();
            thread::spawn(move || watch(core, &is_over))
        });
        Self { threads: threads.collect(), is_over }
    }

    /// Ends it: the longest time for which one of the threads did not run.
    pub(crate) fn end(mut self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let gaps = mem::take(&mut self.threads).into_iter().map(|thread| thread.join());
        gaps.map(|gap| gap.expect("it does not panic")).max().unwrap_or_default()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn watch(core: usize, is_over: &AtomicBool) -> Duration {
    // One that is not ours to use is watched from another.
    let _ = pin_self(Some(core));
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        thread::sleep(LOOK);
        longest = longest.max(began.elapsed());
    }
    longest
}
