//! Reads a mesh from a file or a folder of files.

use std::fs;
use std::path::Path;

use config::model::Mesh;

/// The mesh of a file, or of all `*.yaml` and `*.yml` files of a folder together.
///
/// # Errors
/// Every fault of every file, or what keeps it from being read.
pub(crate) fn mesh(path: &Path) -> Result<Mesh, String> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path);
        text.map_err(|error| format!("{}: cannot be read: {error}", path.display()))
    };
    if path.is_dir() {
        return Err(format!("{}: is a folder; name a mesh file", path.display()));
    }
    let (name, text) = (path.display().to_string(), read(path)?);
    config::parse_mesh(config::Source { name: &name, text: &text })
        .map_err(|faults| faults.to_string().trim_end().to_owned())
}
