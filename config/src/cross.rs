//! What a sidecar and its mesh owe each other.

use crate::fault::{Place, Sink, Wrong};
use crate::model::{Action, Answer, Authorization, EndpointTls, Mesh, Mtls, Sidecar};
use crate::outline::{Outline, Shape, outline};
use crate::spell;

/// Where a mesh comes from, as far as it matters for what may be missing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mesher {
    /// A file, which is whole.
    File,
    /// A control plane, which may know a service sooner or later.
    Control,
}

/// Adds every fault of the pair to the sidecar's sink; `sidecar_text` gives the places.
pub(crate) fn check(
    sidecar: &Sidecar,
    sidecar_text: &str,
    mesh: &Mesh,
    (mesh_name, mesher): (&str, Mesher),
    sink: &mut Sink,
) {
    let root = outline(sidecar_text).ok();
    let at = |steps: &[Step<'_>]| root.as_ref().map_or(Place::START, |root| locate(root, steps));
    let namespace = &sidecar.namespace;

    if mesher == Mesher::File && mesh.service(&sidecar.service, namespace).is_none() {
        let wrong = no_service(&sidecar.service, namespace, mesh, mesh_name);
        sink.add(at(&[Step::Key("service")]), "service", wrong);
    }
    for (i, entry) in sidecar.inbound.iter().enumerate() {
        let key = |name| [Step::Key("inbound"), Step::Index(i), Step::Key(name)];
        let Some(index) = mesh.service(&entry.service, namespace) else {
            // An entry without a service of its own has the sidecar's, told above.
            if mesher == Mesher::File && entry.service != sidecar.service {
                let wrong = no_service(&entry.service, namespace, mesh, mesh_name);
                sink.add(at(&key("service")), &format!("inbound[{i}].service"), wrong);
            }
            continue;
        };
        let service = &mesh.services[index];
        let id = sidecar.spiffe_id();
        if sidecar.identity.is_some() && entry.mtls != Mtls::Off && !service.identities.contains(&id) {
            let wrong = Wrong::new(format!("`{id}` is not an identity of `{}`", service.full_name()));
            let hint = format!("callers would refuse it; correct `account`, or `identities` in {mesh_name}");
            sink.add(at(&key("service")), &format!("inbound[{i}]"), wrong.hint(hint));
        }
        let wants_callers = service.authorization.as_ref().is_some_and(wants_callers);
        if entry.mtls == Mtls::Off && wants_callers {
            let wrong = Wrong::new(format!(
                "every rule of `{}` that allows names callers, and `mtls: off` knows none, so every call would be refused",
                service.full_name()
            ));
            let hint = format!("write `mtls: strict`, or leave `from` out of a rule in {mesh_name}");
            sink.add(at(&key("mtls")), &format!("inbound[{i}].mtls"), wrong.hint(hint));
        }
    }
    if sidecar.identity.is_some() && sidecar.trust_domain != mesh.trust_domain {
        let wrong = Wrong::new(format!(
            "the trust domain is `{}` here and `{}` in {mesh_name}",
            sidecar.trust_domain, mesh.trust_domain
        ));
        let hint = "the two would refuse each other; write the same in both";
        sink.add(at(&[Step::Key("trust_domain")]), "trust_domain", wrong.hint(hint));
    }
    if sidecar.identity.is_none() && sidecar.outbound.is_some() {
        let meshed = mesh.services.iter().find_map(|service| {
            let endpoint = service.endpoints.iter().find(|e| e.tls == Some(EndpointTls::Mesh))?;
            Some((service, endpoint))
        });
        if let Some((service, endpoint)) = meshed {
            let wrong = Wrong::new(format!(
                "there is no identity, and the endpoint `{}` of `{}` in {mesh_name} says `tls: mesh`",
                endpoint.target,
                service.full_name()
            ));
            sink.add(
                at(&[Step::Key("outbound")]),
                "identity",
                wrong.hint("add `identity: {cert, key, bundle}`"),
            );
        }
    }
}

/// Whether only callers who prove who they are could be let in, and some could be.
fn wants_callers(authorization: &Authorization) -> bool {
    let mut allows = authorization.rules.iter().filter(|rule| rule.action == Action::Allow).peekable();
    authorization.default == Answer::Deny
        && allows.peek().is_some()
        && allows.all(|rule| !rule.from.is_empty())
}

fn no_service(name: &str, namespace: &str, mesh: &Mesh, mesh_name: &str) -> Wrong {
    let wrong = Wrong::new(format!("{mesh_name} has no service `{name}` in namespace `{namespace}`"));
    let beside = mesh.services.iter().filter(|s| s.namespace == namespace).map(|s| s.name.as_str());
    if let Some(meant) = spell::nearest(name, beside) {
        return wrong.hint(format!("did you mean `{meant}`?"));
    }
    match mesh.services.iter().find(|s| s.name == name) {
        Some(other) => wrong.hint(format!("it has one in namespace `{}`", other.namespace)),
        None => wrong.hint("add it there, or correct the name"),
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The place of a value, or of the nearest thing around it that is there.
fn locate(root: &Outline, steps: &[Step<'_>]) -> Place {
    let mut here = root;
    for step in steps {
        let next = match (step, &here.shape) {
            (Step::Key(key), Shape::Mapping(entries)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.value)
            }
            (Step::Index(index), Shape::Sequence(items)) => items.get(*index),
            _ => None,
        };
        match next {
            Some(next) => here = next,
            None => break,
        }
    }
    here.place
}
