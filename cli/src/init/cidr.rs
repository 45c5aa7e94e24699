//! The two protocols, and ranges of their addresses: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The two protocols, each of which has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A range of addresses (RFC 4632); no bit below the prefix is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cidr {
    base: IpAddr,
    prefix: u8,
}

impl Cidr {
    pub(crate) fn family(&self) -> Family {
        if self.base.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Whether all of `other` is in it.
    fn contains(&self, other: &Self) -> bool {
        self.family() == other.family()
            && self.prefix <= other.prefix
            && masked(other.base, self.prefix) == self.base
    }
}

/// Those of one protocol, without any that another holds already: nft takes no overlaps.
pub(crate) fn apart(ranges: &[Cidr], family: Family) -> Vec<Cidr> {
    let mut sorted: Vec<Cidr> = ranges.iter().copied().filter(|range| range.family() == family).collect();
    sorted.sort_unstable();
    let mut kept: Vec<Cidr> = Vec::with_capacity(sorted.len());
    for range in sorted {
        if !kept.last().is_some_and(|last| last.contains(&range)) {
            kept.push(range);
        }
    }
    kept
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(base, prefix)| (base, Some(prefix)));
        let base: IpAddr = address.parse().map_err(|_| {
            format!("`{address}` is no IP address; write a range such as 10.0.0.0/8 or fd00::/8")
        })?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| match prefix.parse() {
            Ok(bits) if bits <= longest => Ok(bits),
            _ => Err(format!("`/{prefix}` is no prefix of {base}; it is 0 to {longest}")),
        })?;
        let range = Self { base: masked(base, prefix), prefix };
        if range.base == base {
            Ok(range)
        } else {
            Err(format!("`{text}` has bits set below its prefix; write `{range}` or `{base}`"))
        }
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        text.parse::<Cidr>().map(|range| range.to_string())
    }

    #[test]
    fn a_range_has_no_bits_below_its_prefix_and_an_address_is_a_range_of_one() {
        assert_eq!(read("10.0.0.0/8").as_deref(), Ok("10.0.0.0/8"));
        assert_eq!(read("0.0.0.0/0").as_deref(), Ok("0.0.0.0/0"));
        assert_eq!(read("::/0").as_deref(), Ok("::/0"));
        assert_eq!(read("10.1.2.3").as_deref(), Ok("10.1.2.3/32"));
        assert_eq!(read("fd00::1").as_deref(), Ok("fd00::1/128"));
        let told = read("10.1.2.3/8").expect_err("bits below the prefix");
        assert!(told.contains("write `10.0.0.0/8` or `10.1.2.3`"), "{told}");
    }

    #[test]
    fn what_is_no_range_is_named() {
        for (text, wrong) in [
            ("example.org/8", "`example.org` is no IP address"),
            ("", "`` is no IP address"),
            ("10.0.0.0/33", "`/33` is no prefix of 10.0.0.0; it is 0 to 32"),
            ("fd00::/129", "it is 0 to 128"),
            ("10.0.0.0/", "`/` is no prefix"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(wrong), "{text}: {told}");
        }
    }

    #[test]
    fn ranges_within_others_are_left_out_and_families_are_apart() {
        let ranges =
            ["10.1.0.0/16", "fd00::/8", "10.0.0.0/8", "11.0.0.0/8", "10.2.3.4", "11.0.0.0/8", "fd00::1"]
                .map(|text| text.parse().expect("a range"));
        let told = |family| apart(&ranges, family).iter().map(Cidr::to_string).collect::<Vec<_>>();
        assert_eq!(told(Family::V4), ["10.0.0.0/8", "11.0.0.0/8"]);
        assert_eq!(told(Family::V6), ["fd00::/8"]);
    }
}
