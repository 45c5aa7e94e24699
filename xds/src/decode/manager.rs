//! Reads an HttpConnectionManager: where the routes are, and which filters calls go through.

use config::model::Authorization;

use crate::decode::at::{At, understood};
use crate::decode::parts::RoutesOf;
use crate::decode::{rbac, routes};
use crate::pb::core::config_source::ConfigSourceSpecifier;
use crate::pb::fault::HttpFault;
use crate::pb::http::http_connection_manager::RouteSpecifier;
use crate::pb::http::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use crate::pb::listener::{Filter, FilterChain, filter};
use crate::pb::rbac_filter::Rbac;
use crate::pb::route::route::Action;
use crate::pb::route::route_match::PathSpecifier;
use crate::pb::route::{NonForwardingAction, Route, RouteConfiguration, RouteMatch, VirtualHost};
use crate::pb::router::Router;
use crate::refusal::Refusal;
use crate::wire::{read_limit, unpack};

/// What a manager says.
#[derive(Debug)]
pub(crate) struct Manager {
    pub(crate) routes: RoutesOf,
    pub(crate) authorization: Option<Authorization>,
}

/// Reads the manager of an API listener.
pub(crate) fn read(manager: &HttpConnectionManager, at: &At<'_>) -> Result<Manager, Refusal> {
    let (specifier, authorization) = taken(manager, at)?;
    let routes = match specifier {
        Some(RouteSpecifier::Rds(rds)) => RoutesOf::Named(named(rds, &at.field("rds"))?),
        Some(RouteSpecifier::RouteConfig(config)) => {
            RoutesOf::Inline(routes::read(config, &at.field("route_config"))?)
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(at.field("scoped_routes").refuse("routes have no scopes; write rds or route_config"));
        }
        None => return Err(at.field("rds").refuse("there are no routes; write rds or route_config")),
    };
    Ok(Manager { routes, authorization })
}

/// Reads the one chain of a listener that ends in the app, and gives back what is asked of callers.
pub(crate) fn chain(chains: &[FilterChain], at: &At<'_>) -> Result<Option<Authorization>, Refusal> {
    let [chain] = chains else {
        return Err(at.field("filter_chains").refuse("what is asked of callers stands in one filter chain"));
    };
    let at = at.item("filter_chains", 0);
    #[allow(deprecated)]
    {
        understood! {
            chain => FilterChain, &at;
            take { filters }
            // TLS is what the sidecar's own file says.
            ignore { metadata, name, transport_socket, transport_socket_connect_timeout }
            refuse "it is for all connections" { filter_chain_match }
            refuse "PROXY protocol is not read" { use_proxy_proto }
        }
        let [filter] = filters.as_slice() else {
            return Err(at.field("filters").refuse("there is one network filter: an HttpConnectionManager"));
        };
        let at = at.item("filters", 0);
        let Filter { name: _, config_type: Some(filter::ConfigType::TypedConfig(any)) } = filter else {
            return Err(at.refuse("its configuration stands in typed_config"));
        };
        let at = at.field("typed_config");
        let Some(manager) = unpack::<HttpConnectionManager>(any, &at)? else {
            return Err(at.refuse(format!("it is {}, and not an HttpConnectionManager", any.type_url)));
        };
        let (specifier, authorization) = taken(&manager, &at)?;
        match specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => ends_here(routes, &at.field("route_config"))?,
            _ => {
                return Err(at
                    .field("route_config")
                    .refuse("calls go to the app; write one route that does not forward"));
            }
        }
        Ok(authorization)
    }
}

/// Refuses routes that say anything but "every call to the app": a condition that is passed over lets in too many.
fn ends_here(routes: &RouteConfiguration, at: &At<'_>) -> Result<(), Refusal> {
    let everything = |routes: &RouteConfiguration| {
        let [host] = routes.virtual_hosts.as_slice() else { return false };
        let [route] = host.routes.as_slice() else { return false };
        let Some(PathSpecifier::Prefix(prefix)) =
            route.r#match.as_ref().and_then(|matches| matches.path_specifier.as_ref())
        else {
            return false;
        };
        let matches = RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.clone())),
            ..RouteMatch::default()
        };
        // Only names are free, and what is data of others.
        let plain = Route {
            name: route.name.clone(),
            metadata: route.metadata.clone(),
            r#match: Some(matches),
            action: Some(Action::NonForwardingAction(NonForwardingAction {})),
            ..Route::default()
        };
        let host = VirtualHost {
            name: host.name.clone(),
            metadata: host.metadata.clone(),
            domains: vec!["*".to_owned()],
            routes: vec![plain],
            ..VirtualHost::default()
        };
        let plain = RouteConfiguration {
            name: routes.name.clone(),
            metadata: routes.metadata.clone(),
            virtual_hosts: vec![host],
            ..RouteConfiguration::default()
        };
        matches!(prefix.as_str(), "" | "/") && *routes == plain
    };
    match everything(routes) {
        true => Ok(()),
        false => Err(at.field("virtual_hosts").refuse(
            "calls go to the app; write one virtual host `*` with one route, `prefix: /`, that does not forward, and \
             nothing besides",
        )),
    }
}

