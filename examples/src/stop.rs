//! The wish to stop, told once and seen by every task that asks.

use std::io::BufRead;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells every [`Stop`] of its pair.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Learns that the app is to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A stopper and the stop that it tells.
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells all; later calls change nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Stops on SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopper = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopper.stop();
        });
        Ok(())
    }

    /// Stops on a line `stop` on stdin. The end of stdin is no such line: services often have none.
    pub fn on_stdin(&self) {
        let stopper = self.clone();
        // A thread of its own, which nobody joins: a read from stdin cannot be cancelled, and the
        // runtime would wait for it at the end.
        std::thread::spawn(move || {
            let told =
                std::io::stdin().lock().lines().map_while(Result::ok).any(|line| line.trim() == "stop");
            if told {
                stopper.stop();
            }
        });
    }
}

impl Stop {
    /// Returns once the app is to stop, at once if it already is. A stopper that is gone has told all.
    pub async fn requested(&self) {
        let mut told = self.0.clone();
        // An error means that no stopper is left, and so nobody could ever tell.
        let _ = told.wait_for(|told| *told).await;
    }
}
