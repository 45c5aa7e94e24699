//! What `sidecar.yaml` and the standard variables `OTEL_*` say of spans; the file wins.
//!
//! The variables are those of OpenTelemetry's "Environment Variable Specification" and "OTLP Exporter Configuration".
//! One that is empty counts as not set. One that cannot be used keeps the sidecar from starting: spans that silently go
//! nowhere are found out when they are needed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use config::collector::{COLLECTOR_HINT, Collector};
use config::model::{Propagation, SPANS, Sampling, Sidecar};
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

/// What file and environment say together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decided {
    /// The headers in which traces begin.
    pub(crate) propagate: Formats,
    /// `None`: no span is recorded.
    pub(crate) settings: Option<Settings>,
    /// What was left aside, in words for people.
    pub(crate) notes: Vec<String>,
}

/// Reads all of it. The error names every variable at fault and says what would be right; what is not used is not judged.
pub(crate) fn read(sidecar: &Sidecar, env: impl Fn(&str) -> Option<OsString>) -> Result<Decided, String> {
    let mut read = Reader { env: &env, faults: Vec::new(), notes: Vec::new() };
    let propagate = match &sidecar.tracing.propagate {
        Some(list) => Formats::of(list),
        None => read.propagators(),
    };
    let settings = if read.flag("OTEL_SDK_DISABLED") { None } else { settings(sidecar, &mut read) };
    let Reader { faults, notes, .. } = read;
    if faults.is_empty() { Ok(Decided { propagate, settings, notes }) } else { Err(faults.join("\n")) }
}

/// The default of OTLP, for who asks for it without saying where.
const COLLECTOR: &str = "http://localhost:4317";

fn settings(sidecar: &Sidecar, read: &mut Reader<'_>) -> Option<Settings> {
    let exporter = read.exporter();
    if exporter == Exporter::None {
        return None;
    }
    let collector = match &sidecar.tracing.endpoint {
        // It names who speaks OTLP/gRPC, whatever other programs of the pod are told.
        Some(collector) => collector.clone(),
        None => {
            let collector = read.collector(exporter == Exporter::Otlp)?;
            if let Exporter::Unknown(word) = exporter {
                read.fault(EXPORTER, &format!("`{word}` is not supported"), "write `otlp` or `none`");
            }
            read.otlp_word("PROTOCOL", &["grpc"]);
            collector
        }
    };
    let (parent, ratio_ppm) = read.sampler(&sidecar.tracing.sampling);
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
    let bound = match sidecar.limits.spans {
        Some(bound) => bound,
        None => read.number("OTEL_BSP_MAX_QUEUE_SIZE", 1..=1_000_000).map_or(SPANS, |bound| bound as usize),
    };
    let batch = read.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=BATCH_MAX).unwrap_or(512) as usize;
    Some(Settings {
        collector,
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
        parent,
        ratio_ppm,
        rate: sidecar.tracing.sampling.rate,
    })
}

const EXPORTER: &str = "OTEL_TRACES_EXPORTER";

/// What `OTEL_TRACES_EXPORTER` says.
#[derive(PartialEq, Eq)]
enum Exporter {
    Unsaid,
    None,
    Otlp,
    Unknown(String),
}

/// Bytes bound an export too; this is what a crowd may be.
const BATCH_MAX: u64 = 2_048;
/// The longest time that a variable may name, a day.
const MILLIS_MAX: u64 = 86_400_000;
const ALL_PPM: u32 = 1_000_000;

