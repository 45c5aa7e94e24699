//! Who asks, by the node of its first request.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::google::protobuf::value::Kind as Value;
use envoy_types::pb::google::protobuf::{self, Struct};
use xds::audience::Certificates;
use xds::{Audience, Client};

use crate::ads::limits::{LABELS_MAX, REGISTRATIONS_MAX};

/// The key of what is ours in a node's metadata.
const METADATA: &str = "outrigger";
/// Where Envoy listens for the app's calls, unless its node says so.
const ENVOY_OUTBOUND: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15_001);
/// Of the words that a node says about itself, so much is kept of each.
const WORD_BYTES_MAX: usize = 256;
/// Of why a sidecar has turned down what it was sent, so much is kept.
const WHY_BYTES_MAX: usize = 1_024;
/// Faults of a node that are kept.
const FAULTS_MAX: usize = 16;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Caller {
    /// `node.id`; empty where there is none.
    pub(crate) id: String,
    /// `user_agent_name` and the version behind it.
    pub(crate) user_agent: String,
    /// For whom its resources are encoded.
    pub(crate) audience: Audience,
    /// The service it stands for, with its namespace, where it says so.
    pub(crate) service: Option<(String, String)>,
    /// It announces endpoints and asks for nothing: a sidecar with several control planes announces to each.
    pub(crate) herald: bool,
    /// The endpoints it announces, as they were written.
    pub(crate) endpoints: Vec<Announced>,
    /// Whether it announces more of them than are looked at.
    pub(crate) too_many_endpoints: bool,
    /// Why what it was sent makes no mesh, though it took each resource by itself; in lines.
    pub(crate) turned_down: Option<String>,
    /// What of its metadata could not be read; shown on its page.
    pub(crate) faults: Vec<String>,
}

/// One endpoint as a sidecar announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The service's name.
    pub(crate) service: String,
    /// Its namespace: the caller's own unless given.
    pub(crate) namespace: String,
    /// Where others dial it.
    pub(crate) address: SocketAddr,
    /// Its zone.
    pub(crate) zone: Option<String>,
    /// Its labels, sorted.
    pub(crate) labels: Vec<(String, String)>,
}

impl Caller {
    /// Reads a node. Nothing in it is fatal: what cannot be read is left out and told in `faults`.
    ///
    /// A program that is neither Envoy nor our sidecar is treated as proxyless gRPC: API listeners are what xDS says to all
    /// but proxies. So is a client without a node, as go-control-plane does.
    pub(crate) fn read(node: &Node) -> Self {
        let mut faults = Vec::new();
        let ours = node.metadata.as_ref().and_then(|all| block(all, METADATA));
        let certificates = |faults: &mut Vec<String>| certificates(node, ours, faults);
        let client = match node.user_agent_name.as_str() {
            "outrigger" => Client::Outrigger,
            "envoy" => Client::Envoy { outbound: outbound(ours, &mut faults) },
            _ => Client::Grpc,
        };
        let word = |name| ours.and_then(|ours| text(ours, name)).map(|word| clip(word, WORD_BYTES_MAX));
        let namespace = word("namespace").unwrap_or_else(|| "default".to_owned());
        let (endpoints, too_many_endpoints) = endpoints(ours, &namespace, &mut faults);
        let certificates = certificates(&mut faults);
        faults.truncate(FAULTS_MAX);
        Self {
            id: clip(&node.id, WORD_BYTES_MAX),
            user_agent: user_agent(node),
            audience: Audience { client, certificates },
            herald: ours.and_then(|ours| flag(ours, "herald")).unwrap_or(false),
            service: word("service").map(|service| (service, namespace)),
            endpoints,
            too_many_endpoints,
            turned_down: ours.and_then(|ours| text(ours, "turned_down")).map(|why| clip(why, WHY_BYTES_MAX)),
            faults,
        }
    }

    /// What kind of program it is, for pages and metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self.audience.client {
            _ if self.herald => "herald",
            Client::Outrigger => "outrigger",
            Client::Envoy { .. } => "envoy",
            Client::Grpc => "grpc",
        }
    }
}

fn user_agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(v) => format!("{}.{}.{}", v.major_number, v.minor_number, v.patch),
            None => String::new(),
        },
        None => String::new(),
    };
    clip(format!("{} {version}", node.user_agent_name).trim(), WORD_BYTES_MAX)
}

