//! One name, asked for both kinds of address; and the questions of the workers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use config::model::Dns;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::dns::Question;

/// A question is repeated this often, as far as the time for it allows.
const REPEATS: usize = 2;
/// Questions of workers that are asked at the same time.
const AT_ONCE: usize = 64;

/// Asks name servers.
#[derive(Clone)]
pub(crate) struct Lookups {
    resolver: Result<TokioResolver, Arc<str>>,
    limit: Duration,
}

/// What came of asking for one kind of address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Addresses, never none, and how long they hold.
    Some(Vec<IpAddr>, Duration),
    /// The servers say that there is none; in words.
    None(String),
    /// There was no answer; in words.
    Failed(String),
}

impl Lookups {
    /// What cannot be read is told when a name is asked for.
    pub(crate) fn new(settings: &Dns) -> Self {
        let resolver = build(settings)
            .map_err(|error| format!("/etc/resolv.conf: {error}; name the servers in `dns.servers`").into());
        Self { resolver, limit: settings.timeout }
    }

    /// All addresses of `host`, never none; or why there is none.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        all(self.ask(host).await)
    }

    /// Asks for the IPv4 and the IPv6 addresses of `host`.
    pub(crate) async fn ask(&self, host: &str) -> [Found; 2] {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(error) => return [(); 2].map(|()| Found::Failed(error.to_string())),
        };
        let ask = async |kind| match timeout(self.limit, resolver.lookup(host, kind)).await {
            Ok(answer) => found(answer),
            Err(_) => Found::Failed(format!("no answer within {:?}", self.limit)),
        };
        let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
        [v4, v6]
    }
}

/// Answers the workers' questions for as long as the process lives.
pub(crate) async fn serve(lookups: Lookups, mut asked: mpsc::Receiver<Question>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(Question { host, answer }) = asked.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let lookups = lookups.clone();
        tokio::spawn(async move {
            let _place = place;
            let mut answer = answer;
            tokio::select! {
                // Whoever asked has gone.
                () = answer.closed() => {}
                found = lookups.ask(&host) => drop(answer.send(all(found))),
            }
        });
    }
}

/// All addresses of both kinds, or why there is none.
fn all(found: [Found; 2]) -> Result<Vec<IpAddr>, String> {
    let mut why = String::new();
    let mut addresses = Vec::new();
    for found in found {
        match found {
            Found::Some(some, _) => addresses.extend(some),
            Found::Failed(error) => why = error,
            Found::None(error) if why.is_empty() => why = error,
            Found::None(_) => {}
        }
    }
    if addresses.is_empty() { Err(why) } else { Ok(addresses) }
}

fn build(settings: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if settings.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = settings.servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // How long an answer holds is decided by whoever asks.
    options.cache_size = 0;
    options.attempts = REPEATS;
    options.timeout = settings.timeout / (REPEATS as u32 + 1);
    builder.build()
}

fn found(answer: Result<Lookup, NetError>) -> Found {
    match answer {
        Ok(lookup) => {
            let mut addresses = Vec::new();
            let mut ttl = u32::MAX;
            for record in lookup.answers() {
                ttl = ttl.min(record.ttl);
                match &record.data {
                    RData::A(address) => addresses.push(IpAddr::V4(address.0)),
                    RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
                    _ => {}
                }
            }
            match addresses.is_empty() {
                true => Found::None(NO_ADDRESS.to_owned()),
                false => Found::Some(addresses, Duration::from_secs(ttl.into())),
            }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Found::None("there is no such name (NXDOMAIN)".to_owned()),
            ResponseCode::NoError => Found::None(NO_ADDRESS.to_owned()),
            code => Found::Failed(format!("the name server says {code}")),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => {
            Found::Failed(format!("the name server says {code}"))
        }
        Err(error) => Found::Failed(error.to_string()),
    }
}

const NO_ADDRESS: &str = "the name has no address";
