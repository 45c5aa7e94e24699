//! What an answer of `grpc.health.v1.Health/Check` means.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::control::health::board::Finding;
use crate::grpc::status::{Code, STATUS};

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Characters of an endpoint's own words that are kept.
const WORDS_MAX: usize = 200;
/// Of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// An answer as it came.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) head: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A `HealthCheckRequest` with its prefix.
pub(crate) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 4);
    if !service.is_empty() {
        // Field 1, a string.
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or_default();
    [&[0], &length.to_be_bytes()[..], &message].concat()
}

impl Answer {
    /// What it says of the endpoint, and why in words; `service` is what was asked for.
    pub(crate) fn judge(&self, service: &str) -> (Finding, String) {
        if self.http != StatusCode::OK {
            return (Finding::Error, format!("HTTP status {}", self.http));
        }
        let headers = self.trailers.as_ref().filter(|trailers| trailers.contains_key(STATUS));
        let headers = headers.unwrap_or(&self.head);
        let Some(code) = Code::of_headers(headers) else {
            return (Finding::Error, "the answer ended without a grpc-status".to_owned());
        };
        match code {
            Code::Ok => self.serving(),
            Code::Unimplemented => {
                (Finding::Unimplemented, "it does not know grpc.health.v1.Health".to_owned())
            }
            Code::NotFound => {
                (Finding::Error, format!("NOT_FOUND: it does not know the service `{service}`"))
            }
            Code::PermissionDenied => (
                Finding::Error,
                "PERMISSION_DENIED: its authorization must allow grpc.health.v1.Health/Check".to_owned(),
            ),
            code => (Finding::Error, format!("status {}{}", code.name(), said(headers))),
        }
    }

    fn serving(&self) -> (Finding, String) {
        let status = message(&self.body).and_then(serving_status);
        match status {
            Some(1) => (Finding::Healthy, String::new()),
            Some(0) => (Finding::NotServing, "it says UNKNOWN".to_owned()),
            Some(2) => (Finding::NotServing, "it says NOT_SERVING".to_owned()),
            Some(3) => (Finding::NotServing, "it says SERVICE_UNKNOWN".to_owned()),
            Some(other) => (Finding::NotServing, format!("it says {other}, which is no ServingStatus")),
            None => (Finding::Error, "its answer is no HealthCheckResponse".to_owned()),
        }
    }
}

/// The endpoint's own words, as far as they can be shown.
fn said(headers: &HeaderMap) -> String {
    let words = headers.get(MESSAGE).and_then(|words| words.to_str().ok()).unwrap_or_default();
    match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.chars().take(WORDS_MAX).collect::<String>()),
    }
}

/// The one message of a body; `None`: it is compressed, cut, or not alone.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    (prefix[0] == 0 && message.len() == length).then_some(message)
}

/// Field 1 of a `HealthCheckResponse`; 0 where it is left out, as proto3 has it. The last one counts.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

/// The next varint; at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer(code: i32, body: &[u8]) -> Answer {
        let mut trailers = HeaderMap::new();
        trailers.insert(STATUS, HeaderValue::from(code));
        Answer { body: body.to_vec(), trailers: Some(trailers), ..Answer::default() }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, message.len() as u8], message].concat()
    }

    fn finding(answer: &Answer) -> Finding {
        answer.judge("shop.Orders").0
    }

    #[test]
    fn serving_is_healthy_and_every_other_status_of_the_service_is_not() {
        assert_eq!(finding(&answer(0, &framed(&[0x08, 1]))), Finding::Healthy);
        for (message, said) in [
            (&[0x08, 2][..], "NOT_SERVING"),
            (&[0x08, 3], "SERVICE_UNKNOWN"),
            (&[], "UNKNOWN"),
            (&[0x08, 9], "9"),
        ] {
            let (finding, why) = answer(0, &framed(message)).judge("");
            assert_eq!(finding, Finding::NotServing);
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn fields_that_are_not_known_are_passed_over() {
        let message =
            [&[0x12, 2, 8, 2][..], &[0x08, 1], &[0x19, 1, 2, 3, 4, 5, 6, 7, 8], &[0x25, 1, 2, 3, 4]].concat();
        assert_eq!(finding(&answer(0, &framed(&message))), Finding::Healthy);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let broken: [&[u8]; 8] = [
            b"",
            b"\0\0\0",
            &[1, 0, 0, 0, 2, 0x08, 1],
            &[0, 0, 0, 0, 9, 0x08, 1],
            &[0, 0, 0, 0, 1, 0x08],
            &[0, 0, 0, 0, 2, 0x0b, 1],
            &[0, 0, 0, 0, 3, 0x12, 0xff, 0xff],
            &[0, 0, 0, 0, 12, 0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        ];
        for body in broken {
            assert_eq!(finding(&answer(0, body)), Finding::Error, "{body:?}");
        }
        assert_eq!(finding(&Answer::default()), Finding::Error);
        let http = Answer { http: StatusCode::BAD_GATEWAY, ..answer(0, &framed(&[0x08, 1])) };
        assert_eq!(finding(&http), Finding::Error);
    }

    #[test]
    fn a_server_that_does_not_know_the_service_is_told_apart_from_one_that_refuses() {
        assert_eq!(finding(&answer(12, b"")), Finding::Unimplemented);
        for (code, said) in
            [(5, "`shop.Orders`"), (7, "must allow grpc.health.v1.Health/Check"), (14, "UNAVAILABLE")]
        {
            let (finding, why) = answer(code, b"").judge("shop.Orders");
            assert_eq!(finding, Finding::Error);
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn a_status_in_the_head_counts_where_there_are_no_trailers() {
        let mut head = HeaderMap::new();
        head.insert(STATUS, HeaderValue::from(12));
        head.insert(MESSAGE, HeaderValue::from_static("no"));
        assert_eq!(finding(&Answer { head, ..Answer::default() }), Finding::Unimplemented);
    }

    #[test]
    fn the_request_is_a_message_of_one_string() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 303);
    }
}
