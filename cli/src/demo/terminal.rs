//! What the demo tells whoever runs it, and what they tell the demo.

use std::io::{self, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A line on stdout. That nobody reads it is no fault here: the table notices.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Ctrl-C, SIGTERM, or the terminal's end.
pub(crate) struct StopSignal([Signal; 3]);

impl StopSignal {
    /// From now on.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub(crate) fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    /// Waits for one of them.
    pub(crate) async fn told(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
