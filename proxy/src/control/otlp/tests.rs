//! What file and environment say together.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use config::collector::Collector;
use config::model::Propagation;

use crate::control::otlp::settings::{Decided, Settings, read};
use crate::trace::context::Formats;

const FILE: &str = "service: orders\nnamespace: shop\nmesh: {file: mesh.yaml}\noutbound: {}\n";
const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

fn with(file: &str, variables: &[(&str, &str)]) -> Result<(Formats, Option<Settings>), String> {
    decided(file, |name| variables.iter().rfind(|(known, _)| *known == name).map(|(_, value)| value.into()))
        .map(|Decided { propagate, settings, .. }| (propagate, settings))
}

fn decided(file: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<Decided, String> {
    let source = config::Source { name: "sidecar.yaml", text: &format!("{FILE}{file}") };
    let sidecar = config::parse_sidecar(source).unwrap_or_else(|faults| panic!("{faults}"));
    read(&sidecar, env)
}

/// What is set with an endpoint and these variables.
fn set(variables: &[(&str, &str)]) -> Settings {
    let variables: Vec<_> = [ENDPOINT].iter().chain(variables).copied().collect();
    with("", &variables).unwrap().1.unwrap()
}

/// What is said of a variable that cannot be used.
fn fault(name: &str, value: &str) -> String {
    let said = with("", &[ENDPOINT, (name, value)]).unwrap_err();
    assert!(said.starts_with(&format!("{name}: ")) && said.contains("; "), "{said}");
    said
}

#[test]
fn without_an_endpoint_nothing_is_recorded() {
    let (propagate, settings) = with("", &[]).unwrap();
    assert_eq!((propagate, settings), (Formats::of(&[Propagation::W3c]), None));
    assert_eq!(with("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap().1, None, "empty is not set");
    assert_eq!(with("", &[("OTEL_SERVICE_NAME", "a"), ("OTEL_BSP_SCHEDULE_DELAY", "1")]).unwrap().1, None);
}

#[test]
fn what_other_programs_of_a_pod_are_told_keeps_no_sidecar_from_starting_that_exports_nothing() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "token"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/tls.key"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
    ] {
        assert_eq!(with("", &[(name, value)]).unwrap().1, None, "{name} without an endpoint");
        if name != "OTEL_TRACES_EXPORTER" {
            let none = [ENDPOINT, ("OTEL_TRACES_EXPORTER", "none"), (name, value)];
            assert_eq!(with("", &none).unwrap().1, None, "{name} with no exporter");
        }
    }
    let none = [("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense://"), ("OTEL_TRACES_EXPORTER", "none")];
    assert_eq!(with("", &none).unwrap().1, None, "an endpoint that is not used is not judged");
}

#[test]
fn an_endpoint_of_the_file_speaks_grpc_whatever_the_environment_says() {
    let file = "tracing: {endpoint: \"http://127.0.0.1:1\"}";
    for other in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense://"),
        ("OTEL_TRACES_EXPORTER", "console"),
    ] {
        assert_eq!(with(file, &[other]).unwrap().1.unwrap().collector.port, 1, "{other:?}");
    }
    let sampling = file.replace('}', ", sampling: {parent: true, ratio: 5%}}");
    assert_eq!(with(&sampling, &[("OTEL_TRACES_SAMPLER", "xray")]).unwrap().1.unwrap().ratio_ppm, 50_000);
    assert!(with(file, &[("OTEL_TRACES_SAMPLER", "xray")]).is_err(), "it would be used");
}

#[test]
fn a_variable_that_is_no_text_is_named_and_not_taken_as_unset() {
    let env = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://collector:4317".into()),
        "OTEL_SERVICE_NAME" => Some(OsStr::from_bytes(b"till-\xff").to_owned()),
        _ => None,
    };
    let said = decided("", env).unwrap_err();
    assert!(said.starts_with("OTEL_SERVICE_NAME: ") && said.contains("UTF-8; "), "{said}");
}

#[test]
fn the_defaults_are_those_of_the_specification() {
    let settings = set(&[]);
    assert_eq!(settings.collector, Collector { tls: false, host: "collector".to_owned(), port: 4_317 });
    assert_eq!(
        (settings.timeout, settings.export_timeout),
        (Duration::from_secs(10), Duration::from_secs(30))
    );
    assert_eq!((settings.delay, settings.batch, settings.bound), (Duration::from_secs(5), 512, 2_048));
    assert_eq!((settings.parent, settings.ratio_ppm, settings.rate), (true, 1_000_000, None));
    assert!(!settings.gzip && settings.headers.is_empty());
    assert!(settings.resource.contains(&("service.name".to_owned(), "orders.shop".to_owned())));
    assert!(settings.resource.contains(&("service.namespace".to_owned(), "shop".to_owned())));
}

