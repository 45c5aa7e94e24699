//! What a collector's answer means: taken, in part, not now, or never (OTLP specification, "Failures").

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, StatusCode};

use crate::control::otlp::proto::{rejected, retry_delay};
use crate::failure::clip;
use crate::grpc::status::Code;

/// Of what a collector says in words, so much is repeated.
const WORDS_BYTES_MAX: usize = 256;
/// The longest pause that a collector may ask for; what is longer than an export may take loses it anyway.
const AFTER_MAX: Duration = Duration::from_secs(86_400);
/// Binary metadata comes with padding or without (gRPC over HTTP2, "Custom-Metadata").
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An answer as it came.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) head: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    /// The beginning of it, the prefix of the message included.
    pub(crate) body: Vec<u8>,
}

/// Why an export did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// It may arrive if it is sent once more.
    pub(crate) again: bool,
    /// The collector asked to be left alone for so long.
    pub(crate) after: Option<Duration>,
    pub(crate) what: String,
}

impl Failure {
    pub(crate) fn passing(what: impl Into<String>) -> Self {
        Self { again: true, after: None, what: what.into() }
    }
}

impl Answer {
    /// How many spans were rejected, and why; or why none was taken.
    pub(crate) fn judge(&self) -> Result<(u64, String), Failure> {
        let in_trailers = |trailers: &&HeaderMap| trailers.contains_key("grpc-status");
        let fields = self.trailers.as_ref().filter(in_trailers).unwrap_or(&self.head);
        let code = Code::of_headers(fields).unwrap_or(match self.http {
            StatusCode::OK => Code::Unknown,
            status => Code::of_http(status),
        });
        if code == Code::Ok {
            let (rejected, why) = rejected(self.body.get(5..).unwrap_or_default());
            return Ok((rejected, clip(&why, WORDS_BYTES_MAX).to_owned()));
        }
        let text = |name| fields.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let delay = text("grpc-status-details-bin")
            .and_then(|details| BASE64.decode(details).ok())
            .and_then(|details| retry_delay(&details));
        let pushback = text("grpc-retry-pushback-ms");
        let asked = pushback.and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let again = match code {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            // Without a time it means that this export is too much, whenever it comes.
            Code::ResourceExhausted => delay.or(asked).is_some(),
            _ => false,
        };
        let said = clip(text("grpc-message").unwrap_or_default(), WORDS_BYTES_MAX);
        let what = match (self.http, said) {
            (StatusCode::OK, "") => code.name().to_owned(),
            (StatusCode::OK, said) => format!("{}: {said}", code.name()),
            (status, _) => format!("HTTP {}", status.as_u16()),
        };
        // A pushback that is no number, or a negative one, says no (gRFC A6).
        let again = again && (pushback.is_none() || asked.is_some());
        Err(Failure { again, after: delay.or(asked).map(|after| after.min(AFTER_MAX)), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn failure(pairs: &[(&'static str, &str)]) -> Failure {
        Answer { trailers: Some(fields(pairs)), ..Answer::default() }.judge().unwrap_err()
    }

    #[test]
    fn only_what_may_go_well_another_time_is_sent_again() {
        for (code, again) in
            [(1, true), (3, false), (4, true), (8, false), (12, false), (14, true), (15, true), (16, false)]
        {
            assert_eq!(failure(&[("grpc-status", &code.to_string())]).again, again, "{code}");
        }
        for (status, again) in [(503, true), (429, true), (404, false), (200, false)] {
            let answer = Answer { http: StatusCode::from_u16(status).unwrap(), ..Answer::default() };
            assert_eq!(answer.judge().unwrap_err().again, again, "{status}");
        }
    }

    #[test]
    fn what_a_collector_took_in_part_is_read() {
        let body = b"\0\0\0\0\x04\x0a\x02\x08\x03".to_vec();
        let answer = Answer { head: fields(&[("grpc-status", "0")]), body, ..Answer::default() };
        assert_eq!(answer.judge(), Ok((3, String::new())));
    }

    #[test]
    fn a_collector_that_is_exhausted_is_asked_again_only_when_it_says_when() {
        let status = status_with_retry(1, 500_000_000);
        for text in [BASE64.encode(&status), BASE64.encode(&status).trim_end_matches('=').to_owned()] {
            let failure = failure(&[("grpc-status", "8"), ("grpc-status-details-bin", &text)]);
            assert_eq!((failure.again, failure.after), (true, Some(Duration::from_millis(1_500))), "{text}");
        }
        for nonsense in ["", "%%%", &BASE64.encode(&status[..20])] {
            let failure = failure(&[("grpc-status", "8"), ("grpc-status-details-bin", nonsense)]);
            assert_eq!((failure.again, failure.after), (false, None), "{nonsense}");
        }
    }

    #[test]
    fn a_pushback_is_heard_and_one_that_is_no_time_says_no() {
        let after = |ms: &str| {
            let failure = failure(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", ms)]);
            failure.again.then_some(failure.after)
        };
        assert_eq!(after("250"), Some(Some(Duration::from_millis(250))));
        assert_eq!(after("0"), Some(Some(Duration::ZERO)));
        assert_eq!(after("18446744073709551615"), Some(Some(AFTER_MAX)));
        assert_eq!((after("-1"), after("soon")), (None, None));
    }

    /// `google.rpc.Status` with a `RetryInfo`, written out.
    fn status_with_retry(seconds: u8, nanos: u32) -> Vec<u8> {
        let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
        let mut duration = vec![1 << 3, seconds, 2 << 3];
        let mut left = nanos;
        while left >= 0x80 {
            duration.push(left as u8 | 0x80);
            left >>= 7;
        }
        duration.push(left as u8);
        let info = field(1, &duration);
        let other = [field(1, b"type.googleapis.com/google.rpc.Help"), field(2, b"")].concat();
        let retry = [field(1, b"type.googleapis.com/google.rpc.RetryInfo"), field(2, &info)].concat();
        [vec![1 << 3, 8], field(2, b"full"), field(3, &other), field(3, &retry)].concat()
    }
}
