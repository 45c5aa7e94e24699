//! What the CA has done, a line of JSON each: every certificate, and every request for one that was refused. By a thread of its
//! own: neither a full pipe nor a slow disk holds up anybody else.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use files::{PRIVATE, Reports};
use serde_json::{Map, Value, json};

use crate::ca::counters::Counters;
use crate::ca::reason::Reason;

/// Lines that wait to be written; more are counted and lost.
const LINES_MAX: usize = 10_000;
/// Refusals that are written per second and reason; how many more there were is told afterwards, or whoever can connect could fill the
/// disk. One reason takes nothing from the others.
const REFUSALS_PER_SECOND: u64 = 20;

/// Where lines go.
#[derive(Debug)]
pub(crate) struct Audit {
    messages: SyncSender<Message>,
    /// Until something comes by it, lines wait.
    go: Sender<()>,
    counters: Arc<Counters>,
    refusals: Mutex<Refusals>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// All that came before is written.
    Flush(SyncSender<()>),
}

/// The refusals of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Refusals {
    second: u64,
    of: [u64; Reason::ALL.len()],
}

/// What is known of a request, however it ends.
#[derive(Clone, Debug)]
pub(crate) struct Line(Map<String, Value>);

impl Line {
    pub(crate) fn new(now: SystemTime, peer: SocketAddr) -> Self {
        let mut line = Map::new();
        line.insert("time".to_owned(), json!(rfc3339(now)));
        line.insert("peer".to_owned(), json!(peer.to_string()));
        Self(line)
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }
}

impl Audit {
    /// To a file, at the end of what is there, or to stdout; nothing before [`Audit::open`].
    pub(crate) fn start(
        path: Option<&Path>,
        counters: Arc<Counters>,
        reports: Reports,
    ) -> Result<Self, String> {
        let (messages, taken) = sync_channel::<Message>(LINES_MAX);
        let (go, wait) = channel();
        let (path, lost) = (path.map(Path::to_owned), counters.clone());
        if let Some(path) = &path {
            append(path, "").map_err(|error| format!("ca.audit: {}: {error}", path.display()))?;
        }
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                if wait.recv().is_err() {
                    return;
                }
                let mut is_told = false;
                for message in taken {
                    let line = match message {
                        Message::Line(line) => line,
                        Message::Flush(done) => {
                            let _ = done.try_send(());
                            continue;
                        }
                    };
                    let Err(error) = put(path.as_ref(), &line) else {
                        is_told = false;
                        continue;
                    };
                    lost.unaudited.fetch_add(1, Relaxed);
                    if !std::mem::replace(&mut is_told, true) {
                        reports.say(format!("ca.audit: lines are lost: {error}"));
                    }
                }
            })
            .map_err(|error| format!("ca.audit: {error}"))?;
        Ok(Self { messages, go, counters, refusals: Mutex::default() })
    }

    /// Lets lines be written.
    pub(crate) fn open(&self) {
        let _ = self.go.send(());
    }

    /// Waits until all is written, or as long as `max`. Blocks.
    pub(crate) fn flush(&self, now: SystemTime, max: Duration) {
        self.tell(now, true);
        let (done, written) = sync_channel(1);
        if self.messages.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(max);
        }
    }

    /// A refusal, if there are not too many of them.
    pub(crate) fn refuse(&self, reason: Reason, line: Line, now: SystemTime) {
        self.tell_more(now);
        let count = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.of[reason as usize] += 1;
            refusals.of[reason as usize]
        };
        if count <= REFUSALS_PER_SECOND {
            self.say(line);
        }
    }

    /// Tells how many refusals of a second that is over were too many to be told one by one.
    pub(crate) fn tell_more(&self, now: SystemTime) {
        self.tell(now, false);
    }

    fn tell(&self, now: SystemTime, at_once: bool) {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let before = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.second == second && !at_once {
                return;
            }
            std::mem::replace(&mut *refusals, Refusals { second, ..Refusals::default() })
        };
        for ((_, reason), count) in Reason::ALL.iter().zip(before.of) {
            let Some(more) = count.checked_sub(REFUSALS_PER_SECOND).filter(|more| *more > 0) else {
                continue;
            };
            let mut line = Line(Map::new());
            line.set("time", rfc3339(now));
            line.set("event", "refused");
            line.set("reason", *reason);
            line.set("more", more);
            self.say(line);
        }
    }

    pub(crate) fn say(&self, line: Line) {
        let line = Value::Object(line.0).to_string();
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.counters.unaudited.fetch_add(1, Relaxed);
        }
    }
}

fn put(path: Option<&PathBuf>, line: &str) -> std::io::Result<()> {
    match path {
        // Opened each time: it may have been moved away meanwhile.
        Some(path) => append(path, &format!("{line}\n")),
        None => writeln!(std::io::stdout(), "{line}"),
    }
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(PRIVATE).open(path)?;
    file.write_all(text.as_bytes())
}

/// RFC 3339, in UTC, to the millisecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    config::time::rfc3339(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_says() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(millis)), text);
        }
    }
}
