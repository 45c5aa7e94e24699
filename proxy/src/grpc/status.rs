//! gRPC status codes, what maps to them, and how a status is written on the wire.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use config::code::CODES as NAMES;
use h2::Reason;
use http::header::HeaderName;
use http::{HeaderMap, StatusCode};

/// Where a status stands: in the trailers, or in the head if that is all of the response.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How many status codes there are; metrics hold one counter for each.
pub(crate) const CODES: usize = 17;

/// A gRPC status code (gRPC core, `statuscodes.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// Every code, in the order of its number.
pub(crate) const ALL: [Code; CODES] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

impl Code {
    /// The number on the wire.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The value of the label `grpc_code`, as the go-grpc dashboards know it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "Canceled",
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Aborted => "Aborted",
            Self::OutOfRange => "OutOfRange",
            Self::Unimplemented => "Unimplemented",
            Self::Internal => "Internal",
            Self::Unavailable => "Unavailable",
            Self::DataLoss => "DataLoss",
            Self::Unauthenticated => "Unauthenticated",
        }
    }

    /// Its name as gRPC writes it.
    pub(crate) fn name(self) -> &'static str {
        NAMES[usize::from(self.number())]
    }

    /// Reads `grpc-status`; a number that is not a code counts as UNKNOWN.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(STATUS)?.as_bytes();
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
        Some(number.and_then(|n| ALL.get(n).copied()).unwrap_or(Self::Unknown))
    }

    /// What an HTTP status means when there is no `grpc-status` (gRPC core, `http-grpc-status-mapping.md`).
    pub(crate) fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What a RST_STREAM from an endpoint means (gRPC over HTTP2, "HTTP2 Error to Status").
    pub(crate) fn of_reset(reason: Reason) -> Self {
        match reason {
            Reason::REFUSED_STREAM => Self::Unavailable,
            Reason::CANCEL => Self::Cancelled,
            Reason::ENHANCE_YOUR_CALM => Self::ResourceExhausted,
            Reason::INADEQUATE_SECURITY => Self::PermissionDenied,
            _ => Self::Internal,
        }
    }
}

/// Percent-encodes a `grpc-message`: everything but printable ASCII, and `%` itself.
pub(crate) fn encode_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            out.push(byte as char);
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)] as char);
            out.push(HEX[usize::from(byte & 15)] as char);
        }
    }
    out
}

/// The `domain` of every ErrorInfo of ours.
const DOMAIN: &str = "outrigger";

/// `grpc-status-details-bin`: a `google.rpc.Status` with one `google.rpc.ErrorInfo` of the domain
/// `outrigger`, in base64 without padding. Written by hand: two flat messages are no reason for a
/// protobuf library in the data path.
pub(crate) fn error_details(code: Code, message: &str, reason: &str, metadata: &[(&str, &str)]) -> String {
    let mut info = Vec::with_capacity(128);
    put_bytes(&mut info, 1, reason.as_bytes());
    put_bytes(&mut info, 2, DOMAIN.as_bytes());
    for (key, value) in metadata {
        let mut entry = Vec::with_capacity(64);
        put_bytes(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, value.as_bytes());
        put_bytes(&mut info, 3, &entry);
    }
    let mut any = Vec::with_capacity(192);
    put_bytes(&mut any, 1, b"type.googleapis.com/google.rpc.ErrorInfo");
    put_bytes(&mut any, 2, &info);
    let mut status = Vec::with_capacity(256);
    status.extend_from_slice(&[1 << 3, code.number()]);
    put_bytes(&mut status, 2, message.as_bytes());
    put_bytes(&mut status, 3, &any);
    STANDARD_NO_PAD.encode(status)
}

/// Appends a length-delimited field (protobuf wire type 2).
fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_number() {
        for (number, code) in ALL.iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
        }
    }

    #[test]
    fn a_status_that_is_no_code_counts_as_unknown() {
        let mut headers = HeaderMap::new();
        assert_eq!(Code::of_headers(&headers), None);
        headers.insert("grpc-status", "14".parse().unwrap());
        assert_eq!(Code::of_headers(&headers), Some(Code::Unavailable));
        for odd in ["17", "-1", "ok", "999999999999999999999"] {
            headers.insert("grpc-status", odd.parse().unwrap());
            assert_eq!(Code::of_headers(&headers), Some(Code::Unknown), "{odd}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded_outside_printable_ascii() {
        assert_eq!(encode_message("50% of é\n"), "50%25 of %C3%A9%0A");
    }

    #[test]
    fn details_are_a_status_with_an_error_info() {
        let text = error_details(Code::Unavailable, "m", "R", &[("hop", "inbound")]);
        let bytes = STANDARD_NO_PAD.decode(text).unwrap();
        let mut expected = vec![0x08, 14, 0x12, 1, b'm', 0x1a];
        let url = b"type.googleapis.com/google.rpc.ErrorInfo";
        let info = b"\x0a\x01R\x12\x09outrigger\x1a\x0e\x0a\x03hop\x12\x07inbound";
        expected.push((2 + url.len() + 2 + info.len()) as u8);
        expected.extend_from_slice(&[0x0a, url.len() as u8]);
        expected.extend_from_slice(url);
        expected.extend_from_slice(&[0x12, info.len() as u8]);
        expected.extend_from_slice(info);
        assert_eq!(bytes, expected);
    }
}
