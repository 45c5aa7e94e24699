//! What cannot be honoured is refused, with its path; what can be, from whoever writes it, is read as it is meant.

use config::model::{HeaderValueMatch, MethodMatch, Unmatched};
use config::repeats::Repeats;
use envoy_types::pb::envoy::config::core::v3::{
    self as core, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use outrigger_xds::decode::parts::{ListenerPart, RoutePart, RoutesPart};
use outrigger_xds::{Kind, Own, Part, Refusal, decode};
use prost::{Message, Name};

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn read(kind: Kind, message: &impl Message) -> Result<Part, Refusal> {
    let own = Own { trust_domain: "own.local".into(), namespace: "own".into() };
    decode::decode(kind, "a.shop", &message.encode_to_vec(), &own)
}

/// A route that another control plane may send.
fn route() -> (pb::Route, pb::RouteAction, pb::RouteMatch) {
    let matches = pb::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".into())),
        ..pb::RouteMatch::default()
    };
    let action = pb::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
        ..pb::RouteAction::default()
    };
    (pb::Route::default(), action, matches)
}

fn config(
    change: impl FnOnce(&mut pb::Route, &mut pb::RouteAction, &mut pb::RouteMatch),
) -> pb::RouteConfiguration {
    let (mut route, mut action, mut matches) = self::route();
    change(&mut route, &mut action, &mut matches);
    if route.action.is_none() {
        route.action = Some(Action::Route(action));
    }
    route.r#match = Some(matches);
    let host =
        pb::VirtualHost { domains: vec!["*".into()], routes: vec![route], ..pb::VirtualHost::default() };
    pb::RouteConfiguration {
        name: "a.shop".into(),
        virtual_hosts: vec![host],
        ..pb::RouteConfiguration::default()
    }
}

fn refused(change: impl FnOnce(&mut pb::Route, &mut pb::RouteAction, &mut pb::RouteMatch)) -> String {
    match read(Kind::Routes, &config(change)) {
        Err(refusal) => {
            assert!(!refusal.why.is_empty());
            refusal.path.strip_prefix("virtual_hosts[0].routes[0].").unwrap_or(&refusal.path).to_owned()
        }
        Ok(part) => panic!("taken: {part:?}"),
    }
}

fn taken(change: impl FnOnce(&mut pb::Route, &mut pb::RouteAction, &mut pb::RouteMatch)) -> RoutePart {
    routes(&config(change)).virtual_hosts.remove(0).routes.remove(0)
}

fn routes(config: &pb::RouteConfiguration) -> RoutesPart {
    match read(Kind::Routes, config) {
        Ok(Part::Routes(part)) => part,
        other => panic!("{other:?}"),
    }
}

fn header(name: &str, specifier: HeaderMatchSpecifier) -> pb::HeaderMatcher {
    pb::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(specifier),
        ..pb::HeaderMatcher::default()
    }
}

fn string(pattern: MatchPattern) -> HeaderMatchSpecifier {
    HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case: false, match_pattern: Some(pattern) })
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.into(), ..RegexMatcher::default() }
}

