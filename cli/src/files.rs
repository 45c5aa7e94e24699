//! Reads a mesh from a file or a folder of files.

use std::fs;
use std::path::{Path, PathBuf};

use config::Source;
use config::model::Mesh;

/// The mesh of a file, or of all `*.yaml` and `*.yml` files of a folder together, as a control plane reads them.
///
/// # Errors
/// Every fault of every file, or what keeps it from being read.
pub(crate) fn mesh(path: &Path) -> Result<Mesh, String> {
    if !path.is_dir() {
        let (name, text) = read(path)?;
        return config::parse_mesh(Source { name: &name, text: &text })
            .map_err(|faults| faults.to_string().trim_end().to_owned());
    }
    let named = listed(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    if named.is_empty() {
        return Err(format!(
            "{}: has no *.yaml or *.yml file; name a mesh file or a folder of them",
            path.display()
        ));
    }
    let files = named.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let sources: Vec<Source<'_>> = files.iter().map(|(name, text)| Source { name, text }).collect();
    let read = config::parse_meshes(&sources);
    let faults: Vec<String> = read
        .files
        .iter()
        .filter_map(|file| Some(file.as_ref().err()?.to_string().trim_end().to_owned()))
        .collect();
    read.mesh.ok_or_else(|| faults.join("\n"))
}

/// The files of a folder that a control plane would take for mesh files, by name.
pub(crate) fn listed(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_yaml = !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"));
        if is_yaml && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<(String, String), String> {
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(format!("{name}: cannot be read: {error}")),
    }
}
