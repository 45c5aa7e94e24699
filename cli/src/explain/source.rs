//! Who is asked about a call.

use std::path::Path;

use proxy::explain::View;
use serde_json::Value;

use crate::files;
use crate::page::{self, encode};

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// A running sidecar, by the URL of its admin listener.
    Sidecar(&'a str),
    /// A mesh file or a folder of them, as the sidecar of a service would see it.
    File { file: &'a Path, from: Option<&'a str> },
    /// What a control plane holds for a proxy.
    Control { control: &'a str, proxy: &'a str },
}

impl Source<'_> {
    /// The mesh to answer from.
    pub(crate) fn view(self) -> Result<View, String> {
        match self {
            Self::File { file, from } => {
                View::new(files::mesh(file)?, from).map_err(|error| format!("{}: {error}", file.display()))
            }
            Self::Control { control, proxy } => {
                let _ = (control, proxy);
                Err("asking a control plane is not built yet".to_owned())
            }
            Self::Sidecar(_) => Err("a running sidecar answers by itself".to_owned()),
        }
    }
}

/// The answer of a running sidecar.
pub(crate) fn ask(
    admin: &str,
    authority: &str,
    method: &str,
    headers: &[(String, String)],
    caller: Option<&str>,
) -> Result<Value, String> {
    let mut path = format!("/explain?authority={}&method={}", encode(authority), encode(method));
    for (name, value) in headers {
        path.push_str(&format!("&header={}", encode(&format!("{name}:{value}"))));
    }
    if let Some(caller) = caller {
        path.push_str(&format!("&caller={}", encode(caller)));
    }
    page::json(admin, &path).map_err(|error| format!("{error}; --admin names a sidecar's `admin.listen`"))
}