#[test]
fn what_a_match_cannot_be_is_refused_by_its_path() {
    assert_eq!(refused(|_, _, m| m.path_specifier = None), "match");
    let path = |path: PathSpecifier| refused(|_, _, m| m.path_specifier = Some(path));
    assert_eq!(path(PathSpecifier::ConnectMatcher(Default::default())), "match.connect_matcher");
    assert_eq!(path(PathSpecifier::PathMatchPolicy(Default::default())), "match.path_match_policy");
    assert_eq!(path(PathSpecifier::Prefix("a".into())), "match.prefix");
    assert_eq!(path(PathSpecifier::Path("a.B/C".into())), "match.path");
    assert_eq!(path(PathSpecifier::PathSeparatedPrefix("/a/b".into())), "match.path_separated_prefix");
    for text in [".*", "(/a|/b)", "/+a", "/a|b", "(?i)/a"] {
        assert_eq!(path(PathSpecifier::SafeRegex(regex(text))), "match.safe_regex", "{text}");
    }
    assert_eq!(path(PathSpecifier::SafeRegex(regex("/(a"))), "match.safe_regex.regex");
    assert_eq!(path(PathSpecifier::SafeRegex(regex("/(a{9}{9}{9}{9}{9})"))), "match.safe_regex.regex");

    assert_eq!(
        refused(|_, _, m| m.case_sensitive = Some(BoolValue { value: false })),
        "match.case_sensitive"
    );
    assert_eq!(refused(|_, _, m| m.runtime_fraction = Some(Default::default())), "match.runtime_fraction");
    assert_eq!(refused(|_, _, m| m.query_parameters.push(Default::default())), "match.query_parameters");
    assert_eq!(refused(|_, _, m| m.cookies.push(Default::default())), "match.cookies");
    assert_eq!(refused(|_, _, m| m.grpc = Some(Default::default())), "match.grpc");
    assert_eq!(refused(|_, _, m| m.tls_context = Some(Default::default())), "match.tls_context");
    assert_eq!(refused(|_, _, m| m.dynamic_metadata.push(Default::default())), "match.dynamic_metadata");
    assert_eq!(refused(|_, _, m| m.filter_state.push(Default::default())), "match.filter_state");

    let one = |matcher: pb::HeaderMatcher| refused(|_, _, m| m.headers.push(matcher));
    let range = HeaderMatchSpecifier::RangeMatch(Int64Range { start: 1, end: 2 });
    assert_eq!(one(header("x", range)), "match.headers[0].range_match");
    assert_eq!(one(header(":method", HeaderMatchSpecifier::PresentMatch(true))), "match.headers[0].name");
    assert_eq!(one(header("no name", HeaderMatchSpecifier::PresentMatch(true))), "match.headers[0].name");
    assert_eq!(one(header(":path", HeaderMatchSpecifier::PresentMatch(true))), "match.headers[0]");
    assert_eq!(one(header(":authority", string(MatchPattern::Prefix("a".into())))), "match.headers[0]");
    // Routes do not see ports, so that this one would never be taken.
    assert_eq!(
        one(header(":authority", string(MatchPattern::Exact("a.shop:50051".into())))),
        "match.headers[0]"
    );
    let custom = string(MatchPattern::Custom(Default::default()));
    assert_eq!(one(header("x", custom)), "match.headers[0].string_match.custom");
    let missing = pb::HeaderMatcher {
        treat_missing_header_as_empty: true,
        ..header("x", string(MatchPattern::Exact(String::new())))
    };
    assert_eq!(one(missing), "match.headers[0].treat_missing_header_as_empty");
}

