//! Roots and join tokens, made in the folder of a CA.

use std::path::Path;
use std::time::{Duration, SystemTime};

use config::spiffe::SpiffeId;
use control::ca::make::{bundle_path, make_root, make_token};

/// Makes a root, and says what happens next.
pub(crate) fn root(folder: &Path) -> Result<(), String> {
    let made = make_root(folder, SystemTime::now())?;
    let certificate = made.certificate.display();
    if made.is_first {
        let bundle = bundle_path(folder);
        println!(
            "{certificate}: the first root; it signs at once\n{}: what sidecars trust",
            bundle.display()
        );
    } else {
        println!(
            "{certificate}: trusted from now on; signs when it has been for ca.overlap\n\
             /ca of the control plane shows how the rotation goes; superseded roots leave by themselves"
        );
    }
    Ok(())
}

/// Prints a join token, alone on stdout.
pub(crate) fn token(folder: &Path, id: &str, life: Duration, single_use: bool) -> Result<(), String> {
    let id = SpiffeId::parse(id).map_err(|rule| format!("--id {id}: {rule}"))?;
    println!("{}", make_token(folder, &id, life, single_use, SystemTime::now())?);
    Ok(())
}
