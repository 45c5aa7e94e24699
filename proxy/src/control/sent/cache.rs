//! What was last in force, on disk: a sidecar that starts while its control plane is away serves from it.
//!
//! ```text
//! outrigger mesh cache 1                        the version of this format
//! SHA-256 of all that follows, in hex
//! {"service": ..., "written_unix_seconds": ...} whose it is and how old, in one line of JSON
//! resources: kind, name, version, bytes         each text with its length in front, big-endian
//! ```
//!
//! It holds no secret: certificates and keys never pass through it. It is written for the sidecar's own eyes (0600).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use files::fingerprint;
use serde_json::{Value, json};
use xds::Kind;

/// The first line. Another format has another number, and is not read.
const HEAD: &str = "outrigger mesh cache 1";
/// The largest file that is read or written.
const BYTES_MAX: u64 = 256 << 20;

/// Whose mesh it is: that of another sidecar is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) trust_domain: String,
}

impl Owner {
    /// The file in `folder`.
    pub(crate) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.{}.mesh", self.service, self.namespace))
    }
}

/// One resource as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) bytes: Bytes,
}

/// What a cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// When it was last known to be what the control plane says.
    pub(crate) written: SystemTime,
    /// What calls had asked for by name.
    pub(crate) hosts: Vec<String>,
    /// Full names of this sidecar's services whose rules for callers could not be honoured.
    pub(crate) closed: BTreeSet<String>,
    pub(crate) resources: Vec<Kept>,
}

/// Writes a cache as one text.
pub(crate) fn encode(owner: &Owner, contents: &Contents) -> Vec<u8> {
    let about = json!({
        "service": owner.service,
        "namespace": owner.namespace,
        "trust_domain": owner.trust_domain,
        "written_unix_seconds": contents.written.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "hosts": contents.hosts,
        "closed": contents.closed,
        "resources": contents.resources.len(),
    });
    let mut body = format!("{about}\n").into_bytes();
    for Kept { kind, name, version, bytes } in &contents.resources {
        body.push(*kind as u8);
        for part in [name.as_bytes(), version.as_bytes(), bytes] {
            // Less than 4 GiB: a message of the control plane has a limit far below.
            body.extend_from_slice(&(part.len() as u32).to_be_bytes());
            body.extend_from_slice(part);
        }
    }
    let mut text = format!("{HEAD}\n{}\n", fingerprint(&body)).into_bytes();
    text.append(&mut body);
    text
}

/// Reads a cache, or says why it is not to be used. `now` less than the time of the writing, as after a clock was set
/// back, is no reason: the cache is then taken for new.
pub(crate) fn decode(
    bytes: Bytes,
    owner: &Owner,
    now: SystemTime,
    max_age: Duration,
) -> Result<Contents, String> {
    let (head, rest) = line(bytes)?;
    if &head[..] != HEAD.as_bytes() {
        return Err(format!("it does not begin with `{HEAD}`: it is of another version, or no cache"));
    }
    let (sum, body) = line(rest)?;
    if sum[..] != *fingerprint(&body).as_bytes() {
        return Err("its checksum is wrong: it is damaged or cut off".to_owned());
    }
    let (about, mut rest) = line(body)?;
    let about: Value = serde_json::from_slice(&about).map_err(|error| format!("its third line: {error}"))?;
    let word = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
    let theirs =
        Owner { service: word("service"), namespace: word("namespace"), trust_domain: word("trust_domain") };
    if theirs != *owner {
        let Owner { service, namespace, trust_domain } = theirs;
        return Err(format!("it is that of `{service}.{namespace}` in the trust domain `{trust_domain}`"));
    }
    let written =
        about["written_unix_seconds"].as_u64().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)));
    let written = written.ok_or("it does not say when it was written")?;
    let age = now.duration_since(written).unwrap_or_default();
    if age > max_age {
        let (age, max_age) = (Duration::from_secs(age.as_secs()), max_age);
        return Err(format!("it is {age:?} old, and `cache_max_age` is {max_age:?}"));
    }
    let texts = |key: &str| {
        let texts = about[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    let (hosts, closed) = (texts("hosts"), texts("closed").into_iter().collect());
    let mut resources = Vec::new();
    while !rest.is_empty() {
        resources.push(resource(&mut rest).ok_or("a resource in it is cut off")?);
    }
    Ok(Contents { written, hosts, closed, resources })
}

fn line(mut bytes: Bytes) -> Result<(Bytes, Bytes), String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no head")?;
    let line = bytes.split_to(end);
    Ok((line, bytes.split_off(1)))
}

