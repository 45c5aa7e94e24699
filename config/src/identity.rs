//! Where a sidecar has its identity from.

use std::path::{Path, PathBuf};

use crate::fault::{Sink, Wrong};
use crate::spell;
use crate::walk::{Fields, path, spot};

/// The files of a workload identity (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The leaf and its intermediates, leaf first.
    pub cert: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
    /// The roots that vouch for the trust domain.
    pub bundle: PathBuf,
}

/// `identity` of a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// Certificate, key and bundle, which are followed.
    Files(Identity),
    /// The CA of the control planes of `mesh.control` signs it; the key is made here, in memory.
    Control(Issued),
    /// The SPIFFE Workload API at this Unix socket.
    WorkloadApi(PathBuf),
}

/// `identity: {control: true}` and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// The file of a join token, read anew whenever there is no certificate to ask by. `None`: only what is in `cache` can ask.
    pub token: Option<PathBuf>,
    /// The folder in which key, chain and roots are kept; `None`: in memory alone.
    pub cache: Option<PathBuf>,
}

impl IdentitySource {
    /// The files, where there are some.
    pub fn files(&self) -> Option<&Identity> {
        match self {
            Self::Files(files) => Some(files),
            Self::Control(_) | Self::WorkloadApi(_) => None,
        }
    }

    /// Makes the file names in it relative to `base`.
    pub(crate) fn resolve_paths(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        match self {
            Self::Files(files) => {
                [&mut files.cert, &mut files.key, &mut files.bundle].into_iter().for_each(resolve);
            }
            Self::Control(issued) => {
                [&mut issued.token, &mut issued.cache].into_iter().flatten().for_each(resolve);
            }
            Self::WorkloadApi(socket) => resolve(socket),
        }
    }
}

/// What belongs to each of the three ways.
const OF_FILES: [&str; 3] = ["cert", "key", "bundle"];
const OF_CONTROL: [&str; 2] = ["token", "cache"];

/// Builds it; what belongs to one way is a fault beside another. `planes`: the mesh comes from control planes.
pub(crate) fn build(fields: &Fields, planes: bool, sink: &mut Sink) -> IdentitySource {
    let control = fields.given("control");
    let socket = fields.given("workload_api");
    let mut misplaced = |names: &[&str], with: &str| {
        for name in names.iter().filter(|name| fields.given(name)) {
            let (place, path) = spot(fields, name);
            let wrong = Wrong::new(format!("`{name}` means nothing beside `{with}`"));
            sink.add(place, &path, wrong.hint("an identity comes from one place; take one of them out"));
        }
    };
    if socket {
        misplaced(&[&OF_FILES[..], &OF_CONTROL, &["control"]].concat(), "workload_api");
        let socket = fields.text("workload_api").unwrap_or_default();
        return IdentitySource::WorkloadApi(crate::text::socket_path(socket).into());
    }
    if control {
        misplaced(&OF_FILES, "control");
        if fields.flag("control") == Some(false) {
            let (place, path) = spot(fields, "control");
            sink.add(
                place,
                &path,
                Wrong::new("`control: false` names no identity").hint("leave the key out"),
            );
        }
        if !planes {
            let (place, path) = spot(fields, "control");
            let wrong = Wrong::new("`identity.control` needs a control plane to ask");
            sink.add(
                place,
                &path,
                wrong.hint("name it: `mesh: {control: [https://outrigger-control:15012], bundle: ca.crt}`"),
            );
        }
        return IdentitySource::Control(Issued {
            token: path(fields, "token"),
            cache: path(fields, "cache"),
        });
    }
    for name in OF_CONTROL.into_iter().filter(|name| fields.given(name)) {
        let (place, path) = spot(fields, name);
        let wrong = Wrong::new(format!("`{name}` means nothing without `control: true`"));
        sink.add(place, &path, wrong.hint("add `control: true`, or take it out"));
    }
    let missing: Vec<&str> = OF_FILES.into_iter().filter(|name| !fields.given(name)).collect();
    if !missing.is_empty() {
        let wrong = Wrong::new(format!("there is no {}", spell::list(missing)));
        let hint = "write `{cert: tls.crt, key: tls.key, bundle: ca.crt}`, `{control: true, token: FILE}` or \
                    `{workload_api: unix:PATH}`";
        sink.add(fields.place, &fields.path, wrong.hint(hint));
    }
    IdentitySource::Files(files(fields))
}

/// The three files, as they are written.
pub(crate) fn files(fields: &Fields) -> Identity {
    let path = |name: &str| path(fields, name).unwrap_or_default();
    Identity { cert: path("cert"), key: path("key"), bundle: path("bundle") }
}