fn certificates(node: &Node, ours: Option<&Struct>, faults: &mut Vec<String>) -> Option<Certificates> {
    let ours = ours?;
    match node.user_agent_name.as_str() {
        "outrigger" => flag(ours, "tls").unwrap_or(true).then_some(Certificates::Own),
        "envoy" => {
            let secrets = block(ours, "certificates")?;
            match (text(secrets, "identity"), text(secrets, "roots")) {
                (Some(identity), Some(roots)) => {
                    let sds = text(secrets, "sds");
                    if sds.is_some() && identity.starts_with('/') && roots.starts_with('/') {
                        faults.push(
                            "metadata.outrigger.certificates.sds: nothing is asked of it, for both `identity` and `roots` are files"
                                .to_owned(),
                        );
                    }
                    Some(Certificates::Secrets {
                        identity: short(identity, "certificates.identity", faults)?,
                        roots: short(roots, "certificates.roots", faults)?,
                        sds: match sds {
                            Some(cluster) => Some(short(cluster, "certificates.sds", faults)?),
                            None => None,
                        },
                    })
                }
                _ => {
                    faults.push(
                        "metadata.outrigger.certificates: needs both `identity` and `roots`, names of secrets or files"
                            .to_owned(),
                    );
                    None
                }
            }
        }
        _ => {
            let name = text(ours, "certificate_provider")?;
            short(name, "certificate_provider", faults).map(Certificates::Provider)
        }
    }
}

/// A name that goes into every cluster of an audience, which must not cost what its client likes. A part of it would be
/// another name, so one that is too long is none.
fn short(name: &str, key: &str, faults: &mut Vec<String>) -> Option<String> {
    if name.len() > WORD_BYTES_MAX {
        let bytes = name.len();
        faults.push(format!("metadata.outrigger.{key}: {bytes} bytes; write at most {WORD_BYTES_MAX}"));
        return None;
    }
    Some(name.to_owned())
}

fn outbound(ours: Option<&Struct>, faults: &mut Vec<String>) -> SocketAddr {
    let Some(written) = ours.and_then(|ours| text(ours, "outbound")) else { return ENVOY_OUTBOUND };
    written.parse().unwrap_or_else(|_| {
        let written = clip(written, WORD_BYTES_MAX);
        faults.push(format!(
            "metadata.outrigger.outbound: `{written}` is no address; {ENVOY_OUTBOUND} is used, write ADDRESS:PORT"
        ));
        ENVOY_OUTBOUND
    })
}

/// The endpoints, and whether there are more than are looked at.
fn endpoints(ours: Option<&Struct>, namespace: &str, faults: &mut Vec<String>) -> (Vec<Announced>, bool) {
    let Some(Value::ListValue(list)) =
        ours.and_then(|ours| ours.fields.get("endpoints")).and_then(|v| v.kind.as_ref())
    else {
        return (Vec::new(), false);
    };
    let mut endpoints = Vec::new();
    let too_many = list.values.len() > REGISTRATIONS_MAX;
    if too_many {
        let announced = list.values.len();
        faults.push(format!(
            "metadata.outrigger.endpoints: {announced} endpoints; the first {REGISTRATIONS_MAX} are looked at"
        ));
    }
    for (at, value) in list.values.iter().enumerate().take(REGISTRATIONS_MAX) {
        match value.kind.as_ref() {
            Some(Value::StructValue(one)) => match endpoint(one, namespace) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(why) => faults.push(format!("metadata.outrigger.endpoints[{at}]: {why}")),
            },
            _ => faults.push(format!(
                "metadata.outrigger.endpoints[{at}]: not a mapping with `service` and `address`"
            )),
        }
    }
    (endpoints, too_many)
}

fn endpoint(one: &Struct, namespace: &str) -> Result<Announced, String> {
    let word = |name| text(one, name).map(|word| clip(word, WORD_BYTES_MAX));
    let service = word("service").ok_or("`service` is missing")?;
    let written = word("address").ok_or("`address` is missing")?;
    let address = written.parse().map_err(|_| format!("`{written}` is no ADDRESS:PORT"))?;
    let zone = text(one, "zone").map(|zone| label("zone", zone)).transpose()?;
    let mut labels = match block(one, "labels") {
        Some(block) if block.fields.len() > LABELS_MAX => {
            return Err(format!("{} `labels`; announce at most {LABELS_MAX}", block.fields.len()));
        }
        Some(block) => block.fields.keys().map(|key| pair(block, key)).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    labels.sort();
    let namespace = word("namespace").unwrap_or_else(|| namespace.to_owned());
    Ok(Announced { service, namespace, address, zone, labels })
}

fn pair(labels: &Struct, key: &str) -> Result<(String, String), String> {
    let shown = clip(key, WORD_BYTES_MAX);
    let value = text(labels, key).ok_or_else(|| format!("`labels.{shown}` is no text"))?;
    Ok((label("labels", key)?, label(&format!("labels.{shown}"), value)?))
}

/// A key or value of a label, as mesh.yaml takes it and no longer than other words of a node: every client is told it.
fn label(key: &str, text: &str) -> Result<String, String> {
    if text.len() > WORD_BYTES_MAX {
        return Err(format!("`{key}` has a text of {} bytes; write at most {WORD_BYTES_MAX}", text.len()));
    }
    config::check::label(text).map_err(|why| format!("`{key}`: {why}"))?;
    Ok(text.to_owned())
}

fn value<'a>(of: &'a Struct, name: &str) -> Option<&'a Value> {
    of.fields.get(name).and_then(|value: &protobuf::Value| value.kind.as_ref())
}