#[test]
fn the_file_wins_over_the_environment() {
    let file = "tracing: {endpoint: \"http://127.0.0.1:1\", propagate: [b3], sampling: {parent: false, ratio: 20%, \
                rate: 7/s}}\nlimits: {spans: 10}\n";
    let variables = [
        ENDPOINT,
        ("OTEL_PROPAGATORS", "tracecontext"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99"),
    ];
    let (propagate, settings) = with(file, &variables).unwrap();
    let settings = settings.unwrap();
    assert_eq!(propagate, Formats::of(&[Propagation::B3]));
    assert_eq!(settings.collector.port, 1);
    assert_eq!((settings.parent, settings.ratio_ppm, settings.rate), (false, 200_000, Some(7)));
    assert_eq!((settings.bound, settings.batch), (10, 10), "a batch is no larger than the queue");
    let queue = [ENDPOINT, ("OTEL_BSP_MAX_QUEUE_SIZE", "99")];
    let bound = |file| with(file, &queue).unwrap().1.unwrap().bound;
    assert_eq!(bound("limits: {spans: 2048}"), 2_048, "the default counts too, if the file says it");
    assert_eq!(bound("limits: {calls: 10}"), 99);
}

#[test]
fn recording_can_be_switched_off_whatever_else_is_said() {
    for off in
        [("OTEL_SDK_DISABLED", "true"), ("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")]
    {
        assert_eq!(with("tracing: {endpoint: \"http://127.0.0.1:1\"}", &[off]).unwrap().1, None, "{off:?}");
    }
    let (_, settings) = with("", &[ENDPOINT, ("OTEL_SDK_DISABLED", "no")]).unwrap();
    assert!(settings.is_some(), "anything but true is false");
    let disabled = with("", &[("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "nonsense")]);
    assert!(disabled.is_ok(), "what is not used is not judged");
}

#[test]
fn otlp_that_is_asked_for_without_a_place_goes_to_the_default_of_otlp() {
    let settings = with("", &[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().1.unwrap();
    assert_eq!(settings.collector.to_string(), "http://localhost:4317");
    let list = [ENDPOINT, ("OTEL_TRACES_EXPORTER", "console, otlp")];
    assert!(with("", &list).unwrap().1.is_some(), "who else gets spans is none of ours");
}

#[test]
fn what_is_said_of_traces_wins_over_what_is_said_of_all_signals() {
    let settings = set(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=all"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=traces"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "never"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all.crt"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.crt"),
    ]);
    assert_eq!((settings.headers[0].1.to_str().unwrap(), settings.headers.len()), ("traces", 1));
    assert_eq!(settings.timeout, Duration::from_millis(7));
    assert_eq!(settings.roots.as_deref(), Some(std::path::Path::new("/traces.crt")));
}

#[test]
fn the_variables_that_are_read_are_those_of_the_page() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tracing.md");
    let page = std::fs::read_to_string(path).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `OTEL_"));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`'))
        .filter(|word| word.starts_with("OTEL_"))
        .map(str::to_owned)
        .collect();
    let asked = RefCell::new(BTreeSet::new());
    let env = |name: &str| {
        asked.borrow_mut().insert(name.replace("_OTLP_TRACES_", "_OTLP_"));
        let sampler = (name == "OTEL_TRACES_SAMPLER").then_some("traceidratio");
        let value = if name == ENDPOINT.0 { Some(ENDPOINT.1) } else { sampler };
        value.map(OsString::from)
    };
    assert!(decided("", env).unwrap().settings.is_some());
    assert_eq!(documented, asked.into_inner());
}

#[test]
fn endpoints_are_urls_and_what_is_said_of_traces_comes_first() {
    for (url, read) in [
        ("http://a:1", "http://a:1"),
        ("http://a:1/", "http://a:1"),
        ("https://a.example", "https://a.example:4317"),
        ("http://[::1]:4317", "http://[::1]:4317"),
        ("a:4317", "https://a:4317"),
    ] {
        let name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        assert_eq!(
            with("", &[ENDPOINT, (name, url)]).unwrap().1.unwrap().collector.to_string(),
            read,
            "{url}"
        );
    }
    let insecure = [("OTEL_EXPORTER_OTLP_ENDPOINT", "a:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")];
    assert_eq!(with("", &insecure).unwrap().1.unwrap().collector.to_string(), "http://a:4317");
    for bad in ["grpc://a:1", "http://a:1/v1/traces", "http://:4317", "http://a:0", "http://a:99999"] {
        fault("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", bad);
        let source = format!("{FILE}tracing: {{endpoint: \"{bad}\"}}");
        let source = config::Source { name: "sidecar.yaml", text: &source };
        assert!(config::parse_sidecar(source).is_err(), "the file has the same rule: {bad}");
    }
    let source = format!("{FILE}tracing: {{endpoint: \"http://user:s3cr3t@a:1\"}}");
    let said = config::parse_sidecar(config::Source { name: "sidecar.yaml", text: &source }).unwrap_err();
    assert!(!said.to_string().contains("s3cr3t"), "{said}");
    let said = fault("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:s3cr3t@a:1");
    assert!(!said.contains("s3cr3t"), "{said}");
}

#[test]
fn samplers_are_those_of_the_specification() {
    for (sampler, ratio, expected) in [
        ("always_on", "", (false, 1_000_000)),
        ("always_off", "", (false, 0)),
        ("traceidratio", "0.25", (false, 250_000)),
        ("parentbased_always_on", "", (true, 1_000_000)),
        ("parentbased_always_off", "", (true, 0)),
        ("parentbased_traceidratio", "0.000001", (true, 1)),
        ("parentbased_traceidratio", "", (true, 1_000_000)),
    ] {
        let settings = set(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", ratio)]);
        assert_eq!((settings.parent, settings.ratio_ppm), expected, "{sampler} {ratio}");
    }
    for bad in ["jaeger_remote", "parentbased_xray", "ALWAYS_ON"] {
        assert!(fault("OTEL_TRACES_SAMPLER", bad).contains("parentbased_"));
    }
    for bad in ["1.1", "-0.1", "20%", "NaN"] {
        let given = [ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", bad)];
        assert!(with("", &given).unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG: "), "{bad}");
    }
}

#[test]
fn propagators_are_those_that_the_sidecar_speaks() {
    let propagate = |list| with("", &[("OTEL_PROPAGATORS", list)]).unwrap().0;
    assert_eq!(propagate("tracecontext,baggage"), Formats::of(&[Propagation::W3c]));
    assert_eq!(propagate("b3, b3multi"), Formats::of(&[Propagation::B3, Propagation::B3Multi]));
    assert_eq!(propagate("none"), Formats::default());
    for (list, known, left) in
        [("xray", &[][..], "`xray`"), ("jaeger,tracecontext", &[Propagation::W3c][..], "`jaeger`")]
    {
        let decided = decided("", |name| (name == "OTEL_PROPAGATORS").then(|| list.into())).unwrap();
        assert_eq!(decided.propagate, Formats::of(known), "{list}");
        let [note] = &decided.notes[..] else { panic!("one note: {:?}", decided.notes) };
        assert!(note.starts_with("OTEL_PROPAGATORS: ") && note.contains(left), "{note}");
    }
}

#[test]
fn the_exporter_is_set_by_its_variables() {
    let settings = set(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abc, x-tenant=a%2Cb"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/tls.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/tls.key"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "900"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
    ]);
    let header = |name| settings.headers.iter().find(|(known, _)| known == name).unwrap().1.to_str().unwrap();
    assert_eq!((header("authorization"), header("x-tenant")), ("Bearer abc", "a,b"));
    assert_eq!((settings.timeout.as_millis(), settings.export_timeout.as_millis()), (250, 900));
    assert!(settings.gzip);
    assert_eq!(settings.roots.as_deref(), Some(std::path::Path::new("/ca.crt")));
    assert_eq!(settings.client, Some(("/tls.crt".into(), "/tls.key".into())));
    assert_eq!((settings.delay.as_millis(), settings.bound, settings.batch), (100, 100, 10));
}

#[test]
fn a_variable_that_cannot_be_used_is_named_with_what_would_be_right() {
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/tls.key"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "token"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "grpc-timeout=1S"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Connection=close"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "te=gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", ":path=/"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
    ] {
        fault(name, value);
    }
    let secret = fault("OTEL_EXPORTER_OTLP_HEADERS", "s3cr3t%zz=1");
    assert!(!secret.contains("s3cr3t"), "{secret}");
    let both =
        with("", &[ENDPOINT, ("OTEL_TRACES_SAMPLER", "x"), ("OTEL_BSP_SCHEDULE_DELAY", "y")]).unwrap_err();
    assert_eq!(both.lines().count(), 2, "all at once: {both}");
}

#[test]
fn a_resource_is_named_by_its_variable_its_attributes_or_the_file_in_this_order() {
    let name = |variables: &[(&str, &str)]| {
        let resource = set(variables).resource;
        let mut named = resource.iter().filter(|(key, _)| key == "service.name");
        let value = named.next().unwrap().1.clone();
        assert!(named.next().is_none());
        value
    };
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=b,deployment.environment.name=test%20one");
    assert_eq!(name(&[]), "orders.shop");
    assert_eq!(name(&[attributes]), "b");
    assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "a")]), "a");
    let resource = set(&[attributes]).resource;
    assert!(resource.contains(&("deployment.environment.name".to_owned(), "test one".to_owned())));
}
