//! Numbers as trace headers write them: lower-case hex of a fixed width.

/// Writes a number into all of `out`, its low digits if it has more.
pub(crate) fn write(out: &mut [u8], mut number: u128) {
    for byte in out.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// Reads up to 32 digits; capitals are not among them.
pub(crate) fn read(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    text.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Reads an id of exactly `digits`, which is not 0.
pub(crate) fn read_id(text: &[u8], digits: usize) -> Option<u128> {
    read(text).filter(|id| text.len() == digits && *id != 0)
}

/// A trace's id as logs show it.
pub(crate) fn trace(id: u128) -> String {
    format!("{id:032x}")
}

/// A span's id as logs show it.
pub(crate) fn span(id: u64) -> String {
    format!("{id:016x}")
}