#[test]
fn what_an_action_cannot_be_is_refused_by_its_path() {
    let action = |action: Action| refused(|r, _, _| r.action = Some(action));
    assert_eq!(action(Action::Redirect(Default::default())), "redirect");
    assert_eq!(action(Action::DirectResponse(Default::default())), "direct_response");
    assert_eq!(action(Action::FilterAction(Default::default())), "filter_action");
    assert_eq!(action(Action::NonForwardingAction(Default::default())), "non_forwarding_action");

    let cluster = |specifier: ClusterSpecifier| refused(|_, a, _| a.cluster_specifier = Some(specifier));
    assert_eq!(cluster(ClusterSpecifier::ClusterHeader("x".into())), "route.cluster_header");
    assert_eq!(
        cluster(ClusterSpecifier::ClusterSpecifierPlugin("x".into())),
        "route.cluster_specifier_plugin"
    );
    assert_eq!(cluster(ClusterSpecifier::Cluster(String::new())), "route.cluster");
    let weighted = |change: &dyn Fn(&mut pb::weighted_cluster::ClusterWeight)| {
        let mut one = pb::weighted_cluster::ClusterWeight {
            name: "c".into(),
            weight: Some(UInt32Value { value: 1 }),
            ..Default::default()
        };
        change(&mut one);
        cluster(ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
            clusters: vec![one],
            ..Default::default()
        }))
    };
    assert_eq!(weighted(&|one| one.weight = None), "route.weighted_clusters.clusters");
    assert_eq!(weighted(&|one| one.name.clear()), "route.weighted_clusters.clusters[0].name");
    assert_eq!(
        weighted(&|one| one.request_headers_to_remove.push("x".into())),
        "route.weighted_clusters.clusters[0].request_headers_to_remove"
    );

    assert_eq!(refused(|_, a, _| a.prefix_rewrite = "/".into()), "route.prefix_rewrite");
    assert_eq!(refused(|_, a, _| a.regex_rewrite = Some(Default::default())), "route.regex_rewrite");
    assert_eq!(
        refused(
            |_, a, _| a.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral("h".into()))
        ),
        "route.host_rewrite_specifier"
    );
    assert_eq!(
        refused(|_, a, _| a.request_mirror_policies.push(RequestMirrorPolicy::default())),
        "route.request_mirror_policies"
    );
    assert_eq!(refused(|_, a, _| a.rate_limits.push(Default::default())), "route.rate_limits");
    assert_eq!(refused(|_, a, _| a.metadata_match = Some(Default::default())), "route.metadata_match");
    assert_eq!(refused(|_, a, _| a.idle_timeout = seconds(-1)), "route.idle_timeout");
    assert_eq!(refused(|_, a, _| a.idle_timeout = seconds(31_536_001)), "route.idle_timeout");
    assert_eq!(
        refused(|_, a, _| {
            a.timeout = seconds(1);
            a.max_stream_duration = Some(MaxStreamDuration::default());
        }),
        "route.timeout"
    );
    let long = MaxStreamDuration {
        max_stream_duration: seconds(2),
        grpc_timeout_header_max: seconds(1),
        grpc_timeout_header_offset: None,
    };
    assert_eq!(
        refused(|_, a, _| a.max_stream_duration = Some(long)),
        "route.max_stream_duration.max_stream_duration"
    );
}

#[test]
fn retries_that_cannot_be_are_refused_by_their_path() {
    let retry = |policy: pb::RetryPolicy| refused(|_, a, _| a.retry_policy = Some(policy));
    let on = |retry_on: &str| pb::RetryPolicy { retry_on: retry_on.into(), ..Default::default() };
    assert_eq!(retry(on("unavailable,5xx")), "route.retry_policy.retry_on");
    let many = pb::RetryPolicy { num_retries: Some(UInt32Value { value: 10 }), ..on("unavailable") };
    assert_eq!(retry(many), "route.retry_policy.num_retries");
    let by_header = pb::RetryPolicy {
        retriable_headers: vec![header("x", HeaderMatchSpecifier::PresentMatch(true))],
        ..on("retriable-headers")
    };
    assert_eq!(retry(by_header), "route.retry_policy.retriable_headers[0]");
    let idle = pb::RetryPolicy { per_try_idle_timeout: seconds(1), ..on("unavailable") };
    assert_eq!(retry(idle), "route.retry_policy.per_try_idle_timeout");
    let backoff = pb::retry_policy::RetryBackOff { base_interval: seconds(2), max_interval: seconds(1) };
    let backoff = pb::RetryPolicy { retry_back_off: Some(backoff), ..on("unavailable") };
    assert_eq!(retry(backoff), "route.retry_policy.retry_back_off.max_interval");
    let chance =
        pb::HedgePolicy { additional_request_chance: Some(Default::default()), ..Default::default() };
    assert_eq!(
        refused(|_, a, _| a.hedge_policy = Some(chance)),
        "route.hedge_policy.additional_request_chance"
    );
}