fn resource(rest: &mut Bytes) -> Option<Kept> {
    let kind = take(rest, 1)?[0];
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind)?;
    let mut part = || {
        let length = take(rest, 4)?;
        let length = u32::from_be_bytes(length[..].try_into().ok()?);
        take(rest, usize::try_from(length).ok()?)
    };
    let mut text = || String::from_utf8(part()?.to_vec()).ok();
    Some(Kept { kind, name: text()?, version: text()?, bytes: part()? })
}

fn take(rest: &mut Bytes, count: usize) -> Option<Bytes> {
    (count <= rest.len()).then(|| rest.split_to(count))
}

/// Reads the file whole; `None`: there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Bytes>, String> {
    match files::read(path, BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Puts `bytes` in the place of the file, whole or not at all, also if the power goes.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("it would have {} bytes, and at most {BYTES_MAX} are written", bytes.len()));
    }
    files::write(path, bytes, files::PRIVATE).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const AGE: Duration = Duration::from_secs(60);

    fn owner() -> Owner {
        let word = |word: &str| word.to_owned();
        Owner { service: word("echo"), namespace: word("shop"), trust_domain: word("cluster.local") }
    }

    fn contents() -> Contents {
        let resource = |kind, name: &str, bytes: &'static [u8]| Kept {
            kind,
            name: name.to_owned(),
            version: "1".to_owned(),
            bytes: Bytes::from_static(bytes),
        };
        Contents {
            written: UNIX_EPOCH + Duration::from_secs(1_000),
            hosts: vec!["users".to_owned()],
            closed: BTreeSet::from(["echo.shop".to_owned()]),
            resources: vec![resource(Kind::Cluster, "a.shop", b"\n\0x"), resource(Kind::Routes, "b", b"")],
        }
    }

    fn read_at(seconds: u64, bytes: Vec<u8>) -> Result<Contents, String> {
        decode(bytes.into(), &owner(), UNIX_EPOCH + Duration::from_secs(seconds), AGE)
    }

    #[test]
    fn what_is_written_is_read_again_until_it_is_too_old() {
        let bytes = encode(&owner(), &contents());
        for seconds in [1_000, 1_060] {
            assert_eq!(read_at(seconds, bytes.clone()), Ok(contents()), "{seconds}");
        }
        assert_eq!(read_at(1, bytes.clone()), Ok(contents()), "the clock was set back");
        assert!(read_at(1_061, bytes).unwrap_err().contains("61s old"));
    }

    #[test]
    fn a_cache_of_someone_else_is_not_taken() {
        for change in [
            |owner: &mut Owner| owner.service = "users".to_owned(),
            |owner: &mut Owner| owner.namespace = "other".to_owned(),
            |owner: &mut Owner| owner.trust_domain = "example.org".to_owned(),
        ] {
            let mut other = owner();
            change(&mut other);
            let said = read_at(1_000, encode(&other, &contents())).unwrap_err();
            assert!(said.contains("it is that of"), "{said}");
        }
    }

    #[test]
    fn no_byte_may_be_missing_or_different() {
        let bytes = encode(&owner(), &contents());
        for length in 0..bytes.len() {
            assert!(read_at(1_000, bytes[..length].to_vec()).is_err(), "the first {length} bytes");
        }
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert!(read_at(1_000, other).is_err(), "byte {place}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(read_at(1_000, longer).is_err());
    }

    #[test]
    fn a_resource_that_says_it_is_longer_than_the_file_is_no_resource() {
        let mut rest = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(resource(&mut rest), None);
        let mut rest = Bytes::from_static(&[9, 0, 0, 0, 0]);
        assert_eq!(resource(&mut rest), None, "a kind that is none");
    }

    #[test]
    fn a_file_is_replaced_whole_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = owner().path(&folder.path().join("new/folder"));
        assert_eq!(read(&path), Ok(None));
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path), Ok(Some(Bytes::from_static(b"two"))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        let said = write(Path::new("/proc/none/x.mesh"), b"").unwrap_err();
        assert!(said.starts_with("/proc/none/x.mesh: "), "{said}");
    }
}
