//! Shares: parts per million in the model, percent on the wire.

use crate::pb::percent::Percent;

/// All of something, in parts per million.
pub(crate) const ALL: u32 = 1_000_000;

/// Parts per million in one percent.
pub(crate) const PERCENT: u32 = 10_000;

/// A share as a percentage with decimals. Each is read back as itself.
pub(crate) fn percent(ppm: u32) -> Percent {
    Percent { value: f64::from(ppm) / f64::from(PERCENT) }
}

/// Reads a percentage of 0 to 100, rounded to the nearest part per million.
pub(crate) fn ppm(percent: f64) -> Option<u32> {
    (0.0..=100.0).contains(&percent).then(|| (percent * f64::from(PERCENT)).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_per_million_is_read_back_as_itself() {
        for part in 0..=ALL {
            assert_eq!(ppm(percent(part).value), Some(part));
        }
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(ppm(bad), None, "{bad}");
        }
    }
}
