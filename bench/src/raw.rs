//! HTTP/2 frames by hand, for what h2 would never send (RFC 9113, section 4.1 and 6).

use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;

/// What a client sends first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113, section 6).
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
}

/// One frame; `payload` must be below 16 MiB.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9 + payload.len());
    let length = u32::try_from(payload.len()).expect("a frame is below 16 MiB");
    bytes.put_uint(u64::from(length), 3);
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(stream);
    bytes.put_slice(payload);
    bytes.freeze()
}

/// GOAWAY: streams above `last` were not looked at (RFC 9113, section 6.8).
pub fn goaway(last: u32, reason: Reason) -> Bytes {
    let mut payload = BytesMut::with_capacity(8);
    payload.put_u32(last);
    payload.put_u32(reason.into());
    frame(kind::GOAWAY, 0, 0, &payload)
}

/// An empty SETTINGS frame, which both sides owe each other first.
pub fn settings() -> Bytes {
    frame(kind::SETTINGS, 0, 0, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_is_the_bytes_of_the_rfc() {
        let want = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 11];
        assert_eq!(goaway(5, Reason::ENHANCE_YOUR_CALM)[..], want);
    }
}
