//! What we say of ourselves: the `node` of the first request, and of one that announces endpoints or says that what was sent
//! makes no mesh.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Locality, Node};
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};

use crate::control::xds::settings::Who;
use crate::control::xds::state::{Announced, Want};

/// The key of our metadata.
const METADATA: &str = "outrigger";
/// A client feature: resources of state-of-the-world may come wrapped, with a name of their own (xDS protocol,
/// "Resource" message).
const WRAPPED: &str = "xds.config.resource-in-sotw";

/// This process, told apart from others of its service.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    who: Who,
    id: String,
    role: Role,
}

/// Which of our streams it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It asks, and announces.
    All,
    /// It asks; heralds announce.
    Client,
    /// It announces only.
    Herald,
}

impl Me {
    /// `random` tells two processes of one host apart.
    pub(crate) fn new(who: Who, host: &str, random: u32) -> Self {
        let id = format!("{}.{}~{host}~{random:08x}", who.service, who.namespace);
        Self { who, id, role: Role::All }
    }

    /// The same, of a stream beside heralds: it announces nothing.
    pub(crate) fn beside_heralds(self) -> Self {
        Self { role: Role::Client, ..self }
    }

    /// The same, of a stream that announces only. It has an id of its own: what is announced under one id, others of that
    /// id withdraw.
    pub(crate) fn herald(&self) -> Self {
        Self { who: self.who.clone(), id: format!("{}~herald", self.id), role: Role::Herald }
    }

    /// The node, with the endpoints that it announces, and why what was sent makes no mesh.
    pub(crate) fn node(&self, Want { endpoints, turned_down, hosts: _ }: &Want) -> Node {
        let Who { service, namespace, zone, labels, tls } = &self.who;
        let mut metadata = vec![
            ("service", string(service)),
            ("namespace", string(namespace)),
            ("tls", Value { kind: Some(Kind::BoolValue(*tls)) }),
        ];
        metadata.extend(zone.as_deref().map(|zone| ("zone", string(zone))));
        if !labels.is_empty() {
            metadata.push(("labels", strings(labels)));
        }
        if self.role == Role::Herald {
            metadata.push(("herald", Value { kind: Some(Kind::BoolValue(true)) }));
        }
        if !endpoints.is_empty() && self.role != Role::Client {
            let values = endpoints.iter().map(endpoint).collect();
            metadata.push(("endpoints", Value { kind: Some(Kind::ListValue(ListValue { values })) }));
        }
        let turned_down = turned_down.as_deref().filter(|_| self.role != Role::Herald);
        metadata.extend(turned_down.map(|why| ("turned_down", string(why))));
        let locality =
            zone.clone().map(|zone| Locality { region: String::new(), zone, sub_zone: String::new() });
        Node {
            id: self.id.clone(),
            cluster: format!("{service}.{namespace}"),
            metadata: Some(Struct { fields: HashMap::from([(METADATA.to_owned(), object(metadata))]) }),
            locality,
            user_agent_name: "outrigger".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build_version())),
            client_features: vec![WRAPPED.to_owned()],
            ..Node::default()
        }
    }
}

/// The name of this host, as the kernel has it; in a pod, the pod's.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

fn endpoint(announced: &Announced) -> Value {
    let Announced { service, address, zone, labels } = announced;
    let mut fields = vec![("service", string(service)), ("address", string(&address.to_string()))];
    fields.extend(zone.as_deref().map(|zone| ("zone", string(zone))));
    if !labels.is_empty() {
        fields.push(("labels", strings(labels)));
    }
    object(fields)
}

fn string(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn strings(pairs: &BTreeMap<String, String>) -> Value {
    object(pairs.iter().map(|(key, value)| (key.as_str(), string(value))).collect())
}

fn object(fields: Vec<(&str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

fn build_version() -> BuildVersion {
    let number = |text: &str| text.parse().unwrap_or_default();
    let version = SemanticVersion {
        major_number: number(env!("CARGO_PKG_VERSION_MAJOR")),
        minor_number: number(env!("CARGO_PKG_VERSION_MINOR")),
        patch: number(env!("CARGO_PKG_VERSION_PATCH")),
    };
    BuildVersion { version: Some(version), metadata: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
        match value.kind.as_ref().unwrap() {
            Kind::StructValue(fields) => fields.fields.get(key),
            _ => None,
        }
    }

    #[test]
    fn a_node_says_who_asks_and_what_it_announces() {
        let labels = BTreeMap::from([("version".to_owned(), "v1".to_owned())]);
        let who = Who {
            service: "orders".to_owned(),
            namespace: "shop".to_owned(),
            zone: Some("a".to_owned()),
            labels: labels.clone(),
            tls: true,
        };
        let me = Me::new(who, "pod-1", 0xbeef);
        let quiet = me.node(&Want::default());
        assert_eq!(quiet.id, "orders.shop~pod-1~0000beef");
        assert_eq!(quiet.user_agent_name, "outrigger");
        assert_eq!(quiet.locality.as_ref().unwrap().zone, "a");
        let of = |node: &Node| node.metadata.as_ref().unwrap().fields[METADATA].clone();
        assert_eq!(field(&of(&quiet), "service"), Some(&string("orders")));
        assert_eq!(field(&of(&quiet), "namespace"), Some(&string("shop")));
        assert_eq!(field(&of(&quiet), "labels"), Some(&strings(&labels)));
        assert_eq!(field(&of(&quiet), "endpoints"), None, "nothing is announced unasked");

        let address = "10.0.0.7:15006".parse().unwrap();
        let announced = Announced { service: "orders.shop".to_owned(), address, zone: None, labels };
        let want = Want {
            endpoints: vec![announced],
            turned_down: Some("a host of two services".into()),
            ..Want::default()
        };
        let beside = me.clone().beside_heralds().node(&want);
        assert_eq!(
            (field(&of(&beside), "endpoints"), beside.id.as_str()),
            (None, "orders.shop~pod-1~0000beef")
        );
        let herald = me.herald().node(&want);
        assert_eq!(
            herald.id, "orders.shop~pod-1~0000beef~herald",
            "what it announces is its own to withdraw"
        );
        assert!(field(&of(&herald), "endpoints").is_some() && field(&of(&herald), "herald").is_some());
        assert_eq!(field(&of(&herald), "turned_down"), None, "it is told no mesh");
        let told = of(&me.node(&want));
        assert_eq!(field(&told, "turned_down"), Some(&string("a host of two services")));
        assert_eq!(field(&of(&quiet), "turned_down"), None);
        let Some(Value { kind: Some(Kind::ListValue(list)) }) = field(&told, "endpoints") else {
            panic!("{told:?}")
        };
        assert_eq!(field(&list.values[0], "address"), Some(&string("10.0.0.7:15006")));
        assert_eq!(field(&list.values[0], "service"), Some(&string("orders.shop")));
    }
}
