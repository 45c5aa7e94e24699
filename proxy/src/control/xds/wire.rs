//! Answers of a control plane, read as far as we need them.
//!
//! The messages are written out here with the fields that we look at alone: what is not looked at costs no memory, and
//! the bytes of resources are not copied. Requests are written with the generated types.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use xds::Kind;

/// Resources and names in one answer, at most: each takes more memory than the few bytes it may come as.
pub(crate) const ENTRIES_MAX: usize = 100_000;
/// The longest version that is kept, of an answer or of a resource in it, in bytes; and the longest name of a resource. Both
/// are sent back, and kept in several places.
pub(crate) const WORD_BYTES_MAX: usize = 1_024;
/// A wrapper that state-of-the-world may have, for the sake of its name.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What a control plane has answered.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) type_url: String,
    pub(crate) nonce: String,
    /// Of all of it.
    pub(crate) version: String,
    pub(crate) entries: Vec<Entry>,
    /// Names that are no more, or never were (delta).
    pub(crate) removed: Vec<String>,
    /// What the control plane calls itself.
    pub(crate) identifier: String,
}

/// A resource in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) version: Arc<str>,
    /// What it says that it is.
    pub(crate) type_url: String,
    /// `None`: the control plane only says that it is still good.
    pub(crate) bytes: Option<Bytes>,
}

/// Reads a `DeltaDiscoveryResponse`. The error says why it is none.
pub(crate) fn read_delta(message: Bytes) -> Result<Answer, String> {
    bounded(&message)?;
    let DeltaResponse { version, resources, type_url, nonce, removed, control_plane, removed_names } =
        DeltaResponse::decode(message).map_err(|error| format!("no DeltaDiscoveryResponse: {error}"))?;
    if nonce.len() > WORD_BYTES_MAX {
        return Err(long_word(nonce.len()));
    }
    let removed = removed.into_iter().chain(removed_names.into_iter().map(|one| one.name)).collect();
    let entries = resources.into_iter().map(Entry::of_delta).collect();
    let identifier = control_plane.unwrap_or_default().identifier;
    Ok(Answer { type_url, nonce, version, entries, removed, identifier })
}

/// Reads a `DiscoveryResponse`. The error says why it is none.
pub(crate) fn read_sotw(message: Bytes) -> Result<Answer, String> {
    bounded(&message)?;
    let Response { version, resources, type_url, nonce, control_plane } =
        Response::decode(message).map_err(|error| format!("no DiscoveryResponse: {error}"))?;
    if version.len() > WORD_BYTES_MAX || nonce.len() > WORD_BYTES_MAX {
        return Err(long_word(version.len().max(nonce.len())));
    }
    // All of them have one version, and share it.
    let of_all: Arc<str> = version.as_str().into();
    let entries = resources.into_iter().map(|any| Entry::of_sotw(any, &of_all)).collect();
    let identifier = control_plane.unwrap_or_default().identifier;
    Ok(Answer { type_url, nonce, version, entries, removed: Vec::new(), identifier })
}

impl Answer {
    /// What it is about, if that is anything of ours.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::of(&self.type_url)
    }

    /// How long its resources are.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().filter_map(|entry| entry.bytes.as_ref()).map(Bytes::len).sum()
    }
}

impl Entry {
    fn of_delta(resource: Resource) -> Self {
        let Resource { version, resource, name } = resource;
        let (type_url, bytes) = resource.map_or((String::new(), None), |any| (any.type_url, Some(any.value)));
        Self { name, version: version.into(), type_url, bytes }
    }

    /// State-of-the-world has no names beside the resources: they are their own first field, in all four kinds.
    fn of_sotw(any: Any, version: &Arc<str>) -> Self {
        let (any, name) = match any.type_url == WRAPPER {
            false => (any, String::new()),
            true => match Resource::decode(any.value) {
                Ok(Resource { resource: Some(inner), name, .. }) => (inner, name),
                _ => (Any { type_url: WRAPPER.to_owned(), value: Bytes::new() }, String::new()),
            },
        };
        let name = if name.is_empty() { first_text(&any.value).unwrap_or_default() } else { name };
        Self { name, version: version.clone(), type_url: any.type_url, bytes: Some(any.value) }
    }
}

fn long_word(length: usize) -> String {
    format!("an answer whose version or nonce has {length} bytes; at most {WORD_BYTES_MAX} are sent back")
}

/// Counts the fields of a message, without keeping any.
fn bounded(mut message: &[u8]) -> Result<(), String> {
    let garbage = |error: prost::DecodeError| format!("no protobuf: {error}");
    let mut fields = 0_usize;
    while !message.is_empty() {
        fields += 1;
        if fields > ENTRIES_MAX {
            return Err(format!(
                "an answer of more than {ENTRIES_MAX} resources and names; it must come in parts"
            ));
        }
        let (tag, wire_type) = decode_key(&mut message).map_err(garbage)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut message).map_err(garbage)?;
            let rest = usize::try_from(length).ok().and_then(|length| message.get(length..));
            message = rest.ok_or("no protobuf: a field is longer than the message")?;
        } else {
            skip_field(wire_type, tag, &mut message, DecodeContext::default()).map_err(garbage)?;
        }
    }
    Ok(())
}

/// The text in field 1, also of what is broken behind it: the name of what is refused is to be told.
fn first_text(mut message: &[u8]) -> Option<String> {
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).ok()?;
        if (tag, wire_type) == (1, WireType::LengthDelimited) {
            let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
            return String::from_utf8(message.get(..length)?.to_vec()).ok();
        }
        skip_field(wire_type, tag, &mut message, DecodeContext::default()).ok()?;
    }
    None
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeltaResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed: Vec<String>,
    #[prost(message, optional, tag = "7")]
    control_plane: Option<ControlPlane>,
    #[prost(message, repeated, tag = "8")]
    removed_names: Vec<Named>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Any>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(message, optional, tag = "6")]
    control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, optional, tag = "2")]
    resource: Option<Any>,
    #[prost(string, tag = "3")]
    name: String,
}

