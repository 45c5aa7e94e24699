//! What resources come to: the mesh that they make, and of which of our services nobody may be let in. Pure.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};
use config::model::{Inbound, Mesh, Sidecar};
use xds::Kind;
use xds::decode::{ListenerPart, Own, Part};
use xds::names::{inbound, service};

use crate::control::files::File;
use crate::control::xds::held::Held;
use crate::control::xds::state::{Host, State};

/// What faults call the mesh.
pub(crate) const NAME: &str = "the mesh of the control plane";

/// Resources that are a mesh, or are to be one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    pub(crate) held: Held,
    /// Full names of this sidecar's services whose rules for callers came and could not be honoured, so that there are none.
    pub(crate) closed: BTreeSet<String>,
}

/// What resources come to.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) mesh: Mesh,
    /// Full names of this sidecar's services in it of which it does not say who may call them.
    pub(crate) unruled: BTreeSet<String>,
    /// What contradicts itself, in a line each.
    pub(crate) conflicts: BTreeSet<String>,
}

impl Resources {
    /// What is held of what a client has; `before` was in force with the `closed` of then, which stay so until the control
    /// plane has said something of their rules.
    pub(crate) fn new(held: Held, state: &State, before: &Self, sidecar: &Sidecar) -> Self {
        let names = sidecar.inbound.iter().map(|entry| service(&entry.service, &sidecar.namespace));
        let closed = names.filter(|name| match state.host(&inbound(name)) {
            Host::Refused(_) => true,
            Host::Open => before.closed.contains(name),
            Host::Here | Host::Absent => false,
        });
        Self { closed: closed.collect(), held }
    }

    /// Whether both are the very same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.held.is(&other.held) && self.closed == other.closed
    }

    /// What tells one set of resources from another: SHA-256 over their names and versions, in hex.
    pub(crate) fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        let mut add = |kind: u8, parts: [&[u8]; 3]| {
            context.update(&[kind]);
            for part in parts {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
        };
        for (kind, name, one) in self.held.iter() {
            add(kind as u8, [name.as_bytes(), one.version.as_bytes(), &one.bytes]);
        }
        for name in &self.closed {
            add(u8::MAX, [name.as_bytes(), &[], &[]]);
        }
        files::hex(context.finish().as_ref())
    }

    /// Makes a mesh of them, or says in a line each why they make none.
    pub(crate) fn judge(&self, own: &Own, sidecar: &Sidecar, sidecar_file: &File) -> Result<Verdict, String> {
        let assembly = xds::assemble::assemble(&self.held.parts(), own);
        let name = sidecar_file.path.display().to_string();
        let source = config::Source { name: &name, text: &sidecar_file.text };
        config::cross_check_sent(sidecar, source, &assembly.mesh, NAME)
            .map_err(|faults| faults.to_string())?;
        let unruled = self.unruled(sidecar, &assembly.mesh);
        Ok(Verdict { mesh: assembly.mesh, unruled, conflicts: assembly.conflicts.into_iter().collect() })
    }

    /// Our services that are in the mesh without the rules for their callers, which our control planes always send: they are
    /// late, were refused, or went while routes still lead there. Without them everybody would be let in. What others send
    /// in a listener of the service's name is all that they have to say of it, unless they have sent rules besides that
    /// were refused.
    fn unruled(&self, sidecar: &Sidecar, mesh: &Mesh) -> BTreeSet<String> {
        let ours = |entry: &Inbound| mesh.service(&entry.service, &sidecar.namespace);
        let names = sidecar.inbound.iter().filter_map(|entry| Some(mesh.services[ours(entry)?].full_name()));
        let is_open = |name: &String| self.is_foreign(name) && !self.closed.contains(name);
        names.filter(|name| !self.held.holds(Kind::Listener, &inbound(name)) && !is_open(name)).collect()
    }

    /// Whether a control plane that is none of ours has sent a listener of this service.
    fn is_foreign(&self, full: &str) -> bool {
        self.held.iter().any(|(_, _, one)| match &one.part {
            Part::Listener(ListenerPart::Service(part)) => {
                part.said.is_none() && service(&part.service, &part.namespace) == full
            }
            _ => false,
        })
    }
}
