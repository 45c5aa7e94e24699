//! The request's head on its way through: what is taken off, put on and passed along.

use std::mem::take;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use crate::call::origin::{Origin, Way};
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::grpc::timeout;
use crate::tables::headers::HeaderRules;

/// By an inbound sidecar: nothing of this call reached the app. Believed only from an mTLS peer.
pub(crate) const UNPROCESSED: HeaderName = HeaderName::from_static("outrigger-unprocessed");
/// How long the caller waits (gRPC over HTTP2, "Timeout").
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Who the caller is, in Envoy's format.
const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Whether a request is gRPC: POST and `application/grpc`, `application/grpc+...` or `application/grpc;...`.
pub(crate) fn is_grpc(parts: &Parts) -> bool {
    parts.headers.get(CONTENT_TYPE).is_some_and(names_grpc) && parts.method == Method::POST
}

/// Whether a content type is that of gRPC.
pub(crate) fn names_grpc(kind: &HeaderValue) -> bool {
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Why a request is answered by an HTTP status alone, whatever it speaks.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: Reason,
    pub(crate) message: &'static str,
}

/// Whether a request cannot be taken in at all, with lists of headers within `limit`.
pub(crate) fn refusal(head: &Parts, limit: u32) -> Option<Refusal> {
    if head.method == Method::CONNECT {
        let message = "CONNECT is spoken here by HTTP/1.1, not inside of HTTP/2";
        return Some(Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: Reason::NoTunnel, message });
    }
    is_too_long(head, limit).then_some(Refusal {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        reason: Reason::HeadTooLong,
        message: "HPACK would write the head in more bytes than `limits.header_list` lets pass; send fewer rare characters",
    })
}

/// Whether a list that is within `limit` may become one that ends the next peer's connection once HPACK has written
/// it: h2 writes every text in Huffman code, where rare characters take up to 30 bits (RFC 7541, appendix B), and takes
/// no more CONTINUATION frames than five or what `limit` and a quarter need.
fn is_too_long(head: &Parts, limit: u32) -> bool {
    let limit = limit as usize;
    let most = BLOCK_BYTES_SURE.max(limit + limit / 4);
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let scheme = head.uri.scheme_str().unwrap_or_default();
    let sum = |length: fn(&[u8]) -> usize| {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            length(name.as_str().as_bytes()) + length(value.as_bytes())
        };
        let fields: usize = head.headers.iter().map(field).sum();
        let pseudo = [head.method.as_str(), scheme, authority, path];
        pseudo.into_iter().map(|text| length(text.as_bytes())).sum::<usize>() + fields
    };
    // Almost always it is plain from the length.
    sum(<[u8]>::len) > most / 4 && sum(huffman_bytes) > most
}

/// Five CONTINUATION frames of 16 KiB.
const BLOCK_BYTES_SURE: usize = 80 << 10;

/// How long a text is in HPACK's Huffman code at most.
fn huffman_bytes(text: &[u8]) -> usize {
    let bits = text.iter().map(|byte| match *byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => 8,
        b' ' | b'%' | b'&' | b'*' | b',' | b'-' | b'.' | b'/' | b':' | b';' | b'=' | b'_' => 8,
        b'\\' => 19,
        b' '..=b'~' => 15,
        _ => 30,
    });
    bits.sum::<usize>().div_ceil(8)
}

/// Sees to it that `:authority` alone says which service is called. Where it is missing, `host` stands in for it
/// (RFC 9113, section 8.3.1); where both are there, they must not contradict each other.
pub(crate) fn settle_authority(head: &mut Parts) -> Result<(), Failure> {
    let malformed = |what: &str| Err(Failure::new(Reason::MalformedRequest, Code::Internal, what));
    let mut hosts = head.headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return match head.uri.authority() {
            Some(_) => Ok(()),
            None => malformed("neither :authority nor host says which service is called"),
        };
    };
    if hosts.any(|other| other != host) {
        return malformed("there is more than one host");
    }
    if let Some(authority) = head.uri.authority() {
        let same = authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes());
        return if same { Ok(()) } else { malformed(":authority and host differ") };
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let Ok(uri) = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build()
    else {
        return malformed("host is not the name of a host");
    };
    head.uri = uri;
    head.headers.remove(HOST);
    Ok(())
}

/// Makes the head that came the one that every attempt sends, but for the trace and the time left.
pub(crate) fn prepare(head: &mut Parts, origin: &Origin, rules: Option<&HeaderRules>) {
    let headers = &mut head.headers;
    match &origin.way {
        Way::Inbound { forwarded: Some(value), .. } => {
            headers.insert(FORWARDED_CLIENT_CERT, value.clone());
        }
        _ => {
            headers.remove(FORWARDED_CLIENT_CERT);
        }
    }
    if let Some(rules) = rules {
        rules.request.apply(headers);
    }
}

/// The request of one attempt. It is a copy if there may be another attempt, else it takes what is in `head`.
pub(crate) fn request(head: &mut Parts, keep_head: bool) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    if keep_head {
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
    } else {
        *request.uri_mut() = take(&mut head.uri);
        *request.headers_mut() = take(&mut head.headers);
    }
    request
}

/// Writes how much time is left.
pub(crate) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    if let Ok(mut value) = HeaderValue::try_from(timeout::format(left)) {
        // It differs from call to call: not to be kept in HPACK's table, where every call would look through it.
        value.set_sensitive(true);
        headers.insert(TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_too_long_only_for_what_hpack_makes_of_it() {
        let limit = 64 << 10;
        let long = |text: &[u8], length: usize| {
            let value = text.iter().copied().cycle().take(length).collect::<Vec<u8>>();
            let request = Request::post("http://echo.shop/a.B/C").header("x-long", value).body(());
            is_too_long(&request.unwrap().into_parts().0, limit)
        };
        assert!(!long(b"YmFzZTY0/base64+=", 60_000));
        assert!(!long(br#"{"key": "some JSON", "more": [1, 2, 3]}"#, 50_000));
        assert!(long(b"\\", 40_000) && long(b"\xff", 30_000));
        assert!(!long(b"\\", 30_000) && !long(b"\xff", 20_000));
        let request = |length: usize| {
            let method = Method::from_bytes(&b"!".repeat(length)).unwrap();
            Request::builder().method(method).uri("http://echo.shop/").body(()).unwrap().into_parts().0
        };
        assert!(is_too_long(&request(60_000), limit) && !is_too_long(&request(40_000), limit));
    }
}
