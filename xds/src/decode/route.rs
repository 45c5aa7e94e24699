//! Reads one route of a virtual host. What our own control plane says of a service or a method is written like a route, too.

use config::check;
use config::model::{CallKind, Method, MethodMatch, Policy, Stream, Unmatched};

use crate::decode::at::{At, understood};
use crate::decode::parts::{BackendPart, RoutePart, VirtualHostPart};
use crate::decode::{fault, matches, policy, retries};
use crate::pb::route::route::Action;
use crate::pb::route::route_action::ClusterSpecifier;
use crate::pb::route::weighted_cluster::ClusterWeight;
use crate::pb::route::{HedgePolicy, RetryPolicy, Route, RouteAction, WeightedCluster};
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::roles;
use crate::wire::read_limit;

/// What the virtual host says for routes that say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fallback<'a> {
    pub(crate) retry: Option<&'a RetryPolicy>,
    pub(crate) hedge: Option<&'a HedgePolicy>,
}

/// Reads a route into `host`.
pub(crate) fn read(
    route: &Route,
    fallback: Fallback<'_>,
    host: &mut VirtualHostPart,
    at: &At<'_>,
) -> Result<(), Refusal> {
    let beside = at.entry("metadata.typed_filter_metadata", crate::private::KEY);
    let private = Reader::of_metadata(route.metadata.as_ref(), roles::ROUTE, beside)?;
    let mut private = private.unwrap_or_else(|| Reader::empty(beside));
    let role = private.text(roles::ROLE)?;
    let part = part(route, fallback, &mut private, at)?;
    match role.as_deref() {
        None => host.routes.push(part),
        Some(roles::SERVICE) => {
            host.policy = part.policy;
            host.unmatched = match private.flag(roles::REFUSE)? {
                true => Unmatched::Refuse,
                false => Unmatched::Forward,
            };
        }
        Some(roles::METHOD) => {
            let Some(MethodMatch::Exact(name)) = part.matches.method else {
                return Err(at.field("match").refuse("a method is matched by its path"));
            };
            check::method(&name).map_err(|why| at.field("match.path").refuse(why))?;
            host.methods.insert(name, method(part.policy, &mut private, &beside)?);
        }
        Some(other) => {
            return Err(beside.field(roles::ROLE).refuse(format!("{other:?} is not known to this version")));
        }
    }
    private.finish()
}

fn method(policy: Policy, private: &mut Reader<'_>, at: &At<'_>) -> Result<Method, Refusal> {
    let kind = match private.text(roles::TYPE)? {
        None => None,
        Some(word) => Some(kind(&word).ok_or_else(|| at.field(roles::TYPE).refuse("it is no kind of call"))?),
    };
    let blocks = private.texts(roles::BLOCKS)?.unwrap_or_default();
    let has = |block: &str| blocks.iter().any(|name| name == block);
    let Policy { deadline, stream, headers, repeats, injection } = policy;
    Ok(Method {
        kind,
        idempotent: !private.flag(roles::NOT_IDEMPOTENT)?,
        deadline: has(roles::DEADLINE).then_some(deadline),
        stream: has(roles::STREAM).then_some(stream),
        headers: has(roles::HEADERS).then_some(headers),
        repeats: has(roles::REPEATS).then_some(repeats),
        injection: has(roles::FAULTS).then_some(injection),
    })
}

fn kind(word: &str) -> Option<CallKind> {
    let kinds = [CallKind::Unary, CallKind::ClientStream, CallKind::ServerStream, CallKind::BidiStream];
    kinds.into_iter().find(|kind| kind.as_str() == word)
}

fn part(
    route: &Route,
    fallback: Fallback<'_>,
    private: &mut Reader<'_>,
    at: &At<'_>,
) -> Result<RoutePart, Refusal> {
    #[allow(deprecated)]
    {
        understood! {
            route => Route, at;
            take {
                r#match, action, typed_per_filter_config, request_headers_to_add, request_headers_to_remove,
                response_headers_to_add, response_headers_to_remove, request_body_buffer_limit
            }
            // Names for traces and statistics; metadata is read before.
            ignore { name, metadata, decorator, tracing, stat_prefix }
            refuse "write `request_body_buffer_limit`" { per_request_buffer_limit_bytes }
            refuse "routes are not extended" { route_specifiers }
        }
        let Some(matches) = r#match else {
            return Err(at.field("match").refuse("there is none; write `prefix: /` for every call"));
        };
        let matches = matches::read(matches, private, &at.field("match"))?;
        let action = forwarding(action.as_ref(), at)?;
        let here = at.field("route");
        let (backends, mut policy) =
            forward(action, fallback, request_body_buffer_limit.as_ref(), private, &here)?;
        policy.headers.request = policy::changes(
            request_headers_to_add,
            request_headers_to_remove,
            ("request_headers_to_add", "request_headers_to_remove"),
            at,
        )?;
        policy.headers.response = policy::changes(
            response_headers_to_add,
            response_headers_to_remove,
            ("response_headers_to_add", "response_headers_to_remove"),
            at,
        )?;
        policy.injection = fault::read(typed_per_filter_config, private, at)?;
        Ok(RoutePart { matches, backends, policy })
    }
}