/// Takes a manager apart: its routes and what its filters ask.
fn taken<'a>(
    manager: &'a HttpConnectionManager,
    at: &At<'_>,
) -> Result<(Option<&'a RouteSpecifier>, Option<Authorization>), Refusal> {
    #[allow(deprecated)]
    {
        understood! {
            manager => HttpConnectionManager, at;
            take { http_filters, route_specifier, stream_idle_timeout, common_http_protocol_options }
            // How HTTP is spoken with the app, and what is traced, logged and added for servers to see: the sidecar's own
            // file says that.
            ignore {
                codec_type, stat_prefix, add_user_agent, tracing, http1_safe_max_connection_duration,
                http_protocol_options, http2_protocol_options, http3_protocol_options, server_name,
                server_header_transformation, scheme_header_transformation, max_request_headers_kb,
                request_headers_timeout, drain_timeout, drain_timeout_jitter, delayed_close_timeout, access_log,
                access_log_flush_interval, flush_access_log_on_new_request, access_log_options, use_remote_address,
                xff_num_trusted_hops, internal_address_config, skip_xff_append, via, generate_request_id,
                preserve_external_request_id, always_set_request_id_in_response, forward_client_cert_details,
                set_current_client_cert_details, forward_client_cert_matcher, proxy_100_continue,
                represent_ipv4_remote_address_as_ipv4_mapped_ipv6, normalize_path, merge_slashes,
                path_with_escaped_slashes_action, request_id_extension, stream_error_on_invalid_http_message,
                path_normalization_options, strip_trailing_host_dot, proxy_status_config,
                typed_header_validation_config, append_x_forwarded_port, append_local_overload,
                add_proxy_protocol_connection_state, forward_proto_config, strip_matching_host_port, strip_port_mode,
                stream_flush_timeout
            }
            refuse "a call has no time limit of its own here; routes have `max_stream_duration`" { request_timeout }
            refuse "who calls is told by TLS" { original_ip_detection_extensions }
            refuse "header changes stand on routes" { early_header_mutation_extensions }
            refuse "a call is not upgraded" { upgrade_configs }
            refuse "what fails ends with a gRPC status" { local_reply_config }
        }
        if read_limit(stream_idle_timeout.as_ref(), &at.field("stream_idle_timeout"))?.is_some() {
            let why = "write 0s, and `idle_timeout` on the routes whose streams may not be silent";
            return Err(at.field("stream_idle_timeout").refuse(why));
        }
        let duration =
            common_http_protocol_options.as_ref().and_then(|options| options.max_stream_duration.as_ref());
        let below = at.field("common_http_protocol_options.max_stream_duration");
        if read_limit(duration, &below)?.is_some() {
            return Err(below.refuse("write 0s, and `max_stream_duration` on routes"));
        }
        let authorization = filters(http_filters, at)?;
        Ok((route_specifier.as_ref(), authorization))
    }
}

fn filters(filters: &[HttpFilter], at: &At<'_>) -> Result<Option<Authorization>, Refusal> {
    let mut asked = rbac::Asked::default();
    for (i, filter) in filters.iter().enumerate() {
        let at = at.item("http_filters", i);
        let HttpFilter { name: _, is_optional, disabled, config_type } = filter;
        if *disabled {
            continue;
        }
        let config = match config_type {
            Some(http_filter::ConfigType::TypedConfig(config)) => config,
            _ if *is_optional => continue,
            Some(http_filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(at
                    .field("config_discovery")
                    .refuse("filters are configured in place: typed_config"));
            }
            None => return Err(at.field("typed_config").refuse("there is no configuration")),
        };
        let at = at.field("typed_config");
        if unpack::<Router>(config, &at)?.is_some() {
            continue;
        }
        if let Some(fault) = unpack::<HttpFault>(config, &at)? {
            if fault.delay.is_some() || fault.abort.is_some() || fault.response_rate_limit.is_some() {
                return Err(at.refuse("faults stand on routes"));
            }
            continue;
        }
        match unpack::<Rbac>(config, &at)? {
            Some(rules) => asked.add(&rules, &at)?,
            None if *is_optional => {}
            None => {
                return Err(at.refuse(format!(
                    "a filter of type {} is not known; make it `is_optional` where calls may go without it",
                    config.type_url
                )));
            }
        }
    }
    Ok(asked.settle())
}

fn named(rds: &Rds, at: &At<'_>) -> Result<String, Refusal> {
    let Rds { config_source, route_config_name } = rds;
    let source = config_source.as_ref().and_then(|source| source.config_source_specifier.as_ref());
    if !matches!(source, Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_))) {
        return Err(at.field("config_source").refuse("routes come over the same stream: write `ads: {}`"));
    }
    if route_config_name.is_empty() {
        return Err(at.field("route_config_name").refuse("there is no name"));
    }
    Ok(route_config_name.clone())
}
