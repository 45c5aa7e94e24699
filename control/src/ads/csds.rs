//! CSDS, the client status discovery service: what each proxy holds, for stock tools.
//!
//! A resource is SYNCED (acknowledged in its newest version), STALE (sent, not answered yet), NOT_SENT (its newest version is
//! still to be sent) or in ERROR (refused).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::{Any, Timestamp};
use prost::Message;
use tokio::task::yield_now;

use crate::ads::channel::Channel;
use crate::ads::grpc::{Code, Ending};
use crate::ads::limits::STATUS_BYTES_MAX;
use crate::ads::registry::{Proxy, Registry};
use crate::ads::view::Entry;

/// Answers a request. The resources themselves are in the answer where one proxy was asked for, unless the request wants none.
pub(crate) async fn answer(
    request: &ClientStatusRequest,
    registry: &Registry,
) -> Result<ClientStatusResponse, Ending> {
    let mut found = Vec::new();
    for proxy in registry.all() {
        if matches(&request.node_matchers, &proxy.session().caller.id)? {
            found.push(proxy);
        }
    }
    let contents = !request.exclude_resource_contents && found.len() == 1;
    let (mut response, mut bytes) = (ClientStatusResponse::default(), 0);
    for proxy in found {
        let config = config(&proxy, contents);
        // Of a thousand proxies it takes a while; streams go on meanwhile.
        yield_now().await;
        bytes += config.encoded_len();
        if bytes > STATUS_BYTES_MAX {
            let what =
                format!("more than {STATUS_BYTES_MAX} bytes; ask for fewer proxies by `node_matchers`");
            return Err(Ending::new(Code::ResourceExhausted, what));
        }
        response.config.push(config);
    }
    Ok(response)
}

/// Whether one of the matchers takes the id; without any every id is taken.
fn matches(matchers: &[NodeMatcher], id: &str) -> Result<bool, Ending> {
    let unknown = |what| Err(Ending::new(Code::InvalidArgument, format!("node_matchers: {what}")));
    for matcher in matchers {
        if !matcher.node_metadatas.is_empty() {
            return unknown("`node_metadatas` is not supported; use `node_id`");
        }
        let Some(StringMatcher { match_pattern: Some(pattern), ignore_case }) = &matcher.node_id else {
            return Ok(true);
        };
        let fold = |text: &str| if *ignore_case { text.to_lowercase() } else { text.to_owned() };
        let id = fold(id);
        let hit = match pattern {
            MatchPattern::Exact(text) => id == fold(text),
            MatchPattern::Prefix(text) => id.starts_with(&fold(text)),
            MatchPattern::Suffix(text) => id.ends_with(&fold(text)),
            MatchPattern::Contains(text) => id.contains(&fold(text)),
            _ => return unknown("`node_id` takes `exact`, `prefix`, `suffix` or `contains`"),
        };
        if hit {
            return Ok(true);
        }
    }
    Ok(matchers.is_empty())
}

fn config(proxy: &Proxy, contents: bool) -> ClientConfig {
    let session = proxy.session();
    let mut configs = Vec::new();
    for channel in session.channels.iter().flatten() {
        let mut names: BTreeMap<&str, Option<Arc<Entry>>> = BTreeMap::new();
        names.extend(channel.held.keys().map(|name| (&**name, channel.lingering.get(name).cloned())));
        let wanted = session.wanted_of(channel);
        names.extend(wanted.iter().map(|entry| (&*entry.name, Some(entry.clone()))));
        let in_flight: HashSet<&str> =
            channel.flight.iter().flat_map(|flight| &flight.names).map(|name| &**name).collect();
        for (name, entry) in names {
            let one = one(channel, name, entry.as_deref(), in_flight.contains(name), contents);
            configs.push(GenericXdsConfig {
                version_info: entry
                    .map_or_else(|| session.view.version.clone(), |entry| entry.version.clone()),
                ..one
            });
        }
    }
    let caller = &session.caller;
    let node = Node {
        id: caller.id.clone(),
        user_agent_name: caller.user_agent.split(' ').next().unwrap_or_default().to_owned(),
        user_agent_version_type: caller
            .user_agent
            .split_once(' ')
            .map(|(_, version)| UserAgentVersionType::UserAgentVersion(version.to_owned())),
        ..Node::default()
    };
    ClientConfig { node: Some(node), generic_xds_configs: configs, ..ClientConfig::default() }
}

fn one(
    channel: &Channel,
    name: &str,
    entry: Option<&Entry>,
    in_flight: bool,
    contents: bool,
) -> GenericXdsConfig {
    let rejected = channel.rejected.contains(name);
    let newest = entry.is_some_and(|entry| channel.held.get(name) == Some(&entry.hash));
    let (config_status, client_status) = match (rejected, in_flight, newest) {
        (_, true, true) => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        (true, _, true) => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        (_, _, true) => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        _ => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
    };
    let error_state = channel.nack.as_ref().filter(|_| rejected).map(|nack| UpdateFailureState {
        last_update_attempt: Some(timestamp(nack.at)),
        details: nack.reason.clone(),
        version_info: nack.version.clone(),
        failed_configuration: None,
    });
    let any =
        |entry: &Entry| Any { type_url: channel.kind.type_url().to_owned(), value: entry.bytes.to_vec() };
    GenericXdsConfig {
        type_url: channel.kind.type_url().to_owned(),
        name: name.to_owned(),
        version_info: String::new(),
        xds_config: entry.filter(|_| contents).map(any),
        last_updated: channel.acked.as_ref().map(|(_, at)| timestamp(*at)),
        config_status: config_status.into(),
        client_status: client_status.into(),
        error_state,
        is_static_resource: false,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}
