//! SDS: the roots that everybody is to trust, as the secret `ROOTCA`. State of the world, pushed whenever they change.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::time::{Instant, sleep_until};

use crate::ads::counters::Limit;
use crate::ads::grpc::{Code, Ending, Messages, send};
use crate::ads::hub::Hub;
use crate::ads::limits::{STATUS_BURST, STATUS_PER_SECOND};
use crate::ads::pace::Pace;
use crate::ads::stream::{refusal, told};
use crate::ads::wire::Response;
use crate::ca::force::InForce;

/// The resource that Istio's agents ask for as well.
pub(crate) const ROOTS: &str = "ROOTCA";
const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// What a client has asked for and been told.
#[derive(Default)]
struct Told {
    /// It has asked for the roots.
    wants: bool,
    /// Which version it was told last.
    version: Option<String>,
    /// Responses so far.
    count: u64,
}

/// Serves a stream to its end.
pub(crate) async fn serve(hub: &Arc<Hub>, body: RecvStream, out: &mut SendStream<Bytes>) -> Ending {
    let Some(ca) = hub.ca() else {
        let what = "this control plane has no `ca`, whose roots would be told here";
        return Ending::new(Code::Unavailable, what);
    };
    let mut requests = Messages::new(body, hub.settings.request);
    let mut changes = ca.changes();
    let mut leaving = hub.leaving.subscribe();
    let mut seen = Told::default();
    let mut pace = Pace::new(STATUS_PER_SECOND, STATUS_BURST, Instant::now().into_std());
    // Of the first request only; what comes later may take its time.
    let mut due = Some(Instant::now() + hub.settings.first_words);
    loop {
        tokio::select! {
            request = poll_fn(|cx| requests.poll_next(cx)) => match request {
                Ok(Some(message)) => {
                    due = None;
                    if let Err(ending) = hear(hub, message, &mut seen) {
                        return ending;
                    }
                    if let Some(until) = pace.take(Instant::now().into_std()) {
                        hub.counters().refuse(Limit::RequestRate);
                        sleep_until(Instant::from_std(until)).await;
                    }
                }
                Ok(None) => return Ending::new(Code::Ok, ""),
                Err(unread) => return refusal(&unread, hub),
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                hub.counters().refuse(Limit::FirstWords);
                let limit = hub.settings.first_words;
                return Ending::new(Code::DeadlineExceeded, format!("no request within {limit:?}"));
            }
            changed = changes.changed() => if changed.is_err() {
                return Ending::new(Code::Unavailable, "the control plane is going");
            },
            () = told(&mut leaving) => {
                return Ending::new(Code::Unavailable, "the control plane is going");
            }
        }
        let in_force = ca.in_force();
        if !seen.wants || seen.version.as_ref() == Some(&in_force.version) {
            continue;
        }
        seen.count += 1;
        let response = Response::message(&roots(&in_force, seen.count));
        seen.version = Some(in_force.version.clone());
        if let Err(ending) = send(out, response).await {
            return ending;
        }
    }
}

/// A request: for the roots, or the answer to what was told.
fn hear(hub: &Hub, message: Bytes, told: &mut Told) -> Result<(), Ending> {
    hub.counters().requests.fetch_add(1, Relaxed);
    let request = DiscoveryRequest::decode(message).map_err(|error| {
        hub.counters().garbage.fetch_add(1, Relaxed);
        Ending::new(Code::InvalidArgument, format!("not a request: {error}"))
    })?;
    if !request.type_url.is_empty() && request.type_url != TYPE_URL {
        let what = format!("{} is not served here; {TYPE_URL} is", request.type_url);
        return Err(Ending::new(Code::InvalidArgument, what));
    }
    if request.error_detail.is_some() {
        // It holds what it had; the next version may suit it better.
        hub.counters().secrets_refused.fetch_add(1, Relaxed);
    }
    let wants = request.resource_names.iter().any(|name| name == ROOTS);
    if wants && !told.wants {
        told.version = None;
    }
    told.wants = wants;
    Ok(())
}

fn roots(in_force: &InForce, count: u64) -> DiscoveryResponse {
    let bundle = DataSource {
        specifier: Some(Specifier::InlineBytes(in_force.bundle.clone().into_bytes())),
        ..DataSource::default()
    };
    let context = CertificateValidationContext { trusted_ca: Some(bundle), ..Default::default() };
    let secret = Secret { name: ROOTS.to_owned(), r#type: Some(Type::ValidationContext(context)) };
    DiscoveryResponse {
        version_info: in_force.version.clone(),
        resources: vec![Any { type_url: TYPE_URL.to_owned(), value: secret.encode_to_vec() }],
        type_url: TYPE_URL.to_owned(),
        nonce: count.to_string(),
        ..DiscoveryResponse::default()
    }
}
