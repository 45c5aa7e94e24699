//! A response as bytes: the few fields around the resources are written here, the resources themselves are shared.
//!
//! A response is never one buffer. It is a list of pieces that are handed to HTTP/2 when there is room for them, so that a
//! client that does not read holds no copy of anything.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::ads::view::Entry;

/// Pieces from this size on are handed on as they are; smaller ones are copied together.
const COPY_BYTES_MAX: usize = 4 << 10;
/// gRPC over HTTP2, "Length-Prefixed-Message": a flag and four bytes of length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A message on its way out, with its gRPC prefix.
#[derive(Debug)]
pub(crate) struct Response {
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl Response {
    /// `DeltaDiscoveryResponse`.
    pub(crate) fn delta(
        version: &str,
        type_url: &str,
        nonce: &str,
        resources: &[Arc<Entry>],
        removed: &[Arc<str>],
    ) -> Self {
        let mut writer = Writer::default();
        writer.text(1, version);
        for entry in resources {
            let any = any_len(type_url, entry.bytes.len());
            let length = text_len(1, &entry.version) + text_len(3, &entry.name) + block_len(2, any);
            writer.open(2, length);
            writer.text(1, &entry.version);
            writer.text(3, &entry.name);
            writer.open(2, any);
            writer.any(type_url, &entry.bytes);
        }
        writer.text(4, type_url);
        writer.text(5, nonce);
        for name in removed {
            writer.text(6, name);
        }
        writer.finish()
    }

    /// `DiscoveryResponse`.
    pub(crate) fn sotw(version: &str, type_url: &str, nonce: &str, resources: &[Arc<Entry>]) -> Self {
        let mut writer = Writer::default();
        writer.text(1, version);
        for entry in resources {
            writer.open(2, any_len(type_url, entry.bytes.len()));
            writer.any(type_url, &entry.bytes);
        }
        writer.text(4, type_url);
        writer.text(5, nonce);
        writer.finish()
    }

    /// Any other message.
    pub(crate) fn message(message: &impl prost::Message) -> Self {
        let mut writer = Writer::default();
        writer.small.extend_from_slice(&message.encode_to_vec());
        writer.finish()
    }

    /// Bytes that are still to be taken.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Takes the next bytes, at most `max` of them and at least one if any are left.
    pub(crate) fn take(&mut self, max: usize) -> Bytes {
        let large = |piece: &Bytes| piece.len() >= COPY_BYTES_MAX;
        let taken = match self.pieces.front_mut() {
            None => return Bytes::new(),
            Some(first) if large(first) => first.split_to(max.min(first.len())),
            Some(_) => {
                let mut together = BytesMut::with_capacity(max.min(self.left));
                while let Some(piece) = self.pieces.front_mut().filter(|piece| !large(piece))
                    && together.len() < max
                {
                    together.put_slice(&piece.split_to(piece.len().min(max - together.len())));
                    if piece.is_empty() {
                        self.pieces.pop_front();
                    }
                }
                together.freeze()
            }
        };
        if self.pieces.front().is_some_and(Bytes::is_empty) {
            self.pieces.pop_front();
        }
        self.left -= taken.len();
        taken
    }
}

#[derive(Default)]
struct Writer {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    length: usize,
}

impl Writer {
    fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.open(tag, text.len());
            self.small.extend_from_slice(text.as_bytes());
        }
    }

    /// The key and the length of a field; its bytes come next.
    fn open(&mut self, tag: u32, length: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.small);
        encode_varint(length as u64, &mut self.small);
    }

    fn any(&mut self, type_url: &str, value: &Bytes) {
        self.text(1, type_url);
        if !value.is_empty() {
            self.open(2, value.len());
            self.shared(value);
        }
    }

    fn shared(&mut self, bytes: &Bytes) {
        let small = self.small.split().freeze();
        self.length += small.len() + bytes.len();
        self.pieces.push_back(small);
        self.pieces.push_back(bytes.clone());
    }

    fn finish(mut self) -> Response {
        self.length += self.small.len();
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.freeze());
        }
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        prefix.put_u8(0);
        // Nothing that we hold is as large as 4 GiB; a client would refuse it long before.
        prefix.put_u32(self.length as u32);
        self.pieces.push_front(prefix.freeze());
        Response { pieces: self.pieces, left: self.length + PREFIX_BYTES }
    }
}

fn block_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// Of a text field; empty texts are not written.
fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { block_len(tag, text.len()) }
}

fn any_len(type_url: &str, value: usize) -> usize {
    text_len(1, type_url) + if value == 0 { 0 } else { block_len(2, value) }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse, Resource,
    };
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message;

    use super::*;

    const URL: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    fn entries() -> Vec<Arc<Entry>> {
        [("a", 0), ("bee", 3), ("cc", 70_000), ("d", 4_096), ("e", 100)]
            .map(|(name, length)| Arc::new(Entry::of(name, "v1", Bytes::from(vec![7; length]))))
            .into()
    }

    fn whole(mut response: Response, cut: usize) -> Vec<u8> {
        let (mut bytes, length) = (Vec::new(), response.left());
        loop {
            let chunk = response.take(cut);
            assert!(chunk.len() <= cut);
            if chunk.is_empty() {
                break;
            }
            bytes.extend_from_slice(&chunk);
            assert_eq!(response.left(), length - bytes.len());
        }
        assert_eq!(bytes.len(), length);
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, length - PREFIX_BYTES);
        bytes.split_off(PREFIX_BYTES)
    }

    #[test]
    fn what_is_written_by_hand_is_what_prost_reads_however_it_was_cut() {
        let any = |entry: &Arc<Entry>| Any { type_url: URL.to_owned(), value: entry.bytes.to_vec() };
        let delta = DeltaDiscoveryResponse {
            system_version_info: "7".to_owned(),
            type_url: URL.to_owned(),
            nonce: "n".to_owned(),
            removed_resources: vec!["x".to_owned(), "y".to_owned()],
            resources: entries()
                .iter()
                .map(|entry| Resource {
                    name: entry.name.to_string(),
                    version: entry.version.clone(),
                    resource: Some(any(entry)),
                    ..Resource::default()
                })
                .collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let sotw = DiscoveryResponse {
            version_info: "7".to_owned(),
            type_url: URL.to_owned(),
            nonce: "n".to_owned(),
            resources: entries().iter().map(any).collect(),
            ..DiscoveryResponse::default()
        };
        for cut in [1, 7, 4_095, 4_096, 16_384, 1 << 20] {
            let response = Response::delta("7", URL, "n", &entries(), &["x".into(), "y".into()]);
            assert_eq!(DeltaDiscoveryResponse::decode(&*whole(response, cut)).unwrap(), delta, "cut {cut}");
            let response = Response::sotw("7", URL, "n", &entries());
            assert_eq!(DiscoveryResponse::decode(&*whole(response, cut)).unwrap(), sotw, "cut {cut}");
        }
        let response = Response::message(&sotw);
        assert_eq!(DiscoveryResponse::decode(&*whole(response, 100)).unwrap(), sotw);
    }

    #[test]
    fn resources_are_shared_and_not_copied() {
        let entries = entries();
        let large = entries[2].bytes.as_ptr_range();
        let mut response = Response::delta("7", URL, "n", &entries, &[]);
        let mut shared = 0;
        while response.left() > 0 {
            let chunk = response.take(16 << 10);
            shared += if large.contains(&chunk.as_ptr()) { chunk.len() } else { 0 };
        }
        // But for the end of it, which is copied together with what follows.
        assert!(shared > 70_000 - COPY_BYTES_MAX, "{shared}");
    }
}
