//! Reads a Listener.

use crate::decode::at::{At, understood};
use crate::decode::parts::{InboundPart, ListenerPart, Said, ServicePart};
use crate::decode::{manager, patterns};
use crate::names::{self, INBOUND};
use crate::own::Own;
use crate::pb::http::HttpConnectionManager;
use crate::pb::listener::Listener;
use crate::private::{KEY, Reader};
use crate::refusal::Refusal;
use crate::roles::LISTENER;
use crate::wire;

/// Reads a Listener.
pub(crate) fn decode(name: &str, bytes: &[u8], own: &Own) -> Result<ListenerPart, Refusal> {
    let at = &At::ROOT;
    let listener: Listener = wire::read(bytes, at)?;
    if listener.name != name {
        return Err(at
            .field("name")
            .refuse(format!("it is {:?}, and {name:?} was asked for", listener.name)));
    }
    let beside = at.entry("metadata.typed_filter_metadata", KEY);
    let mut private = Reader::of_metadata(listener.metadata.as_ref(), LISTENER, beside)?;
    let part = match name.strip_prefix(INBOUND) {
        Some(service) => ListenerPart::Inbound(inbound(&listener, service, private.as_mut(), own, at)?),
        None => ListenerPart::Service(service(&listener, private.as_mut(), own, at)?),
    };
    private.map_or(Ok(()), Reader::finish)?;
    Ok(part)
}

fn service(
    listener: &Listener,
    private: Option<&mut Reader<'_>>,
    own: &Own,
    at: &At<'_>,
) -> Result<ServicePart, Refusal> {
    #[allow(deprecated)]
    {
        understood! {
            listener => Listener, at;
            take { name, api_listener }
            // How sockets are bound, balanced, drained, watched: an API listener has none.
            ignore {
                metadata, stat_prefix, stats_matcher, access_log, drain_type, traffic_direction, address, reuse_port,
                enable_reuse_port, tcp_backlog_size, max_connections_to_accept_per_socket_event, bind_to_port,
                connection_balance_config, per_connection_buffer_limit_bytes,
                per_connection_buffer_high_watermark_timeout, ignore_global_conn_limit, bypass_overload_manager,
                tcp_fast_open_queue_length, enable_mptcp, tcp_keepalive, deprecated_v1, freebind, transparent,
                socket_options, listener_filters_timeout, continue_on_listener_filters_timeout
            }
            refuse "an API listener has no filter chains; write `api_listener`, or leave it out for a sidecar that opens its own sockets" {
                filter_chains, default_filter_chain, fcds_config, filter_chain_matcher, listener_filters,
                udp_listener_config, additional_addresses, use_original_dst, listener_specifier
            }
        }
        let below = at.field("api_listener");
        let Some(any) = api_listener.as_ref().and_then(|api| api.api_listener.as_ref()) else {
            let why = "there is none; a sidecar opens the sockets that its own file names, and takes services as API listeners";
            return Err(below.refuse(why));
        };
        let below = below.field("api_listener");
        let Some(manager) = wire::unpack::<HttpConnectionManager>(any, &below)? else {
            return Err(below.refuse(format!("it is {}, and not an HttpConnectionManager", any.type_url)));
        };
        let manager = manager::read(&manager, &below)?;
        if manager.authorization.is_some() {
            return Err(below.field("http_filters").refuse("who may call is for the callee to say"));
        }
        let (service, namespace, said) = match private {
            Some(private) => {
                let (service, namespace) = named(private, at)?;
                (service, namespace, Some(said(private, own)?))
            }
            None => {
                let (service, namespace) = foreign_name(name, own, at)?;
                (service, namespace, None)
            }
        };
        Ok(ServicePart { service, namespace, said, routes: manager.routes, resource: name.clone() })
    }
}

/// What our own control plane says of a service.
fn said(private: &mut Reader<'_>, own: &Own) -> Result<Said, Refusal> {
    let ports = private.integers("ports", u64::from(u16::MAX))?.unwrap_or_default();
    Ok(Said {
        hosts: private.texts("hosts")?.unwrap_or_default(),
        ports: ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
        registration: private.flag("registration")?,
        trust_domain: private.text("trust_domain")?.unwrap_or_else(|| own.trust_domain.clone()),
    })
}

fn named(private: &mut Reader<'_>, at: &At<'_>) -> Result<(String, String), Refusal> {
    match (private.text("service")?, private.text("namespace")?) {
        (Some(service), Some(namespace)) => Ok((service, namespace)),
        _ => Err(at.field("metadata").refuse("it does not name the service")),
    }
}

/// The service of a listener that is only called like it: `name`, `name.namespace` or more, with or without a port.
fn foreign_name(name: &str, own: &Own, at: &At<'_>) -> Result<(String, String), Refusal> {
    let host = name.to_ascii_lowercase();
    let host = host.split_once(':').map_or(host.as_str(), |(host, _)| host);
    if !patterns::is_host(host) {
        let why = format!("{name:?} is not the host, or host and port, of a service");
        return Err(at.field("name").refuse(why));
    }
    let (service, namespace) = names::parse_service(host, &own.namespace);
    Ok((service.to_owned(), namespace.to_owned()))
}

/// What is asked of callers. The sidecar listens where its own file says, and the app is where that says.
fn inbound(
    listener: &Listener,
    service: &str,
    private: Option<&mut Reader<'_>>,
    own: &Own,
    at: &At<'_>,
) -> Result<InboundPart, Refusal> {
    #[allow(deprecated)]
    {
        understood! {
            listener => Listener, at;
            take { name, filter_chains }
            ignore {
                metadata, stat_prefix, stats_matcher, access_log, drain_type, traffic_direction, address, reuse_port,
                enable_reuse_port, tcp_backlog_size, max_connections_to_accept_per_socket_event, bind_to_port,
                connection_balance_config, per_connection_buffer_limit_bytes,
                per_connection_buffer_high_watermark_timeout, ignore_global_conn_limit, bypass_overload_manager,
                tcp_fast_open_queue_length, enable_mptcp, tcp_keepalive, deprecated_v1, freebind, transparent,
                socket_options, listener_filters_timeout, continue_on_listener_filters_timeout
            }
            refuse "what is asked of callers stands in one filter chain" {
                api_listener, default_filter_chain, fcds_config, filter_chain_matcher, listener_filters,
                udp_listener_config, additional_addresses, use_original_dst, listener_specifier
            }
        }
        let authorization = manager::chain(filter_chains, at)?;
        let (service, namespace) = match private {
            Some(private) => named(private, at)?,
            None => foreign_name(service, own, at)?,
        };
        if names::inbound(&names::service(&service, &namespace)) != *name && name.contains('.') {
            let why = format!("it is not that of the service `{service}.{namespace}`");
            return Err(at.field("name").refuse(why));
        }
        Ok(InboundPart { service, namespace, authorization })
    }
}
