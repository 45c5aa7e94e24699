//! Durations, sizes and addresses, as the YAML writes them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::fault::Wrong;

/// The longest duration: past it a clock could overflow, and nobody means it.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Units, the largest first, as a duration such as `1m30s` must use them.
const UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// Reads `250ms`, `5s`, `1m30s`, `1h`: whole numbers with a unit, the larger unit first.
pub(crate) fn duration(text: &str, min: Duration) -> Result<Duration, Wrong> {
    let wrong = || {
        Wrong::new(format!("`{text}` is not a duration"))
            .hint("write whole numbers with units, the largest first: `250ms`, `5s`, `1m30s`, `1h`")
    };
    let mut rest = text;
    let mut micros: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        let (_, size) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        micros = number.checked_mul(*size).and_then(|part| micros.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let read = Duration::from_micros(micros);
    if read < min {
        return Err(match micros {
            0 => Wrong::new(format!("`{text}` is no time at all")).hint("write more than 0s"),
            _ => Wrong::new(format!("`{text}` is too short")).hint(format!("write at least {min:?}")),
        });
    }
    if read > DURATION_MAX {
        return Err(Wrong::new(format!("`{text}` is more than a year")).hint("write at most `8760h`"));
    }
    Ok(read)
}

/// Reads `64KiB`, `1MiB` or a plain number of bytes.
pub(crate) fn size(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let wrong = || {
        Wrong::new(format!("`{text}` is not a size"))
            .hint("write a whole number of bytes, or one with `KiB`, `MiB` or `GiB`: `64KiB`")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim_start_matches(' ');
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let read = number.checked_mul(*bytes).ok_or_else(wrong)?;
    if read < min || read > max {
        let range = format!("write {} to {}", shown(min), shown(max));
        return Err(Wrong::new(format!("`{text}` is out of range")).hint(range));
    }
    Ok(read)
}

/// Reads `20%` or `0.5%`, from 0% to 100%, as parts per million.
pub(crate) fn percentage(text: &str) -> Result<u64, Wrong> {
    let wrong = || {
        Wrong::new(format!("`{text}` is not a percentage"))
            .hint("write a number from 0 to 100 and `%`, with at most four decimals: `20%`, `0.5%`")
    };
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 4 {
        return Err(wrong());
    }
    let millionths = format!("{decimals:0<4}").parse::<u64>().map_err(|_| wrong())?;
    let read = whole.parse::<u64>().map_err(|_| wrong())? * 10_000 + millionths;
    if read > 1_000_000 {
        return Err(Wrong::new(format!("`{text}` is more than all")).hint("write at most `100%`"));
    }
    Ok(read)
}

/// Reads `2` or `1.6`: digits, and decimals after a point.
pub(crate) fn number(text: &str, min: f64, max: f64) -> Result<f64, Wrong> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let Some(read) = text.parse::<f64>().ok().filter(|_| plain) else {
        let wrong = Wrong::new(format!("`{text}` is not a plain number"));
        return Err(wrong.hint("write digits, and decimals after a point: `2` or `1.6`"));
    };
    if !(min..=max).contains(&read) {
        let wrong = Wrong::new(format!("{text} is out of range"));
        return Err(wrong.hint(format!("write {min} to {max}")));
    }
    Ok(read)
}

/// Reads `100/s`, as a number per second.
pub(crate) fn rate(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let number = text.strip_suffix("/s").filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
    let Some(read) = number.and_then(|number| number.parse::<u64>().ok()) else {
        let wrong = Wrong::new(format!("`{text}` is not a rate"));
        return Err(wrong.hint("write a whole number and `/s`: `100/s`"));
    };
    if read < min || read > max {
        let wrong = Wrong::new(format!("`{text}` is out of range"));
        return Err(wrong.hint(format!("write `{min}/s` to `{max}/s`")));
    }
    Ok(read)
}

/// Reads `ip:port`. Without `port_zero` it is an address to dial: a port, and an address that is somebody's.
pub(crate) fn address(text: &str, port_zero: bool) -> Result<SocketAddr, Wrong> {
    let Ok(read) = text.parse::<SocketAddr>() else {
        let wrong = Wrong::new(format!("`{text}` is not an address"));
        return Err(wrong.hint(match text.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V6(_)) => format!("add a port: `[{text}]:50051`"),
            Ok(std::net::IpAddr::V4(_)) => format!("add a port: `{text}:50051`"),
            Err(_) => {
                "write `ip:port`, as `10.0.0.7:15006` or `[::1]:15006`; a name stands as `{dns: \"name:port\"}` in \
                 `endpoints`"
                    .to_owned()
            }
        }));
    };
    if port_zero {
        return Ok(read);
    }
    if read.port() == 0 {
        return Err(Wrong::new(format!("`{text}` has no port to dial")).hint("write a port from 1 to 65535"));
    }
    if read.ip().is_unspecified() {
        let wrong = Wrong::new(format!("`{text}` cannot be dialled"));
        return Err(wrong.hint(format!("write a real address, as `127.0.0.1:{}`", read.port())));
    }
    Ok(read)
}

/// A size as people write it.
pub(crate) fn shown(bytes: u64) -> String {
    for (name, unit) in [SIZES[2], SIZES[1], SIZES[0]] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Duration = Duration::ZERO;

    #[test]
    fn durations_are_whole_numbers_with_units_the_largest_first() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("1m30s", 90_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(duration(text, ANY), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("7us", ANY), Ok(Duration::from_micros(7)));
        for text in ["", "5", "s", "1.5s", "-1s", "30s1m", "1s1s", "5 s", "5S", "1d", "99999999999999999999s"]
        {
            assert!(duration(text, ANY).is_err(), "{text}");
        }
        assert!(duration("18446744073709551615h", ANY).is_err());
        assert!(duration("8761h", ANY).is_err());
        assert!(duration("0s", Duration::from_micros(1)).is_err());
    }

    #[test]
    fn sizes_are_bytes_or_binary_multiples() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("512", 512), ("2GiB", 2 << 30)] {
            assert_eq!(size(text, 0, u64::MAX), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64KB", "64kib", "-1", "1.5MiB", "18446744073709551615KiB"] {
            assert!(size(text, 0, u64::MAX).is_err(), "{text}");
        }
        assert!(size("1KiB", 2_048, 4_096).is_err());
        assert_eq!(shown(65_536), "64KiB");
        assert_eq!(shown(1_500), "1500");
    }

    #[test]
    fn percentages_are_parts_of_all_and_rates_are_per_second() {
        for (text, millionths) in
            [("0%", 0), ("20%", 200_000), ("0.5%", 5_000), ("0.0001%", 1), ("100%", 1_000_000)]
        {
            assert_eq!(percentage(text), Ok(millionths), "{text}");
        }
        for text in ["", "%", "20", "101%", "100.1%", "-1%", "1.%", ".5%", "0.00001%", "1e1%", "20 %"] {
            assert!(percentage(text).is_err(), "{text}");
        }
        assert_eq!(rate("100/s", 1, 100), Ok(100));
        for text in ["", "/s", "100", "101/s", "0/s", "-1/s", "1.5/s", "10/m", "10 /s"] {
            assert!(rate(text, 1, 100).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_to_dial_has_a_port_and_is_somebodys() {
        assert!(address("127.0.0.1:0", true).is_ok());
        assert!(address("[::1]:50051", false).is_ok());
        for text in
            ["127.0.0.1:0", "0.0.0.0:1", "[::]:1", "localhost:80", "10.0.0.1", "::1", "10.0.0.1:65536"]
        {
            assert!(address(text, false).is_err(), "{text}");
        }
    }
}
