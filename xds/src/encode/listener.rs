//! Listeners.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use config::model::{Authorization, Mesh};
use prost::encoding::decode_varint;

use crate::audience::{Audience, Certificates, Client};
use crate::encode::rbac;
use crate::filters::{FAULT, MANAGER, ROUTER, TLS};
use crate::kind::Kind;
use crate::names;
use crate::pb::core::config_source::ConfigSourceSpecifier;
use crate::pb::core::socket_address::PortSpecifier;
use crate::pb::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, TrafficDirection,
    TransportSocket, address, transport_socket,
};
use crate::pb::fault::HttpFault;
use crate::pb::http::http_connection_manager::RouteSpecifier;
use crate::pb::http::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use crate::pb::listener::{ApiListener, Filter, FilterChain, Listener, filter};
use crate::pb::protobuf::{Any, BoolValue};
use crate::pb::route::route::Action;
use crate::pb::route::route_match::PathSpecifier;
use crate::pb::route::{NonForwardingAction, Route, RouteConfiguration, RouteMatch, VirtualHost};
use crate::pb::router::Router;
use crate::pb::tls::common_tls_context::ValidationContextType;
use crate::pb::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
};
use crate::private::Fields;
use crate::resource::Resource;
use crate::roles::LISTENER;
use crate::wire::{duration, pack, put_bytes};

/// The API listener of a service; for our sidecars with what assembling a mesh needs.
pub(crate) fn service(mesh: &Mesh, index: usize, audience: &Audience) -> Resource {
    let service = &mesh.services[index];
    let name = service.full_name();
    let mut private = Fields::default();
    if audience.client == Client::Outrigger {
        private.text("service", &*service.name);
        private.text("namespace", &*service.namespace);
        private.text("trust_domain", &*mesh.trust_domain);
        private.texts("hosts", service.hosts.iter().map(String::as_str));
        private.flag("registration", service.registration);
        private.numbers("ports", service.ports.iter().copied());
    }
    let manager = manager(&name, routes_of(&name), vec![fault()]);
    let listener = Listener {
        name: name.clone(),
        api_listener: Some(ApiListener { api_listener: Some(pack(&manager)) }),
        metadata: private.metadata(LISTENER),
        ..Listener::default()
    };
    Resource::of(Kind::Listener, name, &listener)
}

/// What a service's own sidecar asks of its callers. It listens where `sidecar.yaml` says; the address here is for show.
pub(crate) fn inbound(mesh: &Mesh, index: usize) -> Resource {
    let service = &mesh.services[index];
    let name = names::inbound(&service.full_name());
    let mut private = Fields::default();
    private.text("service", &*service.name);
    private.text("namespace", &*service.namespace);
    let port = service.ports.first().copied().unwrap_or_default();
    let listener = Listener {
        name: name.clone(),
        address: Some(address(SocketAddr::from(([0, 0, 0, 0], port)))),
        filter_chains: vec![server(&name, service.authorization.as_ref(), None)],
        traffic_direction: TrafficDirection::Inbound.into(),
        metadata: private.metadata(LISTENER),
        ..Listener::default()
    };
    Resource::of(Kind::Listener, name, &listener)
}

/// Where Envoy takes the calls of its app.
pub(crate) fn outbound(listen: SocketAddr) -> Resource {
    let manager = manager(names::OUTBOUND, routes_of(names::OUTBOUND), vec![fault()]);
    let chain = FilterChain { filters: vec![network(&manager)], ..FilterChain::default() };
    let listener = Listener {
        name: names::OUTBOUND.to_owned(),
        address: Some(address(listen)),
        filter_chains: vec![chain],
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    };
    Resource::of(Kind::Listener, names::OUTBOUND, &listener)
}

/// The same listener under another name. Its name is its first field, and the only one that changes.
pub(crate) fn alias(listener: &Resource, name: &str) -> Resource {
    let mut bytes = Vec::with_capacity(listener.bytes.len() + name.len());
    put_bytes(1, name.as_bytes(), &mut bytes);
    bytes.extend_from_slice(&behind_name(listener.bytes.clone()));
    Resource::of_bytes(Kind::Listener, name, bytes)
}

/// The listener of a proxyless server (gRFC A36).
pub(crate) fn grpc_server(
    mesh: &Mesh,
    index: usize,
    resource_name: &str,
    listen: SocketAddr,
    audience: &Audience,
) -> Resource {
    let tls = match &audience.certificates {
        Some(Certificates::Provider(instance)) => Some(server_tls(instance)),
        Some(Certificates::Own | Certificates::Secrets { .. }) | None => None,
    };
    let listener = Listener {
        name: resource_name.to_owned(),
        address: Some(address(listen)),
        filter_chains: vec![server(resource_name, mesh.services[index].authorization.as_ref(), tls)],
        traffic_direction: TrafficDirection::Inbound.into(),
        ..Listener::default()
    };
    Resource::of(Kind::Listener, resource_name, &listener)
}

/// What follows the name, where the name comes first, as we write it; else all of it: of two names the last one counts.
fn behind_name(bytes: Bytes) -> Bytes {
    let mut rest = bytes.clone();
    if rest.first() != Some(&0x0a) {
        return bytes;
    }
    rest.advance(1);
    match decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok()) {
        Some(length) if length <= rest.len() => rest.slice(length..),
        _ => bytes,
    }
}

/// A chain that ends in the app itself: no route forwards.
fn server(name: &str, authorization: Option<&Authorization>, tls: Option<TransportSocket>) -> FilterChain {
    let every =
        RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() };
    let route = Route {
        r#match: Some(every),
        action: Some(Action::NonForwardingAction(NonForwardingAction {})),
        ..Route::default()
    };
    let host = VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    let routes = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    };
    let filters = authorization.map(rbac::filters).unwrap_or_default();
    let manager = manager(name, RouteSpecifier::RouteConfig(routes), filters);
    FilterChain { filters: vec![network(&manager)], transport_socket: tls, ..FilterChain::default() }
}

fn manager(name: &str, routes: RouteSpecifier, mut filters: Vec<HttpFilter>) -> HttpConnectionManager {
    filters.push(filter(ROUTER, pack(&Router { suppress_envoy_headers: true, ..Router::default() })));
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(routes),
        http_filters: filters,
        // Envoy's own default, 5 min, would end quiet streams; routes say theirs.
        stream_idle_timeout: Some(duration(Duration::ZERO)),
        ..HttpConnectionManager::default()
    }
}

/// Says nothing by itself; routes say what it does.
fn fault() -> HttpFilter {
    filter(FAULT, pack(&HttpFault::default()))
}

fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

fn network(manager: &HttpConnectionManager) -> Filter {
    Filter { name: MANAGER.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(pack(manager))) }
}

fn routes_of(name: &str) -> RouteSpecifier {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    };
    RouteSpecifier::Rds(Rds { config_source: Some(ads), route_config_name: name.to_owned() })
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..SocketAddress::default()
        })),
    }
}

fn server_tls(instance: &str) -> TransportSocket {
    let provider = |certificate: &str| CertificateProviderPluginInstance {
        instance_name: instance.to_owned(),
        certificate_name: certificate.to_owned(),
    };
    let roots = CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider("ROOTCA")),
        ..CertificateValidationContext::default()
    };
    let tls = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(provider("default")),
            validation_context_type: Some(ValidationContextType::ValidationContext(roots)),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    TransportSocket {
        name: TLS.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack(&tls))),
    }
}
