//! Reads a RouteConfiguration.

use std::collections::BTreeMap;

use config::model::{Policy, Unmatched};

use crate::decode::at::{At, understood};
use crate::decode::domains;
use crate::decode::parts::{RoutesPart, VirtualHostPart};
use crate::decode::route::{self, Fallback};
use crate::pb::route::{RouteConfiguration, VirtualHost};
use crate::refusal::Refusal;
use crate::wire;

/// Reads a RouteConfiguration.
pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<RoutesPart, Refusal> {
    let routes: RouteConfiguration = wire::read(bytes, &At::ROOT)?;
    if routes.name != name {
        return Err(At::ROOT
            .field("name")
            .refuse(format!("it is {:?}, and {name:?} was asked for", routes.name)));
    }
    read(&routes, &At::ROOT)
}

/// Reads a RouteConfiguration that may stand in a listener.
pub(crate) fn read(routes: &RouteConfiguration, at: &At<'_>) -> Result<RoutesPart, Refusal> {
    understood! {
        routes => RouteConfiguration, at;
        take { virtual_hosts }
        // Whether clusters exist is seen by those who need them; direct responses are refused.
        ignore { name, validate_clusters, max_direct_response_body_size_bytes, metadata, internal_only_headers }
        refuse "virtual hosts stand in `virtual_hosts`" { vhds }
        refuse "header changes stand on routes" {
            response_headers_to_add, response_headers_to_remove, request_headers_to_add, request_headers_to_remove,
            most_specific_header_mutations_wins
        }
        refuse "routes name clusters" { cluster_specifier_plugins }
        refuse "calls are not mirrored" { request_mirror_policies }
        refuse "a domain names the ports that it is for; `host:*` is any" { ignore_port_in_host_matching }
        refuse "the virtual host is that of `:authority`" { vhost_header }
        refuse "paths have no parameters" { ignore_path_parameters_in_path_matching }
        refuse "filters are configured on routes" { typed_per_filter_config }
        refuse "routes are not extended" { route_specifiers }
    }
    let hosts = virtual_hosts.iter().enumerate();
    let virtual_hosts: Result<_, _> =
        hosts.map(|(i, host)| virtual_host(host, &at.item("virtual_hosts", i))).collect();
    Ok(RoutesPart { virtual_hosts: virtual_hosts? })
}

fn virtual_host(host: &VirtualHost, at: &At<'_>) -> Result<VirtualHostPart, Refusal> {
    #[allow(deprecated)]
    {
        understood! {
            host => VirtualHost, at;
            take { domains, routes, retry_policy, hedge_policy, require_tls }
            // Names for statistics, headers that Envoy adds for servers to see, and what is data of others.
            ignore {
                name, virtual_clusters, include_request_attempt_count, include_attempt_count_in_response,
                include_is_timeout_retry_header, metadata
            }
            refuse "matchers are not evaluated; write routes" { matcher }
            refuse "calls are not limited by rate" { rate_limits }
            refuse "header changes stand on routes" {
                request_headers_to_add, request_headers_to_remove, response_headers_to_add, response_headers_to_remove
            }
            refuse "gRPC has no CORS" { cors }
            refuse "filters are configured on routes" { typed_per_filter_config }
            refuse "retry policies are not extended" { retry_policy_typed_config }
            refuse "what is kept of a request stands on routes" {
                per_request_buffer_limit_bytes, request_body_buffer_limit
            }
            refuse "calls are not mirrored" { request_mirror_policies }
            refuse "routes are not extended" { route_specifiers }
        }
        if *require_tls != 0 {
            return Err(at.field("require_tls").refuse("calls are not redirected to TLS"));
        }
        let fallback = Fallback { retry: retry_policy.as_ref(), hedge: hedge_policy.as_ref() };
        let mut part = VirtualHostPart {
            domains: domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
            routes: Vec::with_capacity(routes.len()),
            // What no route takes ends, as in Envoy and gRPC, unless our own control plane says otherwise.
            unmatched: Unmatched::Refuse,
            policy: Policy::default(),
            methods: BTreeMap::new(),
        };
        for (i, domain) in part.domains.iter().enumerate() {
            domains::check(domain).map_err(|why| at.item("domains", i).refuse(why))?;
        }
        for (i, route) in routes.iter().enumerate() {
            route::read(route, fallback, &mut part, &at.item("routes", i))?;
        }
        Ok(part)
    }
}
