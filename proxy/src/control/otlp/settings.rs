//! What `sidecar.yaml` and the standard variables `OTEL_*` say of spans; the file wins.
//!
//! The variables are those of OpenTelemetry's "Environment Variable Specification" and "OTLP Exporter Configuration".
//! One that is empty counts as not set. One that cannot be used keeps the sidecar from starting: spans that silently go
//! nowhere are found out when they are needed.

use std::path::PathBuf;
use std::time::Duration;

use config::model::{Propagation, Sidecar};
use http::header::{HeaderName, HeaderValue};

use crate::trace::context::Formats;

/// How spans are recorded and sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) collector: Collector,
    /// Sent with every export.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one try may take, connection included.
    pub(crate) timeout: Duration,
    /// How long an export may take, repetitions included.
    pub(crate) export_timeout: Duration,
    pub(crate) gzip: bool,
    /// Roots for `https`, and our own certificate and key.
    pub(crate) roots: Option<PathBuf>,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// How long spans wait for others, and how many go together.
    pub(crate) delay: Duration,
    pub(crate) batch: usize,
    /// Spans that wait.
    pub(crate) bound: usize,
    /// What is said of this sidecar.
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) parent: bool,
    pub(crate) ratio_ppm: u32,
    pub(crate) rate: Option<u32>,
}

/// Where OTLP/gRPC is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    pub(crate) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::fmt::Display for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Reads all of it: the headers in which traces begin, and how spans are recorded, if they are.
/// The error names every variable at fault and says what would be right.
pub(crate) fn read(
    sidecar: &Sidecar,
    env: impl Fn(&str) -> Option<String>,
) -> Result<(Formats, Option<Settings>), String> {
    let mut read = Reader { env: &env, faults: Vec::new() };
    let propagate = match &sidecar.tracing.propagate {
        Some(list) => Formats::of(list),
        None => read.propagators(),
    };
    let settings = if read.flag("OTEL_SDK_DISABLED") { None } else { settings(sidecar, &mut read) };
    if read.faults.is_empty() { Ok((propagate, settings)) } else { Err(read.faults.join("\n")) }
}

/// The default of OTLP, for who asks for it without saying where.
const COLLECTOR: &str = "http://localhost:4317";

fn settings(sidecar: &Sidecar, read: &mut Reader<'_>) -> Option<Settings> {
    let exporter = read.word("OTEL_TRACES_EXPORTER", &["otlp", "none"]);
    read.otlp_word("PROTOCOL", &["grpc"]);
    let (parent, ratio_ppm) = read.sampler();
    let collector = read.collector(sidecar.tracing.endpoint.as_deref(), exporter.is_some());
    let gzip = read.otlp_word("COMPRESSION", &["none", "gzip"]).is_some_and(|word| word == "gzip");
    let roots = read.otlp("CERTIFICATE").map(|(_, path)| PathBuf::from(path));
    let (certificate, key) = (read.otlp("CLIENT_CERTIFICATE"), read.otlp("CLIENT_KEY"));
    let client = match (certificate, key) {
        (Some((_, certificate)), Some((_, key))) => Some((certificate.into(), key.into())),
        (None, None) => None,
        (Some((name, _)), None) | (None, Some((name, _))) => {
            read.fault(&name, "stands alone", "set a client's certificate and its key together");
            None
        }
    };
    let file = &sidecar.tracing.sampling;
    let bound = match read.number("OTEL_BSP_MAX_QUEUE_SIZE", 1..=1_000_000) {
        Some(bound) if sidecar.limits.spans == config::model::Limits::default().spans => bound as usize,
        _ => sidecar.limits.spans,
    };
    let batch = read.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=BATCH_MAX).unwrap_or(512) as usize;
    let settings = Settings {
        collector: collector?,
        headers: read.headers(),
        timeout: read.otlp_millis("TIMEOUT", 10_000),
        export_timeout: read.millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000),
        gzip,
        roots,
        client,
        delay: read.millis("OTEL_BSP_SCHEDULE_DELAY", 5_000),
        batch: batch.min(bound),
        bound,
        resource: read.resource(sidecar),
        parent: file.parent.unwrap_or(parent),
        ratio_ppm: file.ratio_ppm.unwrap_or(ratio_ppm),
        rate: file.rate,
    };
    (exporter.as_deref() != Some("none")).then_some(settings)
}

