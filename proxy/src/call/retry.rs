//! Whether a call that failed goes out once more (gRFC A6). Pure.

use std::time::Duration;

use config::repeats::Retries;
use http::HeaderMap;
use http::header::HeaderName;

use crate::balance::backoff::back_off;
use crate::grpc::status::Code;
use crate::metrics::events::Cause;

/// Attempts of the same call before this one, as a server reads it.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// What a server has to say of another attempt.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How an attempt failed before the call was committed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No endpoint could be reached.
    Unplaced,
    /// Nothing of it was processed.
    Unprocessed,
    /// It ended with a status.
    Status(Code, Pushback),
    /// It broke; this is the status that it would end with.
    Broken(Code),
    /// It took longer than an attempt may.
    TimedOut,
}

/// What a server says of another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    Nothing,
    /// In so long.
    After(Duration),
    /// Not at all.
    Never,
}

impl Pushback {
    /// Of trailers: a signed number of 32 bits; a negative one asks for none, and so does what is no such number (A6).
    pub(crate) fn of(trailers: &HeaderMap) -> Self {
        let Some(value) = trailers.get(PUSHBACK) else { return Self::Nothing };
        let ms = value.to_str().ok().and_then(|value| value.parse::<i32>().ok());
        match ms.and_then(|ms| u64::try_from(ms).ok()) {
            Some(ms) => Self::After(Duration::from_millis(ms)),
            None => Self::Never,
        }
    }
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: this is how the call ends.
    End,
    /// Another one.
    Again { cause: Cause, wait: Duration },
}

/// What has been tried of a call.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// Attempts after the first that count against `max_attempts`.
    pub(crate) retries: u32,
    /// Waits since the last one that a server asked for.
    waits: u32,
    /// It has gone elsewhere once because nothing of it was processed.
    went_elsewhere: bool,
    /// How often it went out once more.
    pub(crate) repeats: u32,
}

impl Tries {
    /// Whether no attempt can follow that may have been processed.
    pub(crate) fn is_last(&self, rule: Option<&Retries>, idempotent: bool) -> bool {
        !idempotent || rule.is_none_or(|rule| self.retries + 1 >= rule.max_attempts)
    }

    /// What comes after an attempt that failed. `rule`: that of the call, if it has one; `idempotent`: the method may be
    /// processed more than once.
    pub(crate) fn next(
        &mut self,
        rule: Option<&Retries>,
        idempotent: bool,
        failed: Failed,
        random: u64,
    ) -> Next {
        if failed == Failed::Unprocessed && !self.went_elsewhere {
            self.went_elsewhere = true;
            return Next::Again { cause: Cause::Unprocessed, wait: Duration::ZERO };
        }
        let Some(rule) = rule else { return Next::End };
        let (cause, pushback) = match failed {
            Failed::Unplaced | Failed::Unprocessed if rule.codes.contains(Code::Unavailable.number()) => {
                (Cause::Unprocessed, Pushback::Nothing)
            }
            Failed::Status(code, pushback) if idempotent && rule.codes.contains(code.number()) => {
                (Cause::Status, pushback)
            }
            Failed::Broken(code) if idempotent && rule.codes.contains(code.number()) => {
                (Cause::Broken, Pushback::Nothing)
            }
            Failed::TimedOut if idempotent => (Cause::TimedOut, Pushback::Nothing),
            _ => return Next::End,
        };
        if self.retries + 1 >= rule.max_attempts || pushback == Pushback::Never {
            return Next::End;
        }
        self.retries += 1;
        let wait = match pushback {
            Pushback::After(wait) => {
                self.waits = 0;
                wait
            }
            _ => {
                self.waits += 1;
                back_off(&rule.backoff, self.waits - 1, random)
            }
        };
        Next::Again { cause, wait }
    }
}

