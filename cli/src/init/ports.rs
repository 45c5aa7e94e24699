//! Lists of ports as people write them: `9090`, `9000-9100`, `25,3306`.

use std::fmt;
use std::str::FromStr;

/// Ports in ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// The ranges, both ends included.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.ranges().any(|(from, to)| (from..=to).contains(&port))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ports of both.
    pub(crate) fn union(&self, other: &Self) -> Self {
        self.ranges().chain(other.ranges()).collect()
    }
}

impl FromIterator<(u16, u16)> for Ports {
    fn from_iter<I: IntoIterator<Item = (u16, u16)>>(ranges: I) -> Self {
        let mut sorted: Vec<(u16, u16)> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(sorted.len());
        for (from, to) in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(from) <= u32::from(last.1) + 1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        ports.into_iter().map(|port| (port, port)).collect()
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').filter(|part| !part.trim().is_empty()).map(range).collect()
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.trim().parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("`{}` is no port; ports are 1 to 65535", text.trim())),
        Ok(port) => Ok(port),
    };
    let (from, to) = match text.split_once('-') {
        Some((from, to)) => (port(from)?, port(to)?),
        None => (port(text)?, port(text)?),
    };
    if from > to {
        return Err(format!("`{}` runs backwards; write `{to}-{from}`", text.trim()));
    }
    Ok((from, to))
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.ranges().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match from == to {
                true => write!(f, "{comma}{from}")?,
                false => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        text.parse::<Ports>().map(|ports| ports.to_string())
    }

    #[test]
    fn ports_are_sorted_and_ranges_that_overlap_or_touch_become_one() {
        assert_eq!(read("9000-9100, 25,9050-9200,26,65535").as_deref(), Ok("25-26, 9000-9200, 65535"));
        assert_eq!(read("1-65535,80").as_deref(), Ok("1-65535"));
        assert_eq!(read("").as_deref(), Ok(""));
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (text, wrong) in [
            ("80,http", "`http` is no port"),
            ("0", "`0` is no port"),
            ("65536", "`65536` is no port"),
            ("-1", "`` is no port"),
            ("90-80", "write `80-90`"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(wrong), "{text}: {told}");
        }
    }
}
