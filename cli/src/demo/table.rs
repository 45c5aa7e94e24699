//! The table: one row a service, as its sidecars see it, with the callers' own count beside it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::demo::scrape::Samples;

const HEAD: &str =
    "service      calls/s   success       p50       p99  streams  mTLS           calls  callers say";

/// What a service's sidecars said at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    started: f64,
    handled: f64,
    ok: f64,
    /// Upper bound in seconds and calls up to it, of unary calls: streams last as long as they are wanted.
    buckets: Vec<(f64, f64)>,
    /// Open connections between sidecars.
    pub(crate) mtls: f64,
    /// Open connections that should have been mTLS.
    pub(crate) plain: f64,
    /// Connections between sidecars that were ever opened.
    pub(crate) mtls_ever: f64,
}

impl Seen {
    /// A service as those behind it see it: what came in.
    pub(crate) fn callee(samples: &Samples) -> Self {
        Self::side(samples, "grpc_server", "inbound")
    }

    /// A service that calls and is not called: what went out.
    pub(crate) fn caller(samples: &Samples) -> Self {
        Self::side(samples, "grpc_client", "upstream")
    }

    fn side(samples: &Samples, prefix: &str, direction: &str) -> Self {
        let sum = |name: &str, labels: &[(&str, &str)]| samples.sum(&format!("{prefix}_{name}"), labels);
        let connections = |name: &str, security: &str| {
            samples.sum(name, &[("direction", direction), ("security", security)])
        };
        Self {
            started: sum("started_total", &[]),
            handled: sum("handled_total", &[]),
            ok: sum("handled_total", &[("grpc_code", "OK")]),
            buckets: buckets(samples, &format!("{prefix}_handling_seconds_bucket")),
            mtls: connections("outrigger_connections", "mtls"),
            plain: connections("outrigger_connections", "plain"),
            mtls_ever: connections("outrigger_connections_total", "mtls"),
        }
    }
}

/// Prints rows: in place on a terminal, one under the other elsewhere.
#[derive(Debug)]
pub(crate) struct Table {
    in_place: bool,
    /// What is printed now, its head aside; none: nothing yet.
    rows: Option<Vec<String>>,
}

impl Table {
    /// For our stdout.
    pub(crate) fn new() -> Self {
        Self { in_place: io::stdout().is_terminal(), rows: None }
    }

    /// Prints one state of the table.
    ///
    /// # Errors
    /// When nobody reads our stdout any more.
    pub(crate) fn print(&mut self, rows: Vec<String>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        self.write(&mut stdout, rows)?;
        stdout.flush()
    }

    /// Prints a line that stays: on a terminal above the table, which goes on below it.
    ///
    /// # Errors
    /// As [`Table::print`].
    pub(crate) fn announce(&mut self, line: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        self.write_line(&mut stdout, line)?;
        stdout.flush()
    }

    fn write(&mut self, to: &mut impl Write, rows: Vec<String>) -> io::Result<()> {
        self.go_up(to)?;
        // The rest of a line that was longer is cleared.
        let clear = if self.in_place { "\x1b[K" } else { "" };
        writeln!(to, "{HEAD}{clear}")?;
        for row in &rows {
            writeln!(to, "{row}{clear}")?;
        }
        self.rows = Some(rows);
        Ok(())
    }

    fn write_line(&mut self, to: &mut impl Write, line: &str) -> io::Result<()> {
        self.go_up(to)?;
        let clear = if self.in_place { "\x1b[K" } else { "" };
        writeln!(to, "{line}{clear}")?;
        match self.rows.take().filter(|_| self.in_place) {
            Some(rows) => self.write(to, rows),
            None => Ok(()),
        }
    }

    /// Where the table began, on a terminal.
    fn go_up(&self, to: &mut impl Write) -> io::Result<()> {
        match &self.rows {
            Some(rows) if self.in_place => write!(to, "\x1b[{}A", rows.len() + 1),
            _ => Ok(()),
        }
    }
}

/// One row: rates, success and latencies of the calls since `before`; the rest as it is `now`.
pub(crate) fn row(service: &str, before: &Seen, now: &Seen, elapsed: Duration, callers_say: u64) -> String {
    let handled = now.handled - before.handled;
    let calls_per_second = (now.started - before.started) / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let success = match handled > 0.0 {
        true => format!("{:.2}%", 100.0 * (now.ok - before.ok) / handled),
        false => "-".to_owned(),
    };
    let latencies = since(&before.buckets, &now.buckets);
    let (p50, p99) = (latency(&latencies, 0.5), latency(&latencies, 0.99));
    let streams = now.started - now.handled;
    let connections = now.mtls + now.plain;
    let mtls = match connections > 0.0 {
        true => format!("{} of {connections}", now.mtls),
        false => "-".to_owned(),
    };
    let calls = now.handled;
    format!(
        "{service:<11}{calls_per_second:>9.1}{success:>10}{p50:>10}{p99:>10}{streams:>9}  {mtls:<11}{calls:>9}\
         {callers_say:>13}"
    )
}

/// The cumulative buckets of unary calls, by upper bound, over all other labels.
fn buckets(samples: &Samples, name: &str) -> Vec<(f64, f64)> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for sample in samples.named(name).filter(|sample| sample.label("grpc_type") == "unary") {
        // Rust reads `+Inf` as infinity.
        let Ok(bound) = sample.label("le").parse::<f64>() else { continue };
        match buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, count)) => *count += sample.value,
            None => buckets.push((bound, sample.value)),
        }
    }
    buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    buckets
}

