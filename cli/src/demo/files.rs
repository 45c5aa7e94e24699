//! The files that the demo's sidecars and its control plane read.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::demo::control::{self, Control};
use crate::demo::mesh::{Replica, Services, service_yaml, sidecar_yaml};

/// The folder of the mesh, below that of all files.
const MESH: &str = "mesh";

/// Writes all of them into `folder`: the mesh, a file for each service, `policies` being further lines of it; what the
/// control plane is told; what each replica's sidecar is told.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    folder: &Path,
    host: IpAddr,
    plane: &Control,
    (services, replicas): (&Services, &[Replica]),
    policies: impl Fn(&str) -> String,
) -> io::Result<()> {
    fs::create_dir(folder.join(MESH))?;
    for &(service, _) in services {
        let text = service_yaml(service, replicas, &policies(service));
        fs::write(mesh_file(folder, service), text)?;
    }
    fs::write(folder.join(control::FILE), plane.yaml(MESH))?;
    for replica in replicas {
        fs::write(folder.join(sidecar_file(&replica.name)), sidecar_yaml(host, replica, plane.ads()))?;
    }
    Ok(())
}

/// The folder of mesh files.
pub(crate) fn mesh(folder: &Path) -> PathBuf {
    folder.join(MESH)
}

/// The mesh file of a service.
pub(crate) fn mesh_file(folder: &Path, service: &str) -> PathBuf {
    mesh(folder).join(format!("{service}.yaml"))
}

/// The file of the sidecar beside a replica.
pub(crate) fn sidecar_file(replica: &str) -> String {
    format!("sidecar-{replica}.yaml")
}

/// Puts a new text in the place of a file at once, as an editor does: nobody reads half of it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let aside = file.with_file_name(format!(".{name}.next"));
    fs::write(&aside, text)?;
    fs::rename(aside, file)
}

/// Panics unless all files of `folder` pass `outrigger check` together, and are as many as there are services and
/// `replicas`.
#[cfg(test)]
pub(crate) fn assert_good(folder: &Path, replicas: usize) {
    use config::{Group, Source};

    let read = |folder: &Path| -> Vec<(String, String)> {
        let files = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
        let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        yaml.map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a text"))).collect()
    };
    fn group(files: &[(String, String)]) -> Group<'_> {
        Group { sources: files.iter().map(|(name, text)| Source { name, text }).collect() }
    }
    let (mesh, others) = (read(&folder.join(MESH)), read(folder));
    assert_eq!((mesh.len(), others.len()), (5, replicas + 1));
    let groups: Vec<_> = others.chunks(1).map(group).chain([group(&mesh)]).collect();
    if let Err(faults) = config::check_groups(&groups) {
        panic!("{faults}\n{mesh:?}");
    }
}
