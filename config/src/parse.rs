//! The ways in: one file, or several that belong together.

use std::path::{Path, PathBuf};

use crate::control::{self, Control};
use crate::control_keys::CONTROL;
use crate::cross::{self, Mesher};
use crate::fault::{Faults, Place, Sink, Sinks, Wrong, settle};
use crate::mesh::{self, Part};
use crate::mesh_keys::MESH;
use crate::model::{Mesh, Sidecar};
use crate::sidecar;
use crate::sidecar_keys::SIDECAR;
use crate::walk::walk;
use crate::yaml::{self, Node, Value};

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

/// Checks files that belong together: each by itself, and each sidecar against its mesh if that is among
/// them (by the file name in `mesh.file`, or because there is only one).
///
/// # Errors
/// The faults of all files, in the order of the files.
pub fn check(sources: &[Source<'_>]) -> Result<(), Faults> {
    let mut sinks: Vec<Sink> = sources.iter().map(|source| Sink::new(source.name)).collect();
    let mut sidecars = Vec::new();
    let mut meshes = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let sink = &mut sinks[i];
        let Some(node) = yaml::read(source.text, sink) else { continue };
        match kind(&node) {
            Some(FileKind::Sidecar) => {
                let sidecar = build_sidecar(&node, sink).filter(|_| sink.count() == 0);
                sidecars.extend(sidecar.map(|sidecar| (i, sidecar)));
            }
            Some(FileKind::Mesh) => {
                let mesh = build_mesh(&node, sink).filter(|_| sink.count() == 0);
                meshes.push((i, mesh));
            }
            Some(FileKind::Control) => drop(build_control(&node, sink)),
            None => {
                let wrong =
                    Wrong::new("this is neither a sidecar's file, nor a mesh file, nor a control plane's");
                let hint = "a sidecar's file has `service` and `mesh`, a mesh file `version` and `services`, a control \
                    plane's a folder as `mesh`";
                sink.add(Place::START, "", wrong.hint(hint));
            }
        }
    }
    for (i, sidecar) in &sidecars {
        // What a control plane will send is not among the files.
        let Some(file) = sidecar.mesh.file() else { continue };
        let named = meshes.iter().find(|(j, _)| Path::new(sources[*j].name).file_name() == file.file_name());
        let only = meshes.first().filter(|_| meshes.len() == 1);
        if let Some((j, Some(mesh))) = named.or(only) {
            let named = (sources[*j].name, Mesher::File);
            cross::check(sidecar, sources[*i].text, mesh, named, &mut sinks[*i]);
        }
    }
    settle(sinks)
}

#[derive(Clone, Copy, PartialEq)]
enum FileKind {
    Sidecar,
    Mesh,
    Control,
}

/// Decides by the keys that only one of the kinds has, so that a misspelled one does not hide the kind.
fn kind(node: &Node) -> Option<FileKind> {
    let Value::Mapping(fields) = &node.value else { return None };
    let tables = [(FileKind::Sidecar, &SIDECAR), (FileKind::Mesh, &MESH), (FileKind::Control, &CONTROL)];
    let own = |kind: FileKind| {
        let others =
            |key: &str| tables.iter().any(|(other, table)| *other != kind && table.key(key).is_some());
        let table = tables.iter().find(|(table, _)| *table == kind).map(|(_, table)| table);
        let has = |key: &str| table.is_some_and(|table| table.key(key).is_some());
        fields.iter().filter(|field| has(&field.key) && !others(&field.key)).count()
    };
    let most = tables.iter().map(|(kind, _)| own(*kind)).max().filter(|most| *most > 0);
    let mut first = tables.iter().map(|(kind, _)| *kind).filter(|kind| Some(own(*kind)) == most);
    match (first.next(), first.next()) {
        (Some(kind), None) => Some(kind),
        (Some(_), Some(_)) => None,
        // All of its keys may be those of a sidecar, which says more of its mesh than a name.
        (None, _) => fields
            .iter()
            .find(|field| field.key == "mesh" && matches!(field.node.value, Value::Scalar(_)))
            .map(|_| FileKind::Control),
    }
}

fn build_sidecar(node: &Node, sink: &mut Sink) -> Option<Sidecar> {
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

fn build_control(node: &Node, sink: &mut Sink) -> Option<Control> {
    walk(node, &CONTROL, sink).map(|fields| control::build(&fields, sink))
}

fn finish<T>(built: Option<T>, sink: Sink) -> Result<T, Faults> {
    settle(vec![sink])?;
    Ok(built.expect("what could not be built has left a fault"))
}
