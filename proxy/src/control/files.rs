//! The configuration's files, read and checked.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use config::Source;
use config::model::{Mesh, Sidecar};
use files::fingerprint;
use identity::material::{Material, Origins};

use crate::tls::credentials::Credentials;

/// Largest configuration file that is read; the parser has its own, smaller limit.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A file as it was read.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) read: SystemTime,
}

impl File {
    /// Reads a file whole.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let say = |error: std::io::Error| format!("{}: {error}", path.display());
        let read = SystemTime::now();
        let text = files::text(path, FILE_BYTES_MAX).map_err(say)?;
        Ok(Self { path: path.to_owned(), text, read })
    }

    /// What tells one content from another: SHA-256, in hex.
    pub(crate) fn digest(&self) -> String {
        fingerprint(self.text.as_bytes())
    }
}

/// What is read before anything is started.
pub(crate) struct Loaded {
    pub(crate) sidecar: Sidecar,
    pub(crate) sidecar_file: File,
    /// `None`: the mesh comes from a control plane.
    pub(crate) mesh: Option<(Mesh, File)>,
}

/// Reads a `sidecar.yaml` and the mesh file that it names; the error tells the faults of both.
pub(crate) fn load(path: &Path) -> Result<Loaded, String> {
    let sidecar_file = File::read(path)?;
    let sidecar_name = path.display().to_string();
    let sidecar_source = Source { name: &sidecar_name, text: &sidecar_file.text };
    let sidecar = parse_sidecar(path, sidecar_source).map_err(|faults| {
        let folder = path.parent().unwrap_or(Path::new(""));
        let of_mesh = config::named_mesh(sidecar_source).and_then(|mesh| faults_of_mesh(&folder.join(mesh)));
        unusable(&[faults.to_string()].into_iter().chain(of_mesh).collect::<Vec<_>>().join("\n"))
    })?;
    let mesh = match sidecar.mesh.file() {
        None => None,
        Some(path) => {
            // A file that is not there has no faults to tell.
            let file = File::read(path)?;
            let mesh = check_mesh(&sidecar, &sidecar_file, &file).map_err(|faults| unusable(&faults))?;
            Some((mesh, file))
        }
    };
    Ok(Loaded { sidecar, sidecar_file, mesh })
}

/// Reads a `sidecar.yaml` alone, its paths made relative to its folder.
pub(crate) fn read_sidecar(path: &Path) -> Result<Sidecar, String> {
    let file = File::read(path)?;
    let name = path.display().to_string();
    parse_sidecar(path, Source { name: &name, text: &file.text }).map_err(|faults| unusable(&faults))
}

/// What has been found of files that may have changed.
pub(crate) struct Judged<T> {
    /// What tells one content from another.
    pub(crate) digest: String,
    /// What they say, or a line for each fault.
    pub(crate) verdict: Result<T, String>,
}

/// Reads the mesh file and checks it by itself and against the sidecar; `None` without a file.
pub(crate) fn judge_mesh(sidecar: &Sidecar, sidecar_file: &File) -> Option<Judged<(Mesh, File)>> {
    Some(match File::read(sidecar.mesh.file()?) {
        Err(error) => Judged { digest: fingerprint(error.as_bytes()), verdict: Err(error) },
        Ok(file) => {
            let digest = file.digest();
            Judged { digest, verdict: check_mesh(sidecar, sidecar_file, &file).map(|mesh| (mesh, file)) }
        }
    })
}

/// Reads the three files of the identity and checks that they belong together; `None` without files.
pub(crate) fn judge_identity(sidecar: &Sidecar) -> Option<Judged<Credentials>> {
    let files = sidecar.identity.as_ref()?.files()?;
    Some(match Material::read(files, SystemTime::now()) {
        Err(error) => Judged { digest: fingerprint(error.as_bytes()), verdict: Err(error) },
        Ok(material) => {
            let digest = material.digest.clone();
            let verdict = Credentials::new(material, &Origins::files(files), &sidecar.spiffe_id());
            Judged { digest, verdict }
        }
    })
}

fn check_mesh(sidecar: &Sidecar, sidecar_file: &File, mesh_file: &File) -> Result<Mesh, String> {
    let sidecar_name = sidecar_file.path.display().to_string();
    let sidecar_source = Source { name: &sidecar_name, text: &sidecar_file.text };
    let mesh_name = mesh_file.path.display().to_string();
    let mesh_source = Source { name: &mesh_name, text: &mesh_file.text };
    let mesh = config::parse_mesh(mesh_source).map_err(|faults| faults.to_string())?;
    config::cross_check(sidecar, sidecar_source, &mesh, mesh_source).map_err(|faults| faults.to_string())?;
    Ok(mesh)
}

/// Reads the text of a sidecar file, its paths made relative to its folder.
fn parse_sidecar(path: &Path, source: Source<'_>) -> Result<Sidecar, config::Faults> {
    let mut sidecar = config::parse_sidecar(source)?;
    sidecar.resolve_paths(path.parent().unwrap_or(Path::new("")));
    Ok(sidecar)
}

/// What is wrong with a mesh file, beside a sidecar file that has faults already.
fn faults_of_mesh(path: &Path) -> Option<String> {
    let file = match File::read(path) {
        Ok(file) => file,
        Err(error) => return Some(error),
    };
    let name = path.display().to_string();
    config::parse_mesh(Source { name: &name, text: &file.text }).err().map(|faults| faults.to_string())
}

/// Faults begin on a line of their own, so that each line begins with its place.
fn unusable(faults: &dyn std::fmt::Display) -> String {
    format!("the configuration cannot be used:\n{faults}")
}
