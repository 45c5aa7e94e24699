//! The request's head on its way through: what is taken off, put on and passed along.

use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Method, Request};

use crate::call::origin::{Origin, Way};
use crate::grpc::timeout;
use crate::tables::headers::HeaderRules;
use crate::trace;

/// By an inbound sidecar: nothing of this call reached the app. Believed only from an mTLS peer.
pub(crate) const UNPROCESSED: &str = "outrigger-unprocessed";
/// Who the caller is, in Envoy's format.
const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Whether a request is gRPC: POST and `application/grpc`, `application/grpc+...` or `application/grpc;...`.
pub(crate) fn is_grpc(parts: &Parts) -> bool {
    let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) else { return false };
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    parts.method == Method::POST && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The head that every attempt sends, but for the time left.
pub(crate) fn forward(
    parts: Parts,
    origin: &Origin,
    rules: Option<&HeaderRules>,
    random: &mut fastrand::Rng,
) -> Request<()> {
    let mut headers = parts.headers;
    headers.remove(FORWARDED_CLIENT_CERT);
    if let Way::Inbound { forwarded: Some(value), .. } = &origin.way {
        headers.insert(FORWARDED_CLIENT_CERT, value.clone());
    }
    if let Some(rules) = rules {
        rules.request.apply(&mut headers);
    }
    trace::continue_or_begin(&mut headers, random);
    let mut request = Request::new(());
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = headers;
    *request.version_mut() = http::Version::HTTP_2;
    request
}

/// Writes how much time is left.
pub(crate) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    if let Ok(value) = HeaderValue::try_from(timeout::format(left)) {
        headers.insert("grpc-timeout", value);
    }
}