#[test]
fn header_changes_and_filters_that_cannot_be_are_refused_by_their_path() {
    let add = |key: &str, value: &str, action: i32| {
        let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        core::HeaderValueOption { header: Some(header), append_action: action, ..Default::default() }
    };
    let one = |option: core::HeaderValueOption| refused(|r, _, _| r.request_headers_to_add.push(option));
    assert_eq!(one(add("grpc-timeout", "1S", 0)), "request_headers_to_add[0].header.key");
    assert_eq!(one(add("x", "%REQ(y)%", 0)), "request_headers_to_add[0].header.value");
    assert_eq!(one(add("x", "", 0)), "request_headers_to_add[0].keep_empty_value");
    assert_eq!(one(add("x", "1", 1)), "request_headers_to_add[0].append_action");
    assert_eq!(
        refused(|r, _, _| r.response_headers_to_add = vec![add("x", "1", 0), add("x", "2", 2)]),
        "response_headers_to_add[1]"
    );
    assert_eq!(
        refused(|r, _, _| r.response_headers_to_remove.push("content-type".into())),
        "response_headers_to_remove[0]"
    );
    let filter = |name: &str, config: Any| {
        refused(|r, _, _| {
            r.typed_per_filter_config.insert(name.into(), config);
        })
    };
    assert_eq!(filter("x", any(&Router::default())), "typed_per_filter_config[\"x\"]");
    let fault = HttpFault { upstream_cluster: "c".into(), ..Default::default() };
    assert_eq!(
        filter("envoy.filters.http.fault", any(&fault)),
        "typed_per_filter_config[\"envoy.filters.http.fault\"].upstream_cluster"
    );
    assert_eq!(
        refused(|r, _, _| r.route_specifiers.push(core::TypedExtensionConfig::default())),
        "route_specifiers"
    );
}

#[test]
fn what_is_said_beside_the_routes_is_refused_by_its_path() {
    let path = |change: &dyn Fn(&mut pb::RouteConfiguration)| {
        let mut config = config(|_, _, _| {});
        change(&mut config);
        read(Kind::Routes, &config).expect_err("it cannot be honoured").path
    };
    assert_eq!(path(&|c| c.name = "other".into()), "name");
    assert_eq!(path(&|c| c.vhds = Some(pb::Vhds::default())), "vhds");
    assert_eq!(path(&|c| c.ignore_port_in_host_matching = true), "ignore_port_in_host_matching");
    assert_eq!(path(&|c| c.request_headers_to_remove.push("x".into())), "request_headers_to_remove");
    assert_eq!(path(&|c| c.virtual_hosts[0].require_tls = 2), "virtual_hosts[0].require_tls");
    assert_eq!(
        path(&|c| c.virtual_hosts[0].rate_limits.push(Default::default())),
        "virtual_hosts[0].rate_limits"
    );
    assert_eq!(path(&|c| c.virtual_hosts[0].domains[0] = "a*b".into()), "virtual_hosts[0].domains[0]");

    // A field that this version has never heard of: number 999 of the first virtual host.
    let mut host = config(|_, _, _| {}).virtual_hosts.remove(0).encode_to_vec();
    host.extend([0xba, 0x3e, 1, b'x']);
    let mut bytes = vec![0x0a, 6];
    bytes.extend(b"a.shop");
    bytes.extend([0x12, u8::try_from(host.len()).unwrap()]);
    bytes.extend(host);
    let own = Own { trust_domain: String::new(), namespace: String::new() };
    let refusal = decode::decode(Kind::Routes, "a.shop", &bytes, &own).unwrap_err();
    assert!(refusal.why.contains("2.999"), "{refusal}");
    assert!(decode::decode(Kind::Routes, "a.shop", &bytes[..20], &own).is_err(), "cut off");
}

fn manager() -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::RouteSpecifier;

    let source = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
        resource_api_version: ApiVersion::V3.into(),
        ..Default::default()
    };
    let router = hcm::HttpFilter {
        name: "router".into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(source),
            route_config_name: "r".into(),
        })),
        http_filters: vec![router],
        ..Default::default()
    }
}

