//! Counts gRPC messages in a stream of bytes (gRPC over HTTP2, "Length-Prefixed-Message"), so that a
//! stream's messages show in the metrics while it is open. Only prefixes are looked at; nothing is kept.

/// Where in the stream of length-prefixed messages we are.
///
/// ```text
/// Prefix(0..5 bytes seen) --5 bytes--> Body(left) --left = 0--> Prefix(0), one message counted
/// ```
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Bytes of the prefix seen, 0 to 4.
    prefix: u8,
    /// The length's bytes seen so far, as a number.
    length: u32,
    /// Bytes of the body still to come.
    left: u32,
}

impl Messages {
    /// Takes the next bytes; returns how many messages they completed.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> u64 {
        self.take_some(bytes, u64::MAX).1
    }

    /// Takes bytes until `max` messages are complete; returns how many it took, and how many messages they completed.
    #[inline]
    pub(crate) fn take_some(&mut self, mut bytes: &[u8], max: u64) -> (usize, u64) {
        let (length, mut complete) = (bytes.len(), 0);
        while !bytes.is_empty() && complete < max {
            if self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                self.left -= taken as u32;
                bytes = &bytes[taken..];
                complete += u64::from(self.left == 0);
            } else if self.prefix == 0 && bytes.len() >= 5 {
                self.left = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
                bytes = &bytes[5..];
                complete += u64::from(self.left == 0);
            } else {
                // The first byte is the compression flag; the next four are the length.
                if self.prefix > 0 {
                    self.length = self.length << 8 | u32::from(bytes[0]);
                }
                self.prefix += 1;
                bytes = &bytes[1..];
                if self.prefix == 5 {
                    self.left = self.length;
                    (self.prefix, self.length) = (0, 0);
                    complete += u64::from(self.left == 0);
                }
            }
        }
        (length - bytes.len(), complete)
    }

    /// Whether the bytes so far end between two messages.
    pub(crate) fn at_boundary(&self) -> bool {
        self.prefix == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, length) in lengths.iter().enumerate() {
            bytes.push((i % 2) as u8);
            bytes.extend_from_slice(&(*length as u32).to_be_bytes());
            bytes.extend(std::iter::repeat_n(0xff, *length));
        }
        bytes
    }

    #[test]
    fn the_count_does_not_depend_on_how_the_bytes_were_cut() {
        let bytes = stream(&[0, 1, 2, 300, 0, 0, 70_000, 5]);
        for cut in [1, 2, 3, 4, 5, 6, 7, 11, 1_000, bytes.len()] {
            let mut messages = Messages::default();
            let total: u64 = bytes.chunks(cut).map(|chunk| messages.take(chunk)).sum();
            assert_eq!(total, 8, "cut {cut}");
            assert!(messages.at_boundary());
        }
    }

    #[test]
    fn messages_are_taken_to_the_byte_however_many_stand_in_one_piece() {
        let lengths = [3, 0, 300, 1];
        let (bytes, ends) = (stream(&lengths), [8, 13, 318, 324]);
        for (count, end) in ends.into_iter().enumerate() {
            for cut in [1, 2, 5, 7, 100, bytes.len()] {
                let (mut messages, mut taken, mut left) = (Messages::default(), 0, count as u64 + 1);
                for chunk in bytes.chunks(cut) {
                    let (used, complete) = messages.take_some(chunk, left);
                    (taken, left) = (taken + used, left - complete);
                }
                assert_eq!((taken, left), (end, 0), "{} messages, cut {cut}", count + 1);
                assert!(messages.at_boundary());
            }
        }
        assert_eq!(Messages::default().take_some(&bytes, 0), (0, 0));
    }

    #[test]
    fn half_a_message_is_not_at_a_boundary() {
        let bytes = stream(&[3, 3]);
        for end in 1..bytes.len() {
            let mut messages = Messages::default();
            messages.take(&bytes[..end]);
            assert_eq!(messages.at_boundary(), end == 8, "{end}");
        }
    }
}
