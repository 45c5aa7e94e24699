//! `outrigger status`: every proxy of a control plane, and whether it took what it was sent.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::page;

/// The control plane on this host.
const CONTROL: &str = "127.0.0.1:15014";

/// How much of a version is shown.
const VERSION_CHARS: usize = 12;

/// Whose proxies.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The admin listener of the control plane.
    #[arg(long, value_name = "HOST:PORT", default_value = CONTROL)]
    control: String,
    /// Prints JSON, for tools: the page /proxies as it is.
    #[arg(long)]
    json: bool,
    /// How long a proxy may take to acknowledge before it counts as behind.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = crate::duration)]
    grace: Duration,
}

/// Prints the table. Exit code 0: every proxy holds what it was sent, or was sent it a moment ago; 1: one has rejected something, or has not
/// acknowledged it in time; 2: the control plane did not answer.
pub(crate) fn run(options: &Options) -> ExitCode {
    let proxies = match page::json(&options.control, "/proxies") {
        Ok(proxies) => proxies,
        Err(error) => {
            eprintln!("outrigger status: {error}; --control names a control plane's `admin.listen`");
            return ExitCode::from(2);
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let rows = rows(&proxies, now, options.grace);
    match options.json {
        true => println!("{proxies:#}"),
        false => print!("{}", render(&rows)),
    }
    match rows.iter().all(|row| row.state <= State::Pending) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// How a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It acknowledged all that it was sent.
    Current,
    /// It was sent something a moment ago.
    Pending,
    /// It has not acknowledged in time.
    Behind,
    /// It rejected something, and holds what it had before.
    Rejected,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Current => "ACK",
            Self::Pending => "pending",
            Self::Behind => "STALE",
            Self::Rejected => "NACK",
        }
    }
}

/// A line of the table, and what is said below it.
struct Row {
    cells: [String; 6],
    below: Vec<String>,
    state: State,
}

const HEAD: [&str; 6] = ["PROXY", "KIND", "PROTOCOL", "STATE", "VERSION", "CONNECTED"];

fn rows(proxies: &Value, now: f64, grace: Duration) -> Vec<Row> {
    proxies.as_array().into_iter().flatten().map(|proxy| row(proxy, now, grace)).collect()
}

fn row(proxy: &Value, now: f64, grace: Duration) -> Row {
    let text = |key: &str| proxy[key].as_str().unwrap_or("-").to_owned();
    let types = || proxy["types"].as_array().into_iter().flatten();
    let mut state = State::Current;
    let mut below = Vec::new();
    for held in types() {
        let (of_type, said) = judge(held, now, grace);
        state = state.max(of_type);
        below.extend(said);
    }
    if let Some(why) = proxy["turned_down"].as_str() {
        state = State::Rejected;
        let why = why.lines().collect::<Vec<_>>().join("; ");
        below.push(format!(
            "it took each resource, and turned all of them down together; what it had before stays: {why}"
        ));
    }
    for note in proxy["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        below.push(format!("note: {note}"));
    }
    let connected = unix(&proxy["connected_since"]).map_or_else(|| "-".to_owned(), |since| age(now - since));
    let cells =
        [text("id"), text("kind"), text("protocol"), state.word().to_owned(), versions(proxy), connected];
    Row { cells, below, state }
}

/// How a proxy stands with one type of resources, and what there is to say about it.
fn judge(held: &Value, now: f64, grace: Duration) -> (State, Option<String>) {
    let kind = short(held["type"].as_str().unwrap_or("-"));
    let (sent, acked) = (held["sent_version"].as_str(), held["acked_version"].as_str());
    if let Some(nack) = held["nack"].as_object() {
        let version = nack.get("version").and_then(Value::as_str).unwrap_or("-");
        let reason = nack.get("reason").and_then(Value::as_str).unwrap_or("no reason given");
        let ago =
            nack.get("at").and_then(unix).map_or_else(String::new, |at| format!(" {} ago", age(now - at)));
        let held = acked.map_or_else(|| "nothing".to_owned(), |acked| cut(acked).to_owned());
        let said = format!("{kind}: rejected {}{ago}, holds {held}: {reason}", cut(version));
        return (State::Rejected, Some(said));
    }
    match sent {
        Some(sent) if acked != Some(sent) => {
            // Where the page does not say when it was sent, the last word of the proxy is what there is.
            let since = unix(&held["sent_at"]).or_else(|| unix(&held["acked_at"]));
            let waits = since.map(|since| now - since);
            let said = match waits {
                Some(waits) => format!("{kind}: was sent {}, no answer for {}", cut(sent), age(waits)),
                None => format!("{kind}: was sent {}, no answer yet", cut(sent)),
            };
            match waits {
                Some(waits) if waits < grace.as_secs_f64() => (State::Pending, Some(said)),
                _ => (State::Behind, Some(said)),
            }
        }
        _ => (State::Current, None),
    }
}

