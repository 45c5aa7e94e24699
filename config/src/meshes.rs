//! One mesh of several files: which of them are good, and what stays in force where one is not.
//!
//! A fault is the business of the file that it stands in. Where two files claim the same, the file that was in force before has
//! it, else the one that comes first; so nobody's fault takes away what was good.
//!
//! ```text
//! each file by itself -> all together -> no fault        -> the mesh
//!        ^                               a fault in some -> those as they were before, or not at all; again
//! ```

use crate::fault::{Fault, Faults, Place, Sink, Sinks, Wrong, settle};
use crate::mesh::{self, Part};
use crate::mesh_keys::MESH;
use crate::model::Mesh;
use crate::parse::Source;
use crate::walk::{Fields, walk};
use crate::yaml;

/// A mesh file as it was read. What it says is looked at together with the others: [`settle_meshes`].
#[derive(Debug)]
pub struct MeshFile {
    name: String,
    fields: Option<Fields>,
    faults: Sink,
}

impl MeshFile {
    /// Reads the YAML of a file.
    pub fn read(source: Source<'_>) -> Self {
        let mut faults = Sink::new(source.name);
        let fields = yaml::read(source.text, &mut faults).and_then(|node| walk(&node, &MESH, &mut faults));
        Self { name: source.name.to_owned(), fields, faults }
    }

    /// A file that is there and cannot be read.
    pub fn unreadable(name: &str, why: &str) -> Self {
        let mut faults = Sink::new(name);
        faults.add(Place::START, "", Wrong::new(format!("it cannot be read: {why}")));
        Self { name: name.to_owned(), fields: None, faults }
    }

    /// Its name, as faults call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn part(&self) -> Option<Part<'_>> {
        Some(Part { file: &self.name, fields: self.fields.as_ref()? })
    }

    fn sinks(&self) -> Sinks {
        Sinks { faults: self.faults.clone(), dangling: Sink::new(&self.name) }
    }
}

/// What [`parse_meshes`] finds.
#[derive(Debug)]
pub struct Meshes {
    /// The joined mesh, its services sorted by full name; none where any file has a fault.
    pub mesh: Option<Mesh>,
    /// For each file, in the order given, its faults.
    pub files: Vec<Result<(), Faults>>,
}

/// Reads several files as one mesh. `defaults` hold for the file in which they stand; backends may name services of any
/// file; a service or a host that an earlier file has is a fault of the later one.
pub fn parse_meshes(sources: &[Source<'_>]) -> Meshes {
    let files: Vec<MeshFile> = sources.iter().map(|source| MeshFile::read(*source)).collect();
    let (mesh, sinks) = join(&files.iter().collect::<Vec<_>>());
    let files: Vec<_> = sinks.into_iter().map(|sinks| settle(vec![sinks.joined()])).collect();
    let good = files.iter().all(Result::is_ok);
    Meshes { mesh: good.then(|| sorted(mesh)), files }
}

/// A file that is there now.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// As it is.
    pub now: &'a MeshFile,
    /// As it was when it was in force last: the very same value where nothing has changed.
    pub before: Option<&'a MeshFile>,
}

impl Candidate<'_> {
    fn is_changed(&self) -> bool {
        self.before.is_none_or(|before| !std::ptr::eq(before, self.now))
    }
}

/// Which version of a file is part of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// As it is now.
    Now,
    /// As it was before, because it cannot be used as it is now.
    Before,
    /// None: it cannot be used, and never could.
    Nothing,
}

/// What has become of one file.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which version is part of the mesh.
    pub taken: Taken,
    /// Why it cannot be used as it is now.
    pub faults: Option<Faults>,
    /// What is wrong with the version that is part of the mesh, and does not keep it out: backends that no file has.
    pub warnings: Vec<Fault>,
}

/// What [`settle_meshes`] makes of the files.
#[derive(Debug)]
pub struct Settled {
    /// Of all that is good, its services sorted by full name.
    pub mesh: Mesh,
    /// For each file, in the order given.
    pub files: Vec<Outcome>,
}