fn block<'a>(of: &'a Struct, name: &str) -> Option<&'a Struct> {
    match value(of, name)? {
        Value::StructValue(block) => Some(block),
        _ => None,
    }
}

fn text<'a>(of: &'a Struct, name: &str) -> Option<&'a str> {
    match value(of, name)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn flag(of: &Struct, name: &str) -> Option<bool> {
    match value(of, name)? {
        Value::BoolValue(flag) => Some(*flag),
        _ => None,
    }
}

/// The beginning of a text, cut at a character.
pub(crate) fn clip(text: &str, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::ListValue;

    use super::*;

    fn string(text: &str) -> protobuf::Value {
        protobuf::Value { kind: Some(Value::StringValue(text.to_owned())) }
    }

    fn mapping(pairs: Vec<(&str, protobuf::Value)>) -> protobuf::Value {
        let fields = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        protobuf::Value { kind: Some(Value::StructValue(Struct { fields })) }
    }

    fn node(agent: &str, ours: Vec<(&str, protobuf::Value)>) -> Node {
        let fields = [(METADATA.to_owned(), mapping(ours))].into();
        let metadata = Some(Struct { fields });
        Node { id: "n1".to_owned(), user_agent_name: agent.to_owned(), metadata, ..Node::default() }
    }

    #[test]
    fn a_node_says_which_program_asks_and_where_its_certificates_are() {
        let read = |agent, ours| Caller::read(&node(agent, ours)).audience;
        let tls = |tls| vec![("tls", protobuf::Value { kind: Some(Value::BoolValue(tls)) })];
        let own = Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) };
        assert_eq!(read("outrigger", tls(true)), own);
        assert_eq!(read("outrigger", tls(false)).certificates, None);
        let provider = vec![("certificate_provider", string("mesh"))];
        let grpc =
            Audience { client: Client::Grpc, certificates: Some(Certificates::Provider("mesh".to_owned())) };
        assert_eq!(read("gRPC C-core", provider.clone()), grpc);
        assert_eq!(read("somebody's own", provider), grpc);
        let said = vec![("identity", string("me")), ("roots", string("/ca.crt"))];
        let envoy = |said: Vec<(&str, protobuf::Value)>| {
            read("envoy", vec![("outbound", string("127.0.0.1:9")), ("certificates", mapping(said))])
        };
        let secrets = |sds: Option<&str>| {
            let (identity, roots) = ("me".to_owned(), "/ca.crt".to_owned());
            Some(Certificates::Secrets { identity, roots, sds: sds.map(str::to_owned) })
        };
        let alone = envoy(said.clone());
        assert_eq!(alone.client, Client::Envoy { outbound: "127.0.0.1:9".parse().unwrap() });
        assert_eq!(alone.certificates, secrets(None));
        let of_an_agent = [said, vec![("sds", string("agent"))]].concat();
        assert_eq!(envoy(of_an_agent).certificates, secrets(Some("agent")));
    }

    #[test]
    fn a_sidecar_says_why_what_it_was_sent_makes_no_mesh() {
        let read = |ours| Caller::read(&node("outrigger", ours)).turned_down;
        assert_eq!(read(vec![]), None);
        assert_eq!(read(vec![("turned_down", string("a host of two"))]).as_deref(), Some("a host of two"));
        let long = read(vec![("turned_down", string(&"x".repeat(WHY_BYTES_MAX + 1)))]);
        assert_eq!(long.map(|why| why.len()), Some(WHY_BYTES_MAX));
    }

    #[test]
    fn names_of_certificates_that_are_too_long_are_told_and_go_into_no_cluster() {
        let (fits, long) = ("x".repeat(WORD_BYTES_MAX), "x".repeat(WORD_BYTES_MAX + 1));
        let read = |agent, ours| {
            let caller = Caller::read(&node(agent, ours));
            (caller.audience.certificates, caller.faults.concat())
        };
        let provider = |name: &str| read("gRPC", vec![("certificate_provider", string(name))]);
        assert_eq!(provider(&fits), (Some(Certificates::Provider(fits.clone())), String::new()));
        let says = |key: &str| format!("metadata.outrigger.{key}: 257 bytes; write at most 256");
        assert_eq!(provider(&long), (None, says("certificate_provider")));
        let secrets = |identity: &str, roots: &str, sds: &str| {
            let said = [("identity", identity), ("roots", roots), ("sds", sds)];
            let block = mapping(said.map(|(key, name)| (key, string(name))).into());
            read("envoy", vec![("certificates", block)])
        };
        assert_eq!(secrets(&long, "roots", "agent"), (None, says("certificates.identity")));
        assert_eq!(secrets("me", &long, "agent"), (None, says("certificates.roots")));
        assert_eq!(secrets("me", "roots", &long), (None, says("certificates.sds")));
        let (_, said) = secrets("/tls.pem", "/ca.crt", "agent");
        assert!(said.contains("certificates.sds: nothing is asked of it"), "{said}");
    }

    #[test]
    fn a_client_without_a_node_is_one_of_grpc_without_certificates() {
        let caller = Caller::read(&Node::default());
        assert_eq!(caller.audience, Audience { client: Client::Grpc, certificates: None });
        assert_eq!((caller.id.as_str(), caller.service), ("", None));
    }

    #[test]
    fn a_sidecar_announces_no_more_than_it_may() {
        let one = mapping(vec![("service", string("s")), ("address", string("10.0.0.1:1"))]);
        let list = Value::ListValue(ListValue { values: vec![one; REGISTRATIONS_MAX + 1] });
        let caller =
            Caller::read(&node("outrigger", vec![("endpoints", protobuf::Value { kind: Some(list) })]));
        assert!(caller.too_many_endpoints);
        assert_eq!((caller.endpoints.len(), caller.faults.len()), (REGISTRATIONS_MAX, 1));
    }

    #[test]
    fn an_endpoint_is_announced_with_few_short_labels_that_a_mesh_file_could_have() {
        let announce = |zone: &str, labels: Vec<(&str, protobuf::Value)>| {
            let one = mapping(vec![
                ("service", string("s")),
                ("address", string("10.0.0.1:1")),
                ("zone", string(zone)),
                ("labels", mapping(labels)),
            ]);
            let list = protobuf::Value { kind: Some(Value::ListValue(ListValue { values: vec![one] })) };
            let caller = Caller::read(&node("outrigger", vec![("endpoints", list)]));
            (caller.endpoints.len(), caller.faults.concat())
        };
        let keys: Vec<String> = (0..=LABELS_MAX).map(|n| format!("k{n}")).collect();
        let labels = |n: usize| keys[..n].iter().map(|key| (key.as_str(), string("v"))).collect::<Vec<_>>();
        assert_eq!(announce("a", labels(LABELS_MAX)), (1, String::new()));
        let long = "x".repeat(WORD_BYTES_MAX + 1);
        for (zone, labels, why) in [
            ("a", labels(LABELS_MAX + 1), "17 `labels`; announce at most 16"),
            ("a", vec![("k", string(&long))], "`labels.k` has a text of 257 bytes"),
            ("a", vec![(long.as_str(), string("v"))], "`labels` has a text of 257 bytes"),
            ("a", vec![("k", string("two words"))], "`labels.k`: "),
            ("a", vec![("k", mapping(vec![]))], "`labels.k` is no text"),
            (long.as_str(), vec![], "`zone` has a text of 257 bytes"),
        ] {
            let (endpoints, fault) = announce(zone, labels);
            assert_eq!(endpoints, 0, "{why}");
            assert!(fault.starts_with("metadata.outrigger.endpoints[0]: ") && fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_holds() {
        let good = mapping(vec![
            ("service", string("orders")),
            ("address", string("10.0.0.1:15006")),
            ("zone", string("a")),
            ("labels", mapping(vec![("version", string("v2"))])),
        ]);
        let bad = mapping(vec![("service", string("orders")), ("address", string("orders:1"))]);
        let list = protobuf::Value { kind: Some(Value::ListValue(ListValue { values: vec![good, bad] })) };
        let caller =
            Caller::read(&node("outrigger", vec![("namespace", string("shop")), ("endpoints", list)]));
        assert_eq!(
            caller.endpoints,
            [Announced {
                service: "orders".to_owned(),
                namespace: "shop".to_owned(),
                address: "10.0.0.1:15006".parse().unwrap(),
                zone: Some("a".to_owned()),
                labels: vec![("version".to_owned(), "v2".to_owned())],
            }]
        );
        assert_eq!(caller.faults, ["metadata.outrigger.endpoints[1]: `orders:1` is no ADDRESS:PORT"]);
    }
}
