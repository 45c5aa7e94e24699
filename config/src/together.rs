//! What `outrigger check` does: files that belong together, of whichever kind.

use std::path::Path;

use crate::control_keys::CONTROL;
use crate::cross::{self, Mesher};
use crate::fault::{Faults, Place, Sink, Sinks, Wrong, settle};
use crate::mesh::{self, Part};
use crate::mesh_keys::MESH;
use crate::model::{Mesh, Sidecar};
use crate::parse::{Source, build_control, build_sidecar};
use crate::sidecar_keys::SIDECAR;
use crate::walk::{Fields, walk};
use crate::yaml::{self, Node, Value};

/// Files that are given together: a folder, whose mesh files make one mesh, or a single file.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The files, in the order of their names.
    pub sources: Vec<Source<'a>>,
}

/// [`check_groups`], each file by itself.
///
/// # Errors
/// The faults of all files, in the order of the files.
pub fn check(sources: &[Source<'_>]) -> Result<(), Faults> {
    let groups: Vec<Group<'_>> = sources.iter().map(|source| Group { sources: vec![*source] }).collect();
    check_groups(&groups)
}

/// Checks files that belong together: each by itself, the mesh files of a folder with each other, and each sidecar against
/// its mesh if that is among them (by the file name in `mesh.file`, or because there is only one).
///
/// # Errors
/// The faults of all files, in the order of the files.
pub fn check_groups(groups: &[Group<'_>]) -> Result<(), Faults> {
    let mut sinks = Vec::new();
    let mut sidecars = Vec::new();
    let mut meshes = Vec::new();
    for group in groups {
        let first = sinks.len();
        let mut walked: Vec<(usize, Fields)> = Vec::new();
        let mut complete = true;
        for source in &group.sources {
            let at = sinks.len();
            let mut sink = Sink::new(source.name);
            if let Some(node) = yaml::read(source.text, &mut sink) {
                match kind(&node) {
                    Some(FileKind::Sidecar) => {
                        let sidecar = build_sidecar(&node, &mut sink).filter(|_| sink.count() == 0);
                        sidecars.extend(sidecar.map(|sidecar| (at, *source, sidecar)));
                    }
                    Some(FileKind::Mesh) => match walk(&node, &MESH, &mut sink) {
                        Some(fields) => walked.push((at, fields)),
                        None => complete = false,
                    },
                    Some(FileKind::Control) => drop(build_control(&node, &mut sink)),
                    None => tell_kinds(&mut sink),
                }
            } else {
                complete = false;
            }
            sinks.push(sink);
        }
        let names = walked.iter().map(|(at, _)| group.sources[at - first].name).collect();
        let mesh = (!walked.is_empty()).then(|| join(&walked, complete, &mut sinks)).flatten();
        if !walked.is_empty() {
            meshes.push((names, mesh));
        }
    }
    for (at, source, sidecar) in &sidecars {
        if let Some((name, mesh)) = mesh_of(sidecar, &meshes) {
            cross::check(sidecar, source.text, mesh, (name, Mesher::File), &mut sinks[*at]);
        }
    }
    settle(sinks)
}

/// The mesh of some files; none if one has a fault.
fn join(walked: &[(usize, Fields)], complete: bool, sinks: &mut [Sink]) -> Option<Mesh> {
    let mut of_parts: Vec<Sinks> = walked
        .iter()
        .map(|(at, _)| Sinks { faults: sinks[*at].clone(), dangling: Sink::new(sinks[*at].file()) })
        .collect();
    let files: Vec<String> = walked.iter().map(|(at, _)| sinks[*at].file().to_owned()).collect();
    let parts: Vec<Part<'_>> =
        walked.iter().zip(&files).map(|((_, fields), file)| Part { file, fields }).collect();
    let mesh = mesh::build(&parts, complete, &mut of_parts);
    let mut good = complete;
    for ((at, _), found) in walked.iter().zip(of_parts) {
        sinks[*at] = found.joined();
        good &= sinks[*at].count() == 0;
    }
    good.then_some(mesh)
}

/// The mesh that a sidecar reads, if it is among these, and its name.
fn mesh_of<'a>(sidecar: &Sidecar, meshes: &'a [(Vec<&'a str>, Option<Mesh>)]) -> Option<(&'a str, &'a Mesh)> {
    // What a control plane will send is not among the files.
    let file = sidecar.mesh.file()?.file_name();
    let is_named = |name: &&str| Path::new(name).file_name() == file;
    let named = meshes.iter().find(|(names, _)| names.len() == 1 && names.iter().any(&is_named));
    let only = meshes.first().filter(|_| meshes.len() == 1);
    let (names, mesh) = named.or(only)?;
    Some((names.first()?, mesh.as_ref()?))
}

fn tell_kinds(sink: &mut Sink) {
    let wrong = Wrong::new("this is neither a sidecar's file, nor a mesh file, nor a control plane's");
    let hint = "a sidecar's file has `service` and `mesh`, a mesh file `version` and `services`, a control \
        plane's a folder as `mesh`";
    sink.add(Place::START, "", wrong.hint(hint));
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
