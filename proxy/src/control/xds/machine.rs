//! One stream's protocol, whichever it is: what to send, and what an answer means. Pure: time is an argument.

use bytes::{BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use tokio::time::Instant;
use xds::Kind;

use crate::control::xds::book::Book;
use crate::control::xds::delta::Delta;
use crate::control::xds::settings::Protocol;
use crate::control::xds::sotw::Sotw;
use crate::control::xds::wire::{Answer, read_delta, read_sotw};
use crate::failure::clip;
use crate::grpc::status::Code;

/// Words of a NACK, at most: they pass through headers and logs of others.
const NACK_BYTES_MAX: usize = 4_096;

/// The protocol of one stream.
#[derive(Debug)]
pub(crate) enum Machine {
    Delta(Delta),
    Sotw(Box<Sotw>),
}

impl Machine {
    pub(crate) fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Delta => Self::Delta(Delta::default()),
            Protocol::Sotw => Self::Sotw(Box::default()),
        }
    }

    /// The first requests.
    pub(crate) fn begin(&mut self, book: &Book, node: Node) -> Vec<Bytes> {
        match self {
            Self::Delta(delta) => frames(&delta.begin(book, node)),
            Self::Sotw(sotw) => frames(&sotw.begin(book, node)),
        }
    }

    /// Requests where wishes have changed.
    pub(crate) fn follow(&mut self, book: &Book) -> Vec<Bytes> {
        match self {
            Self::Delta(delta) => frames(&delta.follow(book)),
            Self::Sotw(sotw) => frames(&sotw.follow(book)),
        }
    }

    /// Says anew who we are.
    pub(crate) fn announce(&self, node: Node) -> Bytes {
        match self {
            Self::Delta(_) => frame(&Delta::announce(node)),
            Self::Sotw(sotw) => frame(&sotw.announce(node)),
        }
    }

    /// Reads an answer; the error says why it is none.
    pub(crate) fn reader(&self) -> fn(Bytes) -> Result<Answer, String> {
        match self {
            Self::Delta(_) => read_delta,
            Self::Sotw(_) => read_sotw,
        }
    }

    /// Whether resources have versions of their own.
    pub(crate) fn by_version(&self) -> bool {
        matches!(self, Self::Delta(_))
    }

    /// Names that are no more, by this answer.
    pub(crate) fn gone(&mut self, kind: Kind, answer: &Answer, book: &Book, now: Instant) -> Vec<String> {
        match self {
            Self::Delta(_) => answer.removed.clone(),
            Self::Sotw(sotw) => sotw.gone(kind, answer, book, now),
        }
    }

    /// ACK, or NACK with what was refused.
    pub(crate) fn note(&mut self, kind: Kind, answer: &Answer, refused: &[String]) -> Bytes {
        let fault = (!refused.is_empty()).then(|| fault(&refused.join("; ")));
        match self {
            Self::Delta(_) => frame(&Delta::note(&answer.type_url, &answer.nonce, fault)),
            Self::Sotw(sotw) => frame(&sotw.note(kind, answer, fault)),
        }
    }

    /// Listeners that do not exist, since they have not come for so long.
    pub(crate) fn conclude(&mut self, now: Instant) -> Vec<String> {
        match self {
            Self::Delta(_) => Vec::new(),
            Self::Sotw(sotw) => sotw.conclude(now),
        }
    }

    /// When [`Machine::conclude`] has something to say.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self {
            Self::Delta(_) => None,
            Self::Sotw(sotw) => sotw.due(),
        }
    }
}

fn fault(why: &str) -> Status {
    let message = clip(why, NACK_BYTES_MAX).to_owned();
    Status { code: i32::from(Code::InvalidArgument.number()), message, details: Vec::new() }
}

fn frames<M: Message>(requests: &[M]) -> Vec<Bytes> {
    requests.iter().map(frame).collect()
}

/// A gRPC message with its prefix.
pub(crate) fn frame(request: &impl Message) -> Bytes {
    let length = request.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    // No request comes near 4 GiB: names and versions of what is held, which is bounded.
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A buffer that grows has room.
    let _ = request.encode(&mut framed);
    framed.freeze()
}