struct Reader<'e> {
    env: &'e dyn Fn(&str) -> Option<OsString>,
    faults: Vec<String>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn get(&mut self, name: &str) -> Option<String> {
        match (self.env)(name)?.into_string() {
            Ok(value) => Some(value.trim().to_owned()).filter(|value| !value.is_empty()),
            Err(_) => {
                let fault = format!("{name}: it is not UTF-8; write it in UTF-8, or unset it");
                if !self.faults.contains(&fault) {
                    self.faults.push(fault);
                }
                None
            }
        }
    }

    fn fault(&mut self, name: &str, what: &str, hint: &str) {
        self.faults.push(format!("{name}: {what}; {hint}"));
    }

    /// `OTEL_EXPORTER_OTLP_TRACES_X`, else `OTEL_EXPORTER_OTLP_X`, with the name of the one that is set.
    fn otlp(&mut self, key: &str) -> Option<(String, String)> {
        ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].into_iter().find_map(|prefix| {
            let name = format!("{prefix}{key}");
            self.get(&name).map(|value| (name, value))
        })
    }

    /// It may be a list; what else is in it is none of ours.
    fn exporter(&mut self) -> Exporter {
        let Some(list) = self.get(EXPORTER) else { return Exporter::Unsaid };
        match list.as_str() {
            "none" => Exporter::None,
            _ if list.split(',').any(|word| word.trim() == "otlp") => Exporter::Otlp,
            _ => Exporter::Unknown(list),
        }
    }

    fn otlp_word(&mut self, key: &str, known: &[&str]) -> Option<String> {
        let (name, value) = self.otlp(key)?;
        if known.contains(&value.as_str()) {
            return Some(value);
        }
        let list = known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        self.fault(&name, &format!("`{value}` is not supported"), &format!("write {list}"));
        None
    }

    /// By the specification, anything but `true` is false.
    fn flag(&mut self, name: &str) -> bool {
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
                // It is said for all programs of a pod, and such headers pass as any do.
                _ => self.notes.push(format!(
                    "{NAME}: `{word}` is not supported and left aside; the sidecar knows `tracecontext`, `baggage`, \
                     `b3`, `b3multi` and `none`"
                )),
            }
        }
        Formats::of(&formats)
    }

    /// Whether the caller's decision counts, and the share of all others in parts per million. A variable that the file
    /// wins over in all that it says is not judged.
    fn sampler(&mut self, file: &Sampling) -> (bool, u32) {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        if let Sampling { parent: Some(parent), ratio_ppm: Some(ratio), .. } = *file {
            return (parent, ratio);
        }
        let (mut parent, mut ratio) = (true, ALL_PPM);
        if let Some(sampler) = self.get(NAME) {
            let root = sampler.strip_prefix("parentbased_");
            parent = root.is_some();
            ratio = match root.unwrap_or(&sampler) {
                "always_on" => ALL_PPM,
                "always_off" => 0,
                "traceidratio" if file.ratio_ppm.is_some() => ALL_PPM,
                "traceidratio" => self.ratio(),
                _ => {
                    let hint = "write `always_on`, `always_off` or `traceidratio`, or one of them behind `parentbased_`";
                    self.fault(NAME, &format!("`{sampler}` is not supported"), hint);
                    ALL_PPM
                }
            };
        }
        (file.parent.unwrap_or(parent), file.ratio_ppm.unwrap_or(ratio))
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

    /// What the environment says; `asked`: without a word of where, it is the default of OTLP.
    fn collector(&mut self, asked: bool) -> Option<Collector> {
        let insecure = self.otlp("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let (name, url) = match self.otlp("ENDPOINT") {
            Some(found) => found,
            None if asked => ("the default".to_owned(), COLLECTOR.to_owned()),
            None => return None,
        };
        let collector = Collector::parse(&url, Some(!insecure));
        if collector.is_none() {
            let what = format!("`{}` is not the URL of a collector", Collector::shown(&url));
            self.fault(&name, &what, COLLECTOR_HINT);
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
                Some((key, mut value)) if !is_ours(key.as_str()) => {
                    // It may be a token.
                    value.set_sensitive(true);
                    headers.push((key, value));
                }
                Some((key, _)) => {
                    let hint = "leave it out: the protocol writes it, or forbids it";
                    self.fault(&name, &format!("`{key}` cannot be set"), hint);
                }
                None => {
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

/// Headers that belong to HTTP/2 (RFC 9113, section 8.2.2) and to gRPC.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 10] = [
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    name.starts_with("grpc-") || OURS.contains(&name)
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