/// Tells the server of one more attempt before the next one. A caller may have tried by itself as well.
pub(crate) fn count_attempt(headers: &mut HeaderMap) {
    let before = headers.get(PREVIOUS_ATTEMPTS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    headers.insert(PREVIOUS_ATTEMPTS, before.unwrap_or_default().saturating_add(1).into());
}

#[cfg(test)]
mod tests {
    use config::code::Codes;

    use super::*;

    const UNAVAILABLE: Failed = Failed::Status(Code::Unavailable, Pushback::Nothing);
    const MS: Duration = Duration::from_millis(1);
    /// In the middle of the jitter.
    const HALF: u64 = u64::MAX / 2;

    fn rule(max_attempts: u32) -> Retries {
        Retries { max_attempts, ..Retries::default() }
    }

    fn waits(rule: &Retries, failures: &[Failed]) -> Vec<Option<u128>> {
        let mut tries = Tries::default();
        let next = |failed: &Failed| match tries.next(Some(rule), true, *failed, HALF) {
            Next::Again { wait, .. } => Some((wait.as_secs_f64() * 1e3).round() as u128),
            Next::End => None,
        };
        failures.iter().map(next).collect()
    }

    #[test]
    fn attempts_are_counted_with_the_first_one_and_wait_longer_each_time() {
        assert_eq!(waits(&rule(4), &[UNAVAILABLE; 4]), [Some(50), Some(100), Some(200), None]);
        assert_eq!(waits(&rule(1), &[UNAVAILABLE]), [None]);
        let long = waits(&rule(10), &[UNAVAILABLE; 10]);
        assert_eq!(long[8..], [Some(1_000), None]);
    }

    #[test]
    fn only_what_the_rule_names_is_repeated() {
        let rule = Retries { codes: [8, 14].into_iter().collect(), ..rule(2) };
        let again = |failed| Tries::default().next(Some(&rule), true, failed, HALF) != Next::End;
        for code in crate::grpc::status::ALL {
            let named = matches!(code, Code::ResourceExhausted | Code::Unavailable);
            assert_eq!(again(Failed::Status(code, Pushback::Nothing)), named, "{code:?}");
            assert_eq!(again(Failed::Broken(code)), named, "{code:?}");
        }
        assert!(again(Failed::TimedOut));
        let nothing = Retries { codes: Codes::default(), ..rule };
        assert_ne!(Tries::default().next(Some(&nothing), true, Failed::TimedOut, HALF), Next::End);
    }

    #[test]
    fn what_may_have_been_processed_is_not_repeated_where_that_would_harm() {
        for failed in [UNAVAILABLE, Failed::Broken(Code::Unavailable), Failed::TimedOut] {
            assert_eq!(Tries::default().next(Some(&rule(5)), false, failed, HALF), Next::End, "{failed:?}");
        }
        let mut tries = Tries::default();
        assert_ne!(tries.next(Some(&rule(5)), false, Failed::Unprocessed, HALF), Next::End);
        assert_ne!(tries.next(Some(&rule(5)), false, Failed::Unprocessed, HALF), Next::End);
    }

    #[test]
    fn what_was_not_processed_goes_elsewhere_once_at_once_and_counts_for_nothing() {
        let mut tries = Tries::default();
        let again = Next::Again { cause: Cause::Unprocessed, wait: Duration::ZERO };
        assert_eq!(tries.next(None, true, Failed::Unprocessed, HALF), again);
        assert_eq!(tries.retries, 0);
        assert_eq!(tries.next(None, true, Failed::Unprocessed, HALF), Next::End);
        assert_eq!(
            waits(&rule(2), &[Failed::Unprocessed, UNAVAILABLE, UNAVAILABLE]),
            [Some(0), Some(50), None]
        );
        assert_eq!(waits(&rule(2), &[Failed::Unprocessed; 3]), [Some(0), Some(50), None]);
    }

    #[test]
    fn what_found_no_endpoint_waits_for_one_where_unavailable_is_retried() {
        assert_eq!(Tries::default().next(None, true, Failed::Unplaced, HALF), Next::End);
        assert_eq!(waits(&rule(3), &[Failed::Unplaced; 3]), [Some(50), Some(100), None]);
        let other = Retries { codes: [8].into_iter().collect(), ..rule(3) };
        assert_eq!(waits(&other, &[Failed::Unplaced]), [None]);
        assert_ne!(Tries::default().next(Some(&rule(3)), false, Failed::Unplaced, HALF), Next::End);
    }

    #[test]
    fn a_server_may_name_the_wait_or_ask_for_none() {
        let pushed = |pushback| Failed::Status(Code::Unavailable, pushback);
        let failures = [UNAVAILABLE, UNAVAILABLE, pushed(Pushback::After(7 * MS)), UNAVAILABLE];
        let expected = [Some(50), Some(100), Some(7), Some(50)];
        assert_eq!(waits(&rule(9), &failures), expected, "the back-off begins anew");
        assert_eq!(waits(&rule(9), &[pushed(Pushback::Never)]), [None]);
    }

    #[test]
    fn pushback_is_read_as_a6_says() {
        let read = |value: Option<&str>| {
            let mut trailers = HeaderMap::new();
            if let Some(value) = value {
                trailers.insert(PUSHBACK, value.parse().unwrap());
            }
            Pushback::of(&trailers)
        };
        assert_eq!(read(None), Pushback::Nothing);
        assert_eq!(read(Some("0")), Pushback::After(Duration::ZERO));
        assert_eq!(read(Some("250")), Pushback::After(250 * MS));
        for never in ["-1", "", "soon", "1.5", "2147483648", "99999999999"] {
            assert_eq!(read(Some(never)), Pushback::Never, "{never:?}");
        }
    }

    #[test]
    fn attempts_of_the_caller_itself_are_counted_too() {
        let mut headers = HeaderMap::new();
        count_attempt(&mut headers);
        assert_eq!(headers[PREVIOUS_ATTEMPTS], "1");
        headers.insert(PREVIOUS_ATTEMPTS, "3".parse().unwrap());
        count_attempt(&mut headers);
        assert_eq!(headers[PREVIOUS_ATTEMPTS], "4");
    }
}