fn listener(manager: &hcm::HttpConnectionManager) -> Listener {
    Listener {
        name: "a.shop".into(),
        api_listener: Some(ApiListener { api_listener: Some(any(manager)) }),
        ..Default::default()
    }
}

#[test]
fn what_a_listener_cannot_be_is_refused_by_its_path() {
    let path = |change: &dyn Fn(&mut Listener)| {
        let mut listener = listener(&manager());
        change(&mut listener);
        read(Kind::Listener, &listener).expect_err("it cannot be honoured").path
    };
    assert_eq!(path(&|l| l.api_listener = None), "api_listener");
    assert_eq!(path(&|l| l.filter_chains.push(FilterChain::default())), "filter_chains");
    assert_eq!(path(&|l| l.listener_filters.push(Default::default())), "listener_filters");
    let inside = |change: &dyn Fn(&mut hcm::HttpConnectionManager)| {
        let mut manager = manager();
        change(&mut manager);
        let path = read(Kind::Listener, &listener(&manager)).expect_err("it cannot be honoured").path;
        path.strip_prefix("api_listener.api_listener.").expect("inside").to_owned()
    };
    assert_eq!(inside(&|m| m.stream_idle_timeout = seconds(300)), "stream_idle_timeout");
    assert_eq!(inside(&|m| m.route_specifier = None), "rds");
    assert_eq!(inside(&|m| m.upgrade_configs.push(Default::default())), "upgrade_configs");
    let unknown = |is_optional: bool| hcm::HttpFilter {
        name: "x".into(),
        is_optional,
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(&pb::Route::default()))),
        ..Default::default()
    };
    assert_eq!(inside(&|m| m.http_filters.insert(0, unknown(false))), "http_filters[0].typed_config");
    let mut optional = manager();
    optional.http_filters.insert(0, unknown(true));
    assert!(read(Kind::Listener, &listener(&optional)).is_ok(), "calls may go without an optional filter");
}

#[test]
fn a_listener_of_another_control_plane_is_the_service_it_is_called_like() {
    let Part::Listener(ListenerPart::Service(part)) = read(Kind::Listener, &listener(&manager())).unwrap()
    else {
        panic!("a service")
    };
    assert_eq!((&*part.service, &*part.namespace, &part.said), ("a", "shop", &None));
    let routes = routes(&config(|_, _, _| {}));
    let host = routes.of(&part).expect("`*` is for all");
    assert_eq!(host.hosts_and_ports(&part), (vec!["a.shop".to_owned()], vec![]));
    assert_eq!(host.unmatched, Unmatched::Refuse, "what no route takes ends");
    let named = [(Kind::Routes, "r".to_owned())];
    assert_eq!(read(Kind::Listener, &listener(&manager())).unwrap().needs(), named);
    assert_eq!(read(Kind::Routes, &config(|_, _, _| {})).unwrap().needs(), [(Kind::Cluster, "c".to_owned())]);
}