fn forwarding<'a>(action: Option<&'a Action>, at: &At<'_>) -> Result<&'a RouteAction, Refusal> {
    let (field, why) = match action {
        Some(Action::Route(action)) => return Ok(action),
        Some(Action::Redirect(_)) => ("redirect", "a gRPC client follows no redirect"),
        Some(Action::DirectResponse(_)) => (
            "direct_response",
            "calls are not answered here; leave the route out, and they end UNIMPLEMENTED",
        ),
        Some(Action::FilterAction(_)) => ("filter_action", "filters do not answer calls"),
        Some(Action::NonForwardingAction(_)) => {
            ("non_forwarding_action", "it is for servers; calls of an app go to a cluster")
        }
        None => ("route", "there is no action; write the cluster that takes the calls"),
    };
    Err(at.field(field).refuse(why))
}

fn forward(
    action: &RouteAction,
    fallback: Fallback<'_>,
    limit: Option<&crate::pb::protobuf::UInt64Value>,
    private: &mut Reader<'_>,
    at: &At<'_>,
) -> Result<(Vec<BackendPart>, Policy), Refusal> {
    #[allow(deprecated)]
    {
        understood! {
            action => RouteAction, at;
            take {
                cluster_specifier, timeout, idle_timeout, max_stream_duration, retry_policy, hedge_policy
            }
            // How a missing cluster fails (UNAVAILABLE), Envoy's two classes of circuit breakers, how rate limits, which are
            // refused, are put together; and what only balancing by hash looks at, which is for the cluster to ask for.
            ignore { hash_policy, cluster_not_found_response_code, priority, include_vh_rate_limits, append_x_forwarded_host }
            refuse "endpoints are chosen by the cluster's labels; name the cluster of those that are meant" { metadata_match }
            refuse "the path is the method, and is not rewritten" {
                prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite
            }
            refuse "`:authority` is not rewritten" { host_rewrite_specifier }
            refuse "responses wait for slow readers" { flush_timeout }
            refuse "there is no early data" { early_data_policy }
            refuse "retry policies are not extended" { retry_policy_typed_config }
            refuse "calls are not mirrored" { request_mirror_policies }
            refuse "calls are not limited by rate" { rate_limits }
            refuse "gRPC has no CORS" { cors }
            refuse "write `max_stream_duration`" { max_grpc_timeout, grpc_timeout_offset }
            refuse "a call is not upgraded" { upgrade_configs }
            refuse "a gRPC client follows no redirect" {
                internal_redirect_policy, internal_redirect_action, max_internal_redirects
            }
        }
        let backends = backends(cluster_specifier.as_ref(), at)?;
        let mut policy = Policy {
            deadline: policy::deadline(timeout.as_ref(), max_stream_duration.as_ref(), private, at)?,
            ..Policy::default()
        };
        policy.stream = Stream { idle: read_limit(idle_timeout.as_ref(), &at.field("idle_timeout"))? };
        let retry = retry_policy.as_ref().or(fallback.retry);
        let hedge = hedge_policy.as_ref().or(fallback.hedge);
        policy.repeats = retries::read(retry, hedge, limit, private, at)?;
        Ok((backends, policy))
    }
}

fn backends(specifier: Option<&ClusterSpecifier>, at: &At<'_>) -> Result<Vec<BackendPart>, Refusal> {
    let (field, why) = match specifier {
        Some(ClusterSpecifier::Cluster(cluster)) if !cluster.is_empty() => {
            return Ok(vec![BackendPart { cluster: cluster.clone(), weight: 1 }]);
        }
        Some(ClusterSpecifier::WeightedClusters(clusters)) => {
            return weighted(clusters, &at.field("weighted_clusters"));
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => (
            "cluster_header",
            "the caller does not choose the cluster; write a route for each value of the header",
        ),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
            ("cluster_specifier_plugin", "routes name clusters")
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            ("inline_cluster_specifier_plugin", "routes name clusters")
        }
        Some(ClusterSpecifier::Cluster(_)) | None => ("cluster", "there is no cluster"),
    };
    Err(at.field(field).refuse(why))
}

#[allow(deprecated)]
fn weighted(clusters: &WeightedCluster, at: &At<'_>) -> Result<Vec<BackendPart>, Refusal> {
    understood! {
        clusters => WeightedCluster, at;
        take { clusters }
        // The sum is what the weights come to; runtime keys change nothing where there is no runtime.
        ignore { total_weight, runtime_key_prefix }
        refuse "clusters are drawn by weight alone" { random_value_specifier }
    }
    let mut backends = Vec::with_capacity(clusters.len());
    for (i, cluster) in clusters.iter().enumerate() {
        let at = at.item("clusters", i);
        understood! {
            cluster => ClusterWeight, &at;
            take { name, weight }
            ignore {}
            refuse "the caller does not choose the cluster" { cluster_header }
            refuse "endpoints are chosen by the cluster's labels; name the cluster of those that are meant" { metadata_match }
            refuse "header changes stand on routes" {
                request_headers_to_add, request_headers_to_remove, response_headers_to_add, response_headers_to_remove
            }
            refuse "filters are configured on routes" { typed_per_filter_config }
            refuse "`:authority` is not rewritten" { host_rewrite_specifier }
        }
        if name.is_empty() {
            return Err(at.field("name").refuse("there is no cluster"));
        }
        backends.push(BackendPart { cluster: name.clone(), weight: weight.map_or(0, |weight| weight.value) });
    }
    // Weights are added up in 64 bits, so that only nothing at all is too little.
    match backends.iter().any(|backend| backend.weight > 0) {
        true => Ok(backends),
        false => Err(at.field("clusters").refuse("at least one cluster has a weight above 0")),
    }
}
