//! Words for people on stderr, by a thread of their own: nobody who lets the pipe fill up holds up anything else.

use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Reports that wait to be written; more are dropped. The pages and the counters tell the same.
const REPORTS_MAX: usize = 64;

/// Where reports go.
#[derive(Clone, Debug)]
pub struct Reports(SyncSender<String>);

impl Reports {
    /// Begins every report with `program` and a colon.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(program: &'static str) -> std::io::Result<Self> {
        let (reports, taken) = sync_channel::<String>(REPORTS_MAX);
        thread::Builder::new().name("reports".to_owned()).spawn(move || {
            for report in taken {
                let _ = writeln!(std::io::stderr(), "{program}: {report}");
            }
        })?;
        Ok(Self(reports))
    }

    /// Says something, or drops it.
    pub fn say(&self, report: String) {
        let _ = self.0.try_send(report);
    }
}