#[test]
fn what_others_write_is_read_as_it_is_meant() {
    let second = std::time::Duration::from_secs(1);
    // Envoy's time limit holds for every call.
    let deadline = taken(|_, a, _| a.timeout = seconds(1)).policy.deadline;
    assert_eq!((deadline.default, deadline.max), (Some(second), Some(second)));
    let only = MaxStreamDuration { max_stream_duration: seconds(1), ..Default::default() };
    let deadline = taken(|_, a, _| a.max_stream_duration = Some(only)).policy.deadline;
    assert_eq!((deadline.default, deadline.max), (Some(second), Some(second)));
    let both = MaxStreamDuration { grpc_timeout_header_max: seconds(0), ..only };
    let deadline = taken(|_, a, _| a.max_stream_duration = Some(both)).policy.deadline;
    assert_eq!((deadline.default, deadline.max), (Some(second), None));
    assert_eq!(taken(|_, _, _| {}).policy.deadline.max, None, "no 15 s where nothing is said");

    // What is turned around does not match a call without the header, unless that counts as empty.
    let inverted = |as_empty: bool| {
        let matcher = pb::HeaderMatcher {
            invert_match: true,
            treat_missing_header_as_empty: as_empty,
            ..header("X-Canary", string(MatchPattern::Exact("1".into())))
        };
        taken(|_, _, m| m.headers.push(matcher)).matches.headers
    };
    assert_eq!(inverted(true).len(), 1);
    let headers = inverted(false);
    assert!(matches!(headers[0].value, HeaderValueMatch::Present(true)) && !headers[0].invert);
    assert!(matches!(&headers[1].value, HeaderValueMatch::Exact(one) if one == "1") && headers[1].invert);
    assert_eq!(headers[1].name, "x-canary");

    let header_regex = |pattern: MatchPattern, ignore_case: bool| {
        let matcher = StringMatcher { ignore_case, match_pattern: Some(pattern) };
        let matcher = header("x", HeaderMatchSpecifier::StringMatch(matcher));
        match taken(|_, _, m| m.headers.push(matcher)).matches.headers.remove(0).value {
            HeaderValueMatch::Regex(regex) => regex,
            other => panic!("{other:?}"),
        }
    };
    let suffix = header_regex(MatchPattern::Suffix(".b".into()), false);
    assert!(suffix.is_match("a.b") && !suffix.is_match("a.bc") && !suffix.is_match("axb"));
    let contains = header_regex(MatchPattern::Contains("b".into()), true);
    assert!(contains.is_match("aBc") && !contains.is_match("ac"));
    let exact = header_regex(MatchPattern::Exact("Ab".into()), true);
    assert!(exact.is_match("aB") && !exact.is_match("aBc"));

    let method = |path: PathSpecifier| taken(|_, _, m| m.path_specifier = Some(path)).matches;
    assert_eq!(method(PathSpecifier::Prefix("/shop.Orders/".into())).service.as_deref(), Some("shop.Orders"));
    assert_eq!(
        method(PathSpecifier::PathSeparatedPrefix("/shop.Orders".into())).service.as_deref(),
        Some("shop.Orders")
    );
    match method(PathSpecifier::SafeRegex(regex("^/a\\.B/.*|/c\\.D/[|]"))).method {
        Some(MethodMatch::Regex(regex)) => assert_eq!(regex.as_str(), "^(?:a\\.B/.*|c\\.D/[|])$"),
        other => panic!("{other:?}"),
    }

    let retry = pb::RetryPolicy {
        retry_on: "unavailable, connect-failure,retriable-headers".into(),
        retriable_headers: vec![header("grpc-status", string(MatchPattern::Exact("10".into())))],
        ..Default::default()
    };
    match taken(|_, a, _| a.retry_policy = Some(retry.clone())).policy.repeats {
        Repeats::Retries(rule) => {
            assert_eq!(rule.max_attempts, 2);
            assert_eq!(rule.codes.names().collect::<Vec<_>>(), ["ABORTED", "UNAVAILABLE"]);
            assert_eq!(rule.backoff.initial.as_millis(), 25);
            assert_eq!(rule.backoff.max.as_millis(), 250);
        }
        other => panic!("{other:?}"),
    }
    let mut inherited = config(|_, _, _| {});
    inherited.virtual_hosts[0].retry_policy = Some(retry);
    let part = routes(&inherited).virtual_hosts.remove(0).routes.remove(0);
    assert!(part.policy.repeats.retries().is_some(), "the virtual host's policy is for routes without one");
    let always = pb::RetryPolicy { retry_on: "connect-failure,refused-stream".into(), ..Default::default() };
    assert_eq!(taken(|_, a, _| a.retry_policy = Some(always)).policy.repeats, Repeats::Unprocessed);
    // Hash policies mean something to clusters that balance by hash only, and those are refused.
    taken(|_, a, _| a.hash_policy.push(HashPolicy::default()));
}
