//! The access log: a line of JSON for each call, on stdout.
//!
//! It is written by a thread of its own, because stdout may be a pipe that nobody reads. Workers never wait for it:
//! a line that finds no place in the queue is dropped and counted.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use config::time::rfc3339;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::record::Fates;
use crate::record::call::{CallRecord, Moved};
use crate::record::queue::Outlet;
use crate::trace::hex;

/// How long lines gather, so that workers wake the thread fifty times a second at most.
const GATHER: Duration = Duration::from_millis(20);
/// How long the last lines may take when the sidecar goes.
const FLUSH: Duration = Duration::from_secs(1);
/// How often it is looked whether they are written.
const LOOK: Duration = Duration::from_millis(5);
/// From so much text on, it is written before more is made.
const WRITE_BYTES: usize = 64 << 10;

/// The thread that writes.
pub(crate) struct AccessLog {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl AccessLog {
    /// Begins to write what comes out of `outlet` to `out`.
    pub(crate) fn start(
        outlet: Outlet,
        fates: Arc<Fates>,
        out: impl Write + Send + 'static,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (stop, stopped) = watch::channel(false);
        let mut writer = Writer { outlet, fates, out, text: Vec::new(), lines: 0, torn: false };
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || runtime.block_on(writer.run(stopped)))?;
        Ok(Self { stop, thread })
    }

    /// Writes what waits, within a second: who does not read does not keep the sidecar.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(true);
        let end = Instant::now() + FLUSH;
        while !self.thread.is_finished() && Instant::now() < end {
            sleep(LOOK).await;
        }
    }
}

struct Writer<W> {
    outlet: Outlet,
    fates: Arc<Fates>,
    out: W,
    text: Vec<u8>,
    /// In `text`.
    lines: u64,
    /// The last line that reached `out` lacks its end.
    torn: bool,
}

impl<W: Write> Writer<W> {
    async fn run(&mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                Some(call) = self.outlet.records.recv() => self.take(&call),
                _ = stopped.changed() => return self.write_waiting(),
            }
            tokio::select! {
                () = sleep(GATHER) => {}
                () = self.outlet.crowded.notified() => {}
                _ = stopped.changed() => return self.write_waiting(),
            }
            self.write_waiting();
        }
    }

    fn write_waiting(&mut self) {
        while let Ok(call) = self.outlet.records.try_recv() {
            self.take(&call);
        }
        self.flush();
    }

    fn take(&mut self, call: &CallRecord) {
        write_line(&mut self.text, call);
        self.lines += 1;
        if self.text.len() >= WRITE_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        // What a write that failed has left open must not swallow the next line.
        if self.torn && write_some(&mut self.out, b"\n") == 1 {
            self.torn = false;
        }
        let written = if self.torn { 0 } else { write_some(&mut self.out, &self.text) };
        let written = &self.text[..written];
        self.torn |= written.last().is_some_and(|last| *last != b'\n');
        let whole = written.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.fates.lines.add(whole);
        self.fates.unwritten.add(self.lines - whole);
        self.text.clear();
        self.lines = 0;
    }
}