/// Spans of common length, below a KiB and a half, stay with this many below the four MiB that a collector takes.
const BATCH_MAX: u64 = 2_048;
/// The longest time that a variable may name, a day.
const MILLIS_MAX: u64 = 86_400_000;
const ALL_PPM: u32 = 1_000_000;

struct Reader<'e> {
    env: &'e dyn Fn(&str) -> Option<String>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn fault(&mut self, name: &str, what: &str, hint: &str) {
        self.faults.push(format!("{name}: {what}; {hint}"));
    }

    /// `OTEL_EXPORTER_OTLP_TRACES_X`, else `OTEL_EXPORTER_OTLP_X`, with the name of the one that is set.
    fn otlp(&self, key: &str) -> Option<(String, String)> {
        ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].into_iter().find_map(|prefix| {
            let name = format!("{prefix}{key}");
            self.get(&name).map(|value| (name, value))
        })
    }

    fn word(&mut self, name: &str, known: &[&str]) -> Option<String> {
        let value = self.get(name)?;
        self.known(name, value, known)
    }

    fn otlp_word(&mut self, key: &str, known: &[&str]) -> Option<String> {
        let (name, value) = self.otlp(key)?;
        self.known(&name, value, known)
    }

    fn known(&mut self, name: &str, value: String, known: &[&str]) -> Option<String> {
        if known.contains(&value.as_str()) {
            return Some(value);
        }
        let list = known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        self.fault(name, &format!("`{value}` is not supported"), &format!("write {list}"));
        None
    }

    /// By the specification, anything but `true` is false.
    fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.get(name)?;
        match value.parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let hint = format!("write a whole number from {} to {}", range.start(), range.end());
                self.fault(name, &format!("`{value}` is no such number"), &hint);
                None
            }
        }
    }

    fn millis(&mut self, name: &str, default: u64) -> Duration {
        Duration::from_millis(self.number(name, 1..=MILLIS_MAX).unwrap_or(default))
    }

    fn otlp_millis(&mut self, key: &str, default: u64) -> Duration {
        match self.otlp(key) {
            Some((name, _)) => self.millis(&name, default),
            None => Duration::from_millis(default),
        }
    }

    fn propagators(&mut self) -> Formats {
        const NAME: &str = "OTEL_PROPAGATORS";
        let Some(list) = self.get(NAME) else { return Formats::of(&[Propagation::W3c]) };
        let mut formats = Vec::new();
        for word in list.split(',').map(str::trim) {
            match word {
                "tracecontext" => formats.push(Propagation::W3c),
                "b3" => formats.push(Propagation::B3),
                "b3multi" => formats.push(Propagation::B3Multi),
                // Passes as any header does.
                "baggage" | "none" => {}
                _ => self.fault(
                    NAME,
                    &format!("`{word}` is not supported"),
                    "write a list of `tracecontext`, `baggage`, `b3` and `b3multi`, or `none`",
                ),
            }
        }
        Formats::of(&formats)
    }

    /// Whether the caller's decision counts, and the share of all others in parts per million.
    fn sampler(&mut self) -> (bool, u32) {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let Some(sampler) = self.get(NAME) else { return (true, ALL_PPM) };
        let (parent, root) = match sampler.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, sampler.as_str()),
        };
        let ratio = match root {
            "always_on" => ALL_PPM,
            "always_off" => 0,
            "traceidratio" => self.ratio(),
            _ => {
                let hint =
                    "write `always_on`, `always_off` or `traceidratio`, or one of them behind `parentbased_`";
                self.fault(NAME, &format!("`{sampler}` is not supported"), hint);
                ALL_PPM
            }
        };
        (parent, ratio)
    }

    fn ratio(&mut self) -> u32 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(ratio) = self.get(NAME) else { return ALL_PPM };
        match ratio.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => (share * f64::from(ALL_PPM)).round() as u32,
            _ => {
                self.fault(
                    NAME,
                    &format!("`{ratio}` is not a share"),
                    "write a number from 0 to 1, as `0.01`",
                );
                ALL_PPM
            }
        }
    }

    fn collector(&mut self, file: Option<&str>, asked: bool) -> Option<Collector> {
        let insecure = self.otlp("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let (name, url) = match (file, self.otlp("ENDPOINT")) {
            (Some(url), _) => ("tracing.endpoint".to_owned(), url.to_owned()),
            (None, Some(found)) => found,
            (None, None) if asked => ("the default".to_owned(), COLLECTOR.to_owned()),
            (None, None) => return None,
        };
        let collector = collector(&url, insecure);
        if collector.is_none() {
            let hint = "write `http://host:port` or `https://host:port`, where OTLP/gRPC is served, as `http://127.0.0.1:4317`";
            self.fault(&name, &format!("`{url}` is not the URL of a collector"), hint);
        }
        collector
    }

    fn headers(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        let Some((name, list)) = self.otlp("HEADERS") else { return Vec::new() };
        let mut headers = Vec::new();
        for (key, value) in self.pairs(&name, &list) {
            let field =
                HeaderName::try_from(key.to_ascii_lowercase()).ok().zip(HeaderValue::try_from(&value).ok());
            match field {
                Some((key, mut value)) if !key.as_str().starts_with("grpc-") => {
                    // It may be a token.
                    value.set_sensitive(true);
                    headers.push((key, value));
                }
                _ => {
                    self.fault(&name, &format!("`{key}` cannot be a header"), "write `name=value,name=value`")
                }
            }
        }
        headers
    }

    /// `service.name` and the rest. A resource's own key comes once.
    fn resource(&mut self, sidecar: &Sidecar) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut resource = vec![
            own("telemetry.sdk.name", "outrigger"),
            own("telemetry.sdk.language", "rust"),
            own("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ];
        let given = self.get(NAME).map(|list| self.pairs(NAME, &list)).unwrap_or_default();
        let name = self.get("OTEL_SERVICE_NAME").map(|name| own("service.name", &name));
        let defaults = [
            own("service.name", &format!("{}.{}", sidecar.service, sidecar.namespace)),
            own("service.namespace", &sidecar.namespace),
        ];
        for (key, value) in name.into_iter().chain(given).chain(defaults) {
            if !resource.iter().any(|(known, _)| *known == key) {
                resource.push((key, value));
            }
        }
        resource
    }

    /// `key=value,key=value`, percent-encoded as in W3C Baggage.
    fn pairs(&mut self, name: &str, list: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let decoded = part.split_once('=').and_then(|(key, value)| {
                Some((decode(key.trim())?, decode(value.trim())?)).filter(|(key, _)| !key.is_empty())
            });
            match decoded {
                Some(pair) => pairs.push(pair),
                // Its value may be a secret, and is not repeated.
                None => {
                    let hint = "write `key=value,key=value`, special characters as `%2C`";
                    self.fault(name, "a part of it is not `key=value`", hint);
                }
            }
        }
        pairs
    }
}

/// `http://host:port`; the port of OTLP/gRPC may be left out. Without a scheme, `insecure` says which it is.
fn collector(url: &str, insecure: bool) -> Option<Collector> {
    let (tls, rest) = match url.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(_) => return None,
        None => (!insecure, url),
    };
    let authority: http::uri::Authority = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None if authority.as_str() != authority.host() => return None,
        None => 4_317,
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    (port != 0).then_some(Collector { tls, host, port })
}

/// Undoes percent-encoding; `None` if that leaves no text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