/// The buckets of the calls between two moments.
fn since(before: &[(f64, f64)], now: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let earlier =
        |bound: f64| before.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, count)| *count);
    now.iter().map(|&(bound, count)| (bound, count - earlier(bound))).collect()
}

/// A quantile as Prometheus's `histogram_quantile` has it: linear within the bucket.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let rank = share * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for &(upper, count) in buckets {
        if count >= rank && count > below {
            // Nothing is known above the last bound.
            return Some(if upper.is_finite() {
                lower + (upper - lower) * (rank - below) / (count - below)
            } else {
                lower
            });
        }
        (lower, below) = (upper, count);
    }
    None
}

fn latency(buckets: &[(f64, f64)], share: f64) -> String {
    match quantile(buckets, share) {
        Some(seconds) => format!("{:.2}ms", seconds * 1_000.0),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let buckets = [(0.001, 50.0), (0.002, 90.0), (0.004, 100.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(0.001));
        assert_eq!(quantile(&buckets, 0.7), Some(0.0015));
        assert_eq!(quantile(&buckets, 1.0), Some(0.004));
        assert_eq!(quantile(&[(0.001, 0.0), (f64::INFINITY, 1.0)], 0.5), Some(0.001));
        assert_eq!((quantile(&[], 0.5), quantile(&[(1.0, 0.0)], 0.5)), (None, None));
    }

    #[test]
    fn a_row_tells_the_last_period_and_the_total() {
        let text = |ok: u32, failed: u32, open: u32| {
            format!(
                "grpc_server_started_total{{grpc_type=\"unary\"}} {}\n\
                 grpc_server_handled_total{{grpc_type=\"unary\",grpc_code=\"OK\"}} {ok}\n\
                 grpc_server_handled_total{{grpc_type=\"unary\",grpc_code=\"Unavailable\"}} {failed}\n\
                 grpc_server_handling_seconds_bucket{{grpc_type=\"unary\",le=\"0.002\"}} {ok}\n\
                 grpc_server_handling_seconds_bucket{{grpc_type=\"bidi_stream\",le=\"0.002\"}} 900\n\
                 grpc_server_handling_seconds_bucket{{grpc_type=\"unary\",le=\"+Inf\"}} {ok}\n\
                 outrigger_connections{{direction=\"inbound\",security=\"mtls\"}} 2\n\
                 outrigger_connections{{direction=\"upstream\",security=\"plain\"}} 5\n",
                ok + failed + open
            )
        };
        let before = Seen::callee(&Samples::parse(&text(100, 1, 0)));
        let now = Seen::callee(&Samples::parse(&text(199, 2, 3)));
        let row = row("orders", &before, &now, Duration::from_secs(2), 201);
        let cells: Vec<_> = row.split_whitespace().collect();
        let expected = ["orders", "51.5", "99.00%", "1.00ms", "1.98ms", "3", "2", "of", "2", "201", "201"];
        assert_eq!(cells, expected);
    }

    /// What a terminal shows in the end: it knows "so many lines up" and "clear the rest of this one".
    fn shown(printed: &str) -> Vec<String> {
        let (mut lines, mut at) = (Vec::<String>::new(), 0);
        for line in printed.split_terminator('\n') {
            let text = match line.strip_prefix("\x1b[").and_then(|moved| moved.split_once('A')) {
                Some((up, text)) => {
                    at -= up.parse::<usize>().expect("a number");
                    text
                }
                None => line,
            };
            let text = text.trim_end_matches("\x1b[K").to_owned();
            match lines.get_mut(at) {
                Some(line) => *line = text,
                None => lines.push(text),
            }
            at += 1;
        }
        lines
    }

    #[test]
    fn on_a_terminal_an_announcement_stays_and_the_table_goes_on_below_it() {
        let rows = |text: &str| vec![format!("users {text}"), format!("orders {text}")];
        let (mut table, mut printed) = (Table { in_place: true, rows: None }, Vec::new());
        table.write_line(&mut printed, "0 %").expect("written");
        table.write(&mut printed, rows("1")).expect("written");
        table.write_line(&mut printed, "10 %").expect("written");
        table.write(&mut printed, rows("2")).expect("written");
        let printed = String::from_utf8(printed).expect("text");
        assert_eq!(shown(&printed), ["0 %", "10 %", HEAD, "users 2", "orders 2"], "{printed:?}");
    }

    #[test]
    fn elsewhere_lines_are_printed_once_each() {
        let (mut table, mut printed) = (Table { in_place: false, rows: None }, Vec::new());
        table.write(&mut printed, vec!["users".to_owned()]).expect("written");
        table.write_line(&mut printed, "10 %").expect("written");
        table.write(&mut printed, vec!["users".to_owned()]).expect("written");
        assert_eq!(printed, format!("{HEAD}\nusers\n10 %\n{HEAD}\nusers\n").as_bytes());
    }

    #[test]
    fn a_quiet_service_shows_no_numbers_it_does_not_have() {
        let row = row("users", &Seen::default(), &Seen::default(), Duration::from_secs(1), 0);
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(cells, ["users", "0.0", "-", "-", "-", "0", "-", "0", "0"]);
    }
}
