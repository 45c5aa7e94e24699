//! The ways in: one file, or several that belong together.

use std::path::{Path, PathBuf};

use crate::control::{self, Control};
use crate::control_keys::CONTROL;
use crate::cross::{self, Mesher};
use crate::fault::{Faults, Sink, Sinks, settle};
use crate::mesh::{self, Part};
use crate::mesh_keys::MESH;
use crate::model::{Mesh, Sidecar};
use crate::sidecar;
use crate::sidecar_keys::SIDECAR;
use crate::walk::walk;
use crate::yaml::{self, Node};

/// A file as its reader has it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name, as faults should call it.
    pub name: &'a str,
    /// What is in it; at most 1 MiB is taken.
    pub text: &'a str,
}

/// Reads `sidecar.yaml`. File names in it stay as they are written: see [`Sidecar::resolve_paths`].
///
/// # Errors
/// Every fault of the file, by place.
pub fn parse_sidecar(source: Source<'_>) -> Result<Sidecar, Faults> {
    let mut sink = Sink::new(source.name);
    let sidecar = yaml::read(source.text, &mut sink).and_then(|node| build_sidecar(&node, &mut sink));
    finish(sidecar, sink)
}

/// The mesh file that a `sidecar.yaml` names, as it is written, whatever else is wrong with the text: so that
/// the faults of both files can be told at once.
pub fn named_mesh(source: Source<'_>) -> Option<PathBuf> {
    let mut sink = Sink::new(source.name);
    let sidecar = yaml::read(source.text, &mut sink).and_then(|node| build_sidecar(&node, &mut sink))?;
    sidecar.mesh.file().filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned)
}

/// Reads `mesh.yaml`.
///
/// # Errors
/// Every fault of the file, by place.
pub fn parse_mesh(source: Source<'_>) -> Result<Mesh, Faults> {
    let mut sink = Sink::new(source.name);
    let mesh = yaml::read(source.text, &mut sink).and_then(|node| build_mesh(&node, &mut sink));
    finish(mesh, sink)
}

/// Reads `control.yaml`. File names in it stay as they are written: see [`Control::resolve_paths`].
///
/// # Errors
/// Every fault of the file, by place.
pub fn parse_control(source: Source<'_>) -> Result<Control, Faults> {
    let mut sink = Sink::new(source.name);
    let control = yaml::read(source.text, &mut sink).and_then(|node| build_control(&node, &mut sink));
    finish(control, sink)
}

/// Checks that a sidecar and its mesh fit together; both sources are read again, only for places.
///
/// A sidecar must do it at its start and with every new mesh.
///
/// # Errors
/// The faults of the pair: the sidecar's service or that of an inbound entry is not in the mesh, the trust
/// domains differ, endpoints want an identity that the sidecar does not have, callers would refuse its
/// identity, or rules about callers stand before a listener that cannot know them.
pub fn cross_check(
    sidecar: &Sidecar,
    sidecar_source: Source<'_>,
    mesh: &Mesh,
    mesh_source: Source<'_>,
) -> Result<(), Faults> {
    let mut sinks = vec![Sink::new(sidecar_source.name)];
    let named = (mesh_source.name, Mesher::File);
    cross::check(sidecar, sidecar_source.text, mesh, named, &mut sinks[0]);
    settle(sinks)
}

/// Checks that a sidecar and the mesh that a control plane has sent fit together; `mesh_name` is what faults call the mesh.
/// That a service of the sidecar is not in it is no fault: it may come.
///
/// # Errors
/// The other faults of [`cross_check`].
pub fn cross_check_sent(
    sidecar: &Sidecar,
    sidecar_source: Source<'_>,
    mesh: &Mesh,
    mesh_name: &str,
) -> Result<(), Faults> {
    let mut sink = Sink::new(sidecar_source.name);
    cross::check(sidecar, sidecar_source.text, mesh, (mesh_name, Mesher::Control), &mut sink);
    settle(vec![sink])
}

pub(crate) fn build_sidecar(node: &Node, sink: &mut Sink) -> Option<Sidecar> {
    walk(node, &SIDECAR, sink).map(|fields| sidecar::build(&fields, sink))
}

fn build_mesh(node: &Node, sink: &mut Sink) -> Option<Mesh> {
    let mut sinks = Sinks { faults: sink.clone(), dangling: Sink::new(sink.file()) };
    let built = walk(node, &MESH, &mut sinks.faults).map(|fields| {
        let part = Part { file: sink.file(), fields: &fields };
        mesh::build(&[part], true, std::slice::from_mut(&mut sinks))
    });
    *sink = sinks.joined();
    built
}

pub(crate) fn build_control(node: &Node, sink: &mut Sink) -> Option<Control> {
    walk(node, &CONTROL, sink).map(|fields| control::build(&fields, sink))
}

fn finish<T>(built: Option<T>, sink: Sink) -> Result<T, Faults> {
    settle(vec![sink])?;
    Ok(built.expect("what could not be built has left a fault"))
}
