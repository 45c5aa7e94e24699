//! `ClusterLoadAssignment` and what stands in it down to the labels, with maps that have an order: the generated messages
//! keep theirs in hash tables, which would make other bytes of the same endpoints each time. The fields and their numbers are
//! those of `envoy.config.endpoint.v3`; a test reads one back with the generated messages.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::Message;

/// `ClusterLoadAssignment`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Assignment {
    #[prost(string, tag = "1")]
    pub(crate) cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) endpoints: Vec<LocalityEndpoints>,
}

/// `LocalityLbEndpoints`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LocalityEndpoints {
    #[prost(message, optional, tag = "1")]
    pub(crate) locality: Option<Locality>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) lb_endpoints: Vec<LbEndpoint>,
    #[prost(message, optional, tag = "3")]
    pub(crate) load_balancing_weight: Option<UInt32Value>,
}

/// `LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    pub(crate) endpoint: Option<Endpoint>,
    #[prost(int32, tag = "2")]
    pub(crate) health_status: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    pub(crate) load_balancing_weight: Option<UInt32Value>,
}

/// `Metadata`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) filter_metadata: BTreeMap<String, Texts>,
}

/// A `google.protobuf.Struct` of texts.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Texts {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) fields: BTreeMap<String, Text>,
}

/// A `google.protobuf.Value` that is a text. Said as one of several kinds, so that an empty text is said as well.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Text {
    #[prost(string, optional, tag = "3")]
    pub(crate) string_value: Option<String>,
}

impl FromIterator<(String, String)> for Texts {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(texts: T) -> Self {
        let value = |text| Text { string_value: Some(text) };
        Self { fields: texts.into_iter().map(|(key, text)| (key, value(text))).collect() }
    }
}
