//! The generated modules under the names that the protos have, less their versions.

pub(crate) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use envoy_types::pb::envoy::config::core::v3 as core;
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(crate) use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub(crate) use envoy_types::pb::envoy::config::route::v3 as route;
pub(crate) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as rbac_filter;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3 as lb_common;
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3 as lb_least_request;
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3 as lb_random;
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3 as lb_round_robin;
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3 as lb_wrr_locality;
pub(crate) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3 as previous_hosts;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as percent;
pub(crate) use envoy_types::pb::google::protobuf;
