//! The folder of mesh files: which are there, without reading them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use files::Stamp;

/// Largest file that is read; the parser has its own, smaller limit.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Mesh files of one folder.
pub(crate) const FILES_MAX: usize = 1_000;

/// The files that are there, by path, or why that cannot be known.
pub(crate) type Look = Result<BTreeMap<PathBuf, Option<Stamp>>, String>;

/// Looks at a folder of mesh files, or at one mesh file. Mesh files of a folder end in `.yaml` or `.yml` and do not begin with a
/// dot, as what editors and Kubernetes put there for themselves does; folders below it are not looked at.
pub(crate) fn look(path: &Path) -> Look {
    let say = |error: std::io::Error| format!("{}: {error}", path.display());
    if !std::fs::metadata(path).map_err(say)?.is_dir() {
        return Ok(BTreeMap::from([(path.to_owned(), Stamp::of(path))]));
    }
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(say)? {
        let name = entry.map_err(say)?.file_name();
        let file = path.join(&name);
        if !is_mesh_file(&name.to_string_lossy()) || file.is_dir() {
            continue;
        }
        let stamp = Stamp::of(&file);
        files.insert(file, stamp);
        if files.len() > FILES_MAX {
            return Err(format!("{}: there are more than {FILES_MAX} mesh files", path.display()));
        }
    }
    match files.is_empty() {
        true => Err(format!("{}: there is no mesh file (`*.yaml` or `*.yml`)", path.display())),
        false => Ok(files),
    }
}

fn is_mesh_file(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}

/// Reads a configuration file whole.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    files::text(path, FILE_BYTES_MAX).map_err(|error| error.to_string())
}
