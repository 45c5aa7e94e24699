//! Notices that nothing moves. Costs nothing until it is asked, and one timer from then on.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Watches a number that changes with every movement.
#[derive(Debug, Default)]
pub(crate) struct Still {
    mark: u64,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Still {
    /// Ready when `mark` has been the same for `limit`, counted from the first look at it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mark: u64, limit: Duration) -> Poll<()> {
        let since = match self.since {
            Some(since) if mark == self.mark => since,
            _ => Instant::now(),
        };
        (self.mark, self.since) = (mark, Some(since));
        let due = since + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// Counts from now on.
    pub(crate) fn begin_again(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_moves_in_time_is_never_still() {
        let (mut still, began) = (Still::default(), Instant::now());
        for mark in 0..10 {
            let look = poll_fn(|cx| still.poll(cx, mark, LIMIT));
            assert!(tokio::time::timeout(LIMIT - Duration::from_secs(1), look).await.is_err());
        }
        poll_fn(|cx| still.poll(cx, 9, LIMIT)).await;
        assert_eq!(began.elapsed().as_secs(), 9 * 29 + 30);
    }

    #[tokio::test(start_paused = true)]
    async fn begun_again_it_counts_from_then_on() {
        let (mut still, began) = (Still::default(), Instant::now());
        poll_fn(|cx| still.poll(cx, 1, LIMIT)).await;
        still.begin_again();
        poll_fn(|cx| still.poll(cx, 1, LIMIT)).await;
        assert_eq!(began.elapsed().as_secs(), 60);
    }
}