/// Writes as much as can be written, and says how much that was.
fn write_some(out: &mut impl Write, text: &[u8]) -> usize {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

/// Stdout without a buffer: what is written has left, and what has not is known.
pub(crate) fn stdout() -> std::io::Result<File> {
    std::io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// Writes what is known of a call; what is not is left out.
fn write_line(text: &mut Vec<u8>, call: &CallRecord) {
    let mut line = Line(text);
    line.0.push(b'{');
    line.text("time", &rfc3339(call.began_unix));
    line.text("event", if call.end.is_some() { "end" } else { "open" });
    line.text("direction", call.direction.as_str());
    if !call.service.is_empty() {
        line.text("service", &call.service);
    }
    line.text("method", &call.method);
    if let Some(here) = &call.span.here {
        line.text("trace_id", &hex::trace(here.trace));
        line.text("span_id", &hex::span(here.span));
    }
    if let Some(http) = &call.http {
        line.text("http_method", http.method);
        if let Some(status) = http.status {
            line.number("http_status", status);
        }
    }
    if let Some(end) = &call.end {
        if call.http.is_none() {
            line.text("grpc_status", end.code.name());
            line.number("grpc_code", end.code.number());
        }
        if let Some((reason, message)) = &end.failure {
            line.text("reason", reason.as_str());
            line.text("message", message);
        }
    }
    if let Some(peer) = &call.peer {
        line.text("peer", peer);
    }
    if let Some(route) = &call.route {
        line.text("route", &route.to_string());
    }
    if let Some(rule) = &call.authorization {
        line.text("authorization", rule);
    }
    if let Some(rule) = &call.audit {
        line.text("audit", rule);
    }
    if let Some(last) = call.attempts.last() {
        line.text("endpoint", &last.endpoint.to_string());
    }
    line.number("attempts", call.attempts.len());
    for (Moved { bytes, messages }, names) in [
        (call.request, ["request_bytes", "request_messages"]),
        (call.response, ["response_bytes", "response_messages"]),
    ] {
        line.number(names[0], bytes);
        line.number(names[1], messages);
    }
    line.number("duration_ms", millis(call.took));
    if let Some(after) = call.head_after {
        line.number("head_ms", millis(after));
    }
    line.0.extend_from_slice(b"}\n");
}

/// A line that is being written. Names are our own and need no escape.
struct Line<'t>(&'t mut Vec<u8>);

impl Line<'_> {
    fn name(&mut self, name: &str) {
        if !self.0.ends_with(b"{") {
            self.0.push(b',');
        }
        // Writing into memory does not fail, here and below.
        let _ = write!(self.0, "\"{name}\":");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        let _ = serde_json::to_writer(&mut *self.0, text);
    }

    fn number(&mut self, name: &str, number: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.0, "{number}");
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::Code;
    use crate::metrics::calls::Direction;
    use crate::record::call::End;
    use crate::trace::context::{Formats, Incoming, Span};

    /// Takes so many bytes, then fails until it is given more.
    struct Narrow {
        left: usize,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            let count = text.len().min(self.left).min(7);
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.left -= count;
            self.taken.extend_from_slice(&text[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_does_not_swallow_the_next_and_only_what_is_missing_is_counted() {
        let fates = Arc::new(Fates::default());
        let (_queue, outlet) = crate::record::queue::queue(1, 1);
        let out = Narrow { left: 20, taken: Vec::new() };
        let mut writer =
            Writer { outlet, fates: fates.clone(), out, text: Vec::new(), lines: 0, torn: false };
        let mut write = |left: usize, text: &str| {
            writer.out.left = left;
            writer.text.extend_from_slice(text.as_bytes());
            writer.lines = text.lines().count() as u64;
            writer.flush();
            let taken = String::from_utf8(writer.out.taken.clone()).unwrap();
            (taken, fates.lines.value(), fates.unwritten.value())
        };
        assert_eq!(write(10, "{one}\n{two}\n{three}\n"), ("{one}\n{two".to_owned(), 1, 2));
        assert_eq!(write(0, "{four}\n").1, 1, "nothing passes");
        assert_eq!(write(99, "{five}\n"), ("{one}\n{two\n{five}\n".to_owned(), 2, 3));
        assert_eq!(write(7, "{six6}\n{seven}\n"), ("{one}\n{two\n{five}\n{six6}\n".to_owned(), 3, 4));
        assert!(write(99, "{eight}\n").0.ends_with("{six6}\n{eight}\n"), "nothing was torn");
    }

    #[test]
    fn a_line_is_json_whatever_callers_and_endpoints_write() {
        let hostile = "a\"b\\c\n\r\t\u{0}\u{7f}\u{2028}é</script>/D";
        let mut random = fastrand::Rng::with_seed(1);
        let call = CallRecord {
            span: Span::settle(&Incoming::default(), Formats::default(), &mut random, |_| true),
            state: None,
            direction: Direction::Inbound,
            service: hostile.into(),
            method: hostile.into(),
            http: None,
            peer: Some(hostile.into()),
            route: None,
            authorization: Some("guests".into()),
            audit: Some("authorization[1]".into()),
            began_unix: Duration::from_millis(1_500),
            took: Duration::from_micros(1_234),
            head_after: None,
            attempts: Vec::new(),
            request: Moved::default(),
            response: Moved::default(),
            end: Some(End {
                code: Code::Ok,
                failure: Some((crate::failure::Reason::Refused, hostile.into())),
            }),
        };
        let mut text = Vec::new();
        write_line(&mut text, &call);
        write_line(&mut text, &call);
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 2, "one line each");
        let read: serde_json::Value = serde_json::from_slice(lines[0]).unwrap();
        for name in ["service", "method", "peer", "message"] {
            assert_eq!(read[name], hostile);
        }
        assert_eq!(
            (&read["time"], &read["duration_ms"]),
            (&"1970-01-01T00:00:01.500Z".into(), &1.234.into())
        );
    }
}