/// What a proxy holds: one version if it is the same of all types, else each.
fn versions(proxy: &Value) -> String {
    let held: Vec<(&str, &str)> = proxy["types"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|held| {
            (short(held["type"].as_str().unwrap_or("-")), held["acked_version"].as_str().unwrap_or("-"))
        })
        .collect();
    match held.first() {
        None => "-".to_owned(),
        Some((_, first)) if held.iter().all(|(_, version)| version == first) => cut(first).to_owned(),
        Some(_) => held
            .iter()
            .map(|(kind, version)| format!("{kind}={}", cut(version)))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// The last word of a type URL.
fn short(kind: &str) -> &str {
    kind.rsplit(['.', '/']).next().unwrap_or(kind)
}

fn cut(version: &str) -> &str {
    version.char_indices().nth(VERSION_CHARS).map_or(version, |(end, _)| &version[..end])
}

/// A moment, in seconds of Unix time.
fn unix(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// `12s`, `3m20s`, `4h05m`, `9d`.
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn render(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no proxy is connected\n".to_owned();
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    };
    line(&HEAD.map(str::to_owned));
    for row in rows {
        line(&row.cells);
        for below in &row.below {
            line(&[format!("  {below}")]);
        }
    }
    let count = |state: State| rows.iter().filter(|row| row.state == state).count();
    let mut sum = format!("{} proxies", rows.len());
    for state in [State::Rejected, State::Behind, State::Pending] {
        if count(state) > 0 {
            sum.push_str(&format!(", {} {}", count(state), state.word()));
        }
    }
    out.push_str(&sum);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: f64 = 1_000_000.0;

    fn held(sent: &str, acked: Option<&str>) -> Value {
        json!({"type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "sent_version": sent,
            "acked_version": acked, "acked_at": NOW - 90.0, "nack": null, "subscribed": "*"})
    }

    fn proxy(types: &[Value]) -> Value {
        json!([{"id": "orders.shop~host~1", "kind": "outrigger", "protocol": "delta", "types": types,
            "connected_since": NOW - 200.0, "notes": []}])
    }

    fn shown(types: &[Value]) -> (State, String) {
        let rows = rows(&proxy(types), NOW, Duration::from_secs(5));
        (rows[0].state, render(&rows))
    }

    #[test]
    fn a_proxy_that_acknowledged_everything_is_current() {
        let (state, text) = shown(&[held("abc", Some("abc")), held("abc", Some("abc"))]);
        assert_eq!(state, State::Current);
        assert_eq!(
            text,
            "PROXY               KIND       PROTOCOL  STATE  VERSION  CONNECTED\n\
             orders.shop~host~1  outrigger  delta     ACK    abc      3m20s\n\
             1 proxies\n"
        );
    }

    #[test]
    fn a_rejection_is_told_with_its_reason_and_age() {
        let mut rejected = held("b", Some("a"));
        rejected["nack"] = json!({"version": "b", "reason": "lb_policy: unknown", "at": NOW - 12.0});
        let (state, text) = shown(&[rejected]);
        assert_eq!(state, State::Rejected);
        assert!(text.contains("  Cluster: rejected b 12s ago, holds a: lb_policy: unknown\n"), "{text}");
        assert!(text.ends_with("1 proxies, 1 NACK\n"), "{text}");
    }

    #[test]
    fn what_is_turned_down_as_a_set_is_told_though_each_resource_was_taken() {
        let mut proxies = proxy(&[held("abc", Some("abc"))]);
        proxies[0]["turned_down"] = json!("the host `a` of `b`\nand another");
        let rows = rows(&proxies, NOW, Duration::from_secs(5));
        assert_eq!(rows[0].state, State::Rejected);
        let text = render(&rows);
        assert!(text.contains("what it had before stays: the host `a` of `b`; and another\n"), "{text}");
    }

    #[test]
    fn what_is_not_acknowledged_in_time_is_stale() {
        let mut behind = held("b", Some("a"));
        assert_eq!(shown(&[behind.clone()]).0, State::Behind);
        behind["sent_at"] = json!(NOW - 1.0);
        assert_eq!(shown(&[behind]).0, State::Pending);
        let (state, text) = shown(&[held("b", None)]);
        assert_eq!(state, State::Behind);
        assert!(text.contains("was sent b, no answer for 1m30s"), "{text}");
    }

    #[test]
    fn versions_that_differ_are_told_by_type() {
        let mut routes = held("0123456789abcdef", Some("0123456789abcdef"));
        routes["type"] = json!("RouteConfiguration");
        let (_, text) = shown(&[held("a", Some("a")), routes]);
        assert!(text.contains("Cluster=a RouteConfiguration=0123456789ab "), "{text}");
    }

    #[test]
    fn no_proxies_are_told_in_words() {
        assert_eq!(render(&rows(&json!([]), NOW, Duration::ZERO)), "no proxy is connected\n");
    }
}