/// Makes the best mesh of the files that are there, in the order of their names. It does not fail: a bad file is left as it was, or out.
///
/// A backend that no file has is a fault of a file that brings it anew, and then leaves that file as it was. Else (the file
/// was never in force, or named it before already; the service was taken away by another; another file is bad, and may have it) it
/// is a warning, and that service is one without endpoints.
pub fn settle_meshes(files: &[Candidate<'_>]) -> Settled {
    let mut taken = vec![Taken::Now; files.len()];
    let mut faults: Vec<Option<Faults>> = vec![None; files.len()];
    let mut fall = |taken: &mut Taken, at: usize, why: Faults| {
        let has_other = *taken == Taken::Now && files[at].before.is_some() && files[at].is_changed();
        *taken = if has_other { Taken::Before } else { Taken::Nothing };
        faults[at].get_or_insert(why);
    };
    for (at, file) in files.iter().enumerate().filter(|(_, file)| file.is_changed()) {
        let (_, sinks) = join(&[file.now]);
        let alone = sinks.into_iter().map(|sinks| sinks.faults).collect();
        if let Err(why) = settle(alone) {
            fall(&mut taken[at], at, why);
        }
    }
    loop {
        let order = precedence(files, &taken);
        let chosen: Vec<&MeshFile> = order.iter().filter_map(|at| version(&files[*at], taken[*at])).collect();
        let (mesh, sinks) = join(&chosen);
        let is_new = |at: usize| taken[at] == Taken::Now && files[at].is_changed();
        let useless = |new: bool| {
            let of_kind = order.iter().zip(&sinks).filter(move |(at, _)| is_new(**at) == new);
            of_kind
                .filter(|(_, sinks)| sinks.faults.count() > 0)
                .map(|(at, sinks)| (*at, sinks.faults.clone()))
                .collect::<Vec<_>>()
        };
        let mut bad = useless(true);
        if bad.is_empty() {
            bad = useless(false);
        }
        if bad.is_empty() && taken.iter().all(|taken| *taken == Taken::Now) {
            let dangling = order.iter().zip(&sinks).filter(|(_, sinks)| sinks.dangling.count() > 0);
            let replaceable = dangling.filter(|(at, _)| is_new(**at) && files[**at].before.is_some());
            bad = replaceable.map(|(at, sinks)| (*at, brought(files, &order, *at, &taken, sinks))).collect();
            bad.retain(|(_, sink)| sink.count() > 0);
        }
        if !bad.is_empty() {
            for (at, sink) in bad {
                if let Err(why) = settle(vec![sink]) {
                    fall(&mut taken[at], at, why);
                }
            }
            continue;
        }
        let unusable = unusable(files, &taken);
        let mut warnings: Vec<Vec<Fault>> = vec![Vec::new(); files.len()];
        for (at, sinks) in order.iter().zip(sinks) {
            warnings[*at] = settle(vec![sinks.dangling])
                .err()
                .map(|faults| warned(&faults, &unusable))
                .unwrap_or_default();
        }
        let outcomes = taken.into_iter().zip(faults).zip(warnings);
        let files = outcomes.map(|((taken, faults), warnings)| Outcome { taken, faults, warnings }).collect();
        return Settled { mesh: sorted(mesh), files };
    }
}

/// Those that were in force before come first, so that what they have stays theirs.
fn precedence(files: &[Candidate<'_>], taken: &[Taken]) -> Vec<usize> {
    let in_mesh = (0..files.len()).filter(|at| taken[*at] != Taken::Nothing);
    let (new, known): (Vec<usize>, Vec<usize>) =
        in_mesh.partition(|at| taken[*at] == Taken::Now && files[*at].is_changed());
    known.into_iter().chain(new).collect()
}

fn version<'a>(file: &Candidate<'a>, taken: Taken) -> Option<&'a MeshFile> {
    match taken {
        Taken::Now => Some(file.now),
        Taken::Before => file.before,
        Taken::Nothing => None,
    }
}

/// The backends that no file has and that file `at` did not name before either. What it named all along must not keep it
/// from being edited: it is no worse than it was.
fn brought(files: &[Candidate<'_>], order: &[usize], at: usize, taken: &[Taken], now: &Sinks) -> Sink {
    let as_it_was = |other: &usize| match *other == at {
        true => files[at].before,
        false => version(&files[*other], taken[*other]),
    };
    let chosen: Vec<&MeshFile> = order.iter().filter_map(as_it_was).collect();
    let (_, sinks) = join(&chosen);
    let before = order.iter().zip(&sinks).find(|(other, _)| **other == at);
    match before {
        Some((_, before)) => now.dangling.clone().beyond(&before.dangling),
        None => now.dangling.clone(),
    }
}

/// The names of the files that are not in the mesh as they are now.
fn unusable(files: &[Candidate<'_>], taken: &[Taken]) -> Vec<String> {
    let bad = files.iter().zip(taken).filter(|(_, taken)| **taken != Taken::Now);
    bad.map(|(file, _)| file.now.name.clone()).collect()
}

/// What is wrong with backends, and what that means.
fn warned(faults: &Faults, unusable: &[String]) -> Vec<Fault> {
    let mut warnings = faults.told().to_vec();
    for warning in &mut warnings {
        let meanwhile = match unusable {
            [] => "it has no endpoints".to_owned(),
            bad => format!("it has no endpoints while {} cannot be used", bad.join(", ")),
        };
        warning.hint = Some(match warning.hint.take() {
            Some(hint) => format!("{meanwhile}; {hint}"),
            None => meanwhile,
        });
    }
    warnings
}

/// Builds the mesh of those files that can be read.
fn join(files: &[&MeshFile]) -> (Mesh, Vec<Sinks>) {
    let mut sinks: Vec<Sinks> = files.iter().map(|file| file.sinks()).collect();
    let readable: Vec<usize> = (0..files.len()).filter(|at| files[*at].fields.is_some()).collect();
    let parts: Vec<Part<'_>> = readable.iter().filter_map(|at| files[*at].part()).collect();
    let mut of_parts: Vec<Sinks> = readable.iter().map(|at| sinks[*at].clone()).collect();
    let mesh = mesh::build(&parts, parts.len() == files.len(), &mut of_parts);
    for (at, found) in readable.into_iter().zip(of_parts) {
        sinks[at] = found;
    }
    (mesh, sinks)
}

/// The same mesh, its services sorted by full name, so that it does not matter which file a service stands in.
fn sorted(mut mesh: Mesh) -> Mesh {
    let mut order: Vec<(String, usize)> =
        mesh.services.iter().enumerate().map(|(at, service)| (service.full_name(), at)).collect();
    order.sort_unstable();
    let mut moved = vec![0; order.len()];
    for (to, (_, from)) in order.iter().enumerate() {
        moved[*from] = to;
    }
    for backend in
        mesh.services.iter_mut().flat_map(|service| &mut service.routes).flat_map(|route| &mut route.backends)
    {
        backend.service = moved[backend.service];
    }
    let mut services: Vec<_> = mesh.services.into_iter().zip(moved).collect();
    services.sort_by_key(|(_, to)| *to);
    mesh.services = services.into_iter().map(|(service, _)| service).collect();
    mesh
}
