//! The `grpc-timeout` header (gRPC over HTTP2, "Timeout").

use std::time::Duration;

/// The header's value was not 1 to 8 digits and one of `H M S m u n`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads a `grpc-timeout`; strict: no sign, no space, no more than eight digits.
pub(crate) fn parse(value: &[u8]) -> Result<Duration, Malformed> {
    let (unit, digits) = value.split_last().ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let amount = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(amount * 3_600)),
        b'M' => Ok(Duration::from_secs(amount * 60)),
        b'S' => Ok(Duration::from_secs(amount)),
        b'm' => Ok(Duration::from_millis(amount)),
        b'u' => Ok(Duration::from_micros(amount)),
        b'n' => Ok(Duration::from_nanos(amount)),
        _ => Err(Malformed),
    }
}

/// Writes a `grpc-timeout` in the finest unit that fits eight digits, rounded up, so that what is left of
/// a deadline never reads as zero and the next hop never gives up before this one.
pub(crate) fn format(left: Duration) -> String {
    const DIGITS_MAX: u128 = 99_999_999;
    let nanos = left.as_nanos().max(1);
    for (unit, size) in
        [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000), ('M', 60_000_000_000)]
    {
        let amount = u128::div_ceil(nanos, size);
        if amount <= DIGITS_MAX {
            return format!("{amount}{unit}");
        }
    }
    format!("{}H", u128::div_ceil(nanos, 3_600_000_000_000).min(DIGITS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        assert_eq!(parse(b"2H"), Ok(Duration::from_secs(7_200)));
        assert_eq!(parse(b"3M"), Ok(Duration::from_secs(180)));
        assert_eq!(parse(b"4S"), Ok(Duration::from_secs(4)));
        assert_eq!(parse(b"5m"), Ok(Duration::from_millis(5)));
        assert_eq!(parse(b"6u"), Ok(Duration::from_micros(6)));
        assert_eq!(parse(b"99999999n"), Ok(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn anything_else_is_malformed() {
        for bad in ["", "S", "5", "123456789S", "-1S", "+1S", " 1S", "1 S", "1s", "1.5S", "1SS", "٣S"] {
            assert_eq!(parse(bad.as_bytes()), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_never_shorter_and_at_most_a_hundred_thousandth_longer() {
        for nanos in [0_u64, 1, 999, 99_999_999, 100_000_000, 123_456_789_012, 99_999_999_000_001, u64::MAX] {
            let left = Duration::from_nanos(nanos);
            let text = format(left);
            assert!(text.len() <= 9, "{text}");
            let read = parse(text.as_bytes()).unwrap();
            assert!(read >= left, "{text}");
            assert!(read.as_nanos() <= left.as_nanos() + left.as_nanos() / 99_999 + 1, "{nanos} {text}");
        }
    }
}
