//! Reads a sidecar's probes port as Prometheus does, and the pages of sidecars and the control plane.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long one answer may take: longer than a busy machine lets a process stand.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// Bytes of one answer.
const ANSWER_MAX: u64 = 16 << 20;

/// How long a sidecar may take until it is ready.
pub(crate) const READY_WAIT: Duration = Duration::from_secs(15);

/// Between two looks at `/ready`.
const READY_PERIOD: Duration = Duration::from_millis(20);

/// The samples of one scrape, or of several together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

/// One line of the exposition format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The name, such as `grpc_server_handled_total`.
    pub(crate) name: String,
    /// The labels by name.
    pub(crate) labels: BTreeMap<String, String>,
    /// The value.
    pub(crate) value: f64,
}

impl Sample {
    /// The label's value; empty where there is none, as Prometheus has it.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Samples {
    /// All samples of a name.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of the samples of a name whose labels are as asked.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let asked = |sample: &&Sample| labels.iter().all(|(label, value)| sample.label(label) == *value);
        self.named(name).filter(asked).map(|sample| sample.value).sum()
    }

    /// Adds those of another scrape.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Reads the text format; lines that are no samples are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }
}

/// Scrapes `/metrics`.
pub(crate) async fn metrics(probes: SocketAddr) -> io::Result<Samples> {
    let (status, body) = get(probes, "/metrics").await?;
    if status != 200 {
        return Err(io::Error::other(format!("http://{probes}/metrics answered {status}")));
    }
    Ok(Samples::parse(&body))
}

/// The JSON of a page.
pub(crate) async fn page(admin: SocketAddr, path: &str) -> io::Result<Value> {
    let (status, body) = get(admin, path).await?;
    if status != 200 {
        return Err(io::Error::other(format!("http://{admin}{path} answered {status}")));
    }
    serde_json::from_str(&body)
        .map_err(|error| io::Error::other(format!("http://{admin}{path} did not answer JSON: {error}")))
}

/// Waits until `/ready` answers 200.
pub(crate) async fn ready(probes: SocketAddr) -> Result<(), String> {
    let answers = async {
        while !matches!(get(probes, "/ready").await, Ok((200, _))) {
            sleep(READY_PERIOD).await;
        }
    };
    let answered = timeout(READY_WAIT, answers).await;
    answered.map_err(|_| format!("http://{probes}/ready did not answer 200 within {READY_WAIT:?}"))
}

/// HTTP/1.0, so that the body is what comes before the end.
async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("{address} does not speak HTTP")))?;
        Ok((status, body.to_owned()))
    };
    timeout(ANSWER_WAIT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// `name{label="value",...} number`.
fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches([',', ' ']);
            if let Some(after) = inside.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = inside.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(label.to_owned(), value);
            inside = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The value up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_not_asked_for() {
        let samples = Samples::parse(
            "# HELP calls Calls.\n# TYPE calls counter\n\
             calls{service=\"a\",code=\"OK\"} 3\n\
             calls{service=\"a\",code=\"Unavailable\"} 2\n\
             calls{service=\"b\",code=\"OK\"} 40\n\
             up 1\n\nhuge{le=\"+Inf\"} 1e3 1700000000\n",
        );
        assert_eq!(samples.sum("calls", &[("service", "a")]), 5.0);
        assert_eq!(samples.sum("calls", &[("code", "OK")]), 43.0);
        assert_eq!(samples.sum("calls", &[("service", "c")]), 0.0);
        assert_eq!((samples.sum("up", &[]), samples.sum("huge", &[("le", "+Inf")])), (1.0, 1_000.0));
    }

    #[test]
    fn a_label_may_hold_quotes_commas_and_braces() {
        let sample = sample(r#"calls{peer="a\"},{\\\n",x="y",} 7"#).expect("a sample");
        assert_eq!(sample.label("peer"), "a\"},{\\\n");
        assert_eq!((sample.label("x"), sample.label("none"), sample.value), ("y", "", 7.0));
    }

    #[test]
    fn a_torn_line_is_no_sample() {
        for line in ["calls", "calls{", "calls{a=\"b", "calls{a=\"b\"}", "calls x", ""] {
            assert_eq!(sample(line), None, "{line}");
        }
    }
}