/// `google.protobuf.Any`, its value shared with the message that it came in.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `envoy.config.core.v3.ControlPlane`.
#[derive(Clone, PartialEq, prost::Message)]
struct ControlPlane {
    #[prost(string, tag = "1")]
    identifier: String,
}

/// Whatever has its name first.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::ControlPlane as WireControlPlane;
    use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse, Resource as WireResource, ResourceName,
    };
    use envoy_types::pb::google::protobuf::Any as WireAny;

    use super::*;

    fn any(kind: Kind, value: Vec<u8>) -> WireAny {
        WireAny { type_url: kind.type_url().to_owned(), value }
    }

    fn named(name: &str) -> Vec<u8> {
        Named { name: name.to_owned() }.encode_to_vec()
    }

    #[test]
    fn what_the_generated_types_write_is_read() {
        let control_plane = Some(WireControlPlane { identifier: "outrigger".to_owned() });
        let resource = WireResource {
            name: "s.n".to_owned(),
            version: "7".to_owned(),
            resource: Some(any(Kind::Cluster, b"\x0a\x03s.n".to_vec())),
            ..WireResource::default()
        };
        let delta = DeltaDiscoveryResponse {
            system_version_info: "1".to_owned(),
            resources: vec![resource, WireResource { name: "t.n".to_owned(), ..WireResource::default() }],
            type_url: Kind::Cluster.type_url().to_owned(),
            nonce: "n".to_owned(),
            removed_resources: vec!["u.n".to_owned()],
            removed_resource_names: vec![ResourceName { name: "v.n".to_owned(), ..ResourceName::default() }],
            control_plane: control_plane.clone(),
            ..DeltaDiscoveryResponse::default()
        };
        let answer = read_delta(delta.encode_to_vec().into()).unwrap();
        assert_eq!((answer.kind(), &*answer.nonce), (Some(Kind::Cluster), "n"));
        assert_eq!((answer.entries.len(), &*answer.entries[0].name), (2, "s.n"));
        assert_eq!((&*answer.entries[0].version, answer.bytes()), ("7", 5));
        assert_eq!(answer.entries[1].bytes, None, "no resource: it is still good");
        assert_eq!(answer.removed, ["u.n", "v.n"]);
        assert_eq!(answer.identifier, "outrigger");

        let wrapped = WireResource {
            name: "host:80".to_owned(),
            resource: Some(any(Kind::Listener, named("s.n"))),
            ..WireResource::default()
        };
        let wrapped = WireAny { type_url: WRAPPER.to_owned(), value: wrapped.encode_to_vec() };
        let sotw = DiscoveryResponse {
            version_info: "3".to_owned(),
            resources: vec![any(Kind::Listener, named("s.n")), wrapped],
            type_url: Kind::Listener.type_url().to_owned(),
            nonce: "m".to_owned(),
            control_plane,
            ..DiscoveryResponse::default()
        };
        let answer = read_sotw(sotw.encode_to_vec().into()).unwrap();
        let names: Vec<&str> = answer.entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names, ["s.n", "host:80"]);
        let broken = b"\x12\x00\x0a\x03s.n\xff";
        assert_eq!((first_text(broken), first_text(b"\x0a\x7fs")), (Some("s.n".to_owned()), None));
        assert!(
            answer.entries.iter().all(|entry| &*entry.version == "3" && entry.type_url == answer.type_url)
        );
    }

    #[test]
    fn garbage_is_an_error_and_nothing_else() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let length = random.usize(..64);
            let bytes: Bytes = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            let _ = (read_delta(bytes.clone()), read_sotw(bytes));
        }
        assert!(read_delta(Bytes::from_static(b"\xff\xff\xff")).is_err());
        assert!(read_delta(Bytes::from_static(b"\x12\x7f")).unwrap_err().contains("longer"));
    }

    #[test]
    fn an_answer_of_very_many_tiny_entries_is_refused_before_it_takes_memory() {
        let tiny = |count| Bytes::from([0x12, 0].repeat(count));
        assert_eq!(read_delta(tiny(ENTRIES_MAX)).unwrap().entries.len(), ENTRIES_MAX);
        let many = read_delta(tiny(ENTRIES_MAX + 1)).unwrap_err();
        assert!(many.contains("100000"), "{many}");
        assert!(read_sotw(tiny(ENTRIES_MAX + 1)).is_err());
    }

    #[test]
    fn the_version_of_a_whole_answer_is_kept_once_and_has_a_bound() {
        let answer = |length: usize| DiscoveryResponse {
            version_info: "v".repeat(length),
            resources: vec![any(Kind::Cluster, named("a")), any(Kind::Cluster, named("b"))],
            ..DiscoveryResponse::default()
        };
        let read = |length| read_sotw(answer(length).encode_to_vec().into());
        let entries = read(WORD_BYTES_MAX).unwrap().entries;
        assert!(Arc::ptr_eq(&entries[0].version, &entries[1].version));
        assert!(read(WORD_BYTES_MAX + 1).unwrap_err().contains("1025 bytes"));
        let nonce = DeltaDiscoveryResponse {
            nonce: "n".repeat(WORD_BYTES_MAX + 1),
            ..DeltaDiscoveryResponse::default()
        };
        assert!(read_delta(nonce.encode_to_vec().into()).is_err());
    }
}
