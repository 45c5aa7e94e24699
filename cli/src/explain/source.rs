//! Who is asked about a call.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proxy::explain::View;
use serde_json::Value;
use xds::assemble::{Parts, assemble};
use xds::decode::decode;
use xds::{Kind, Own, Part, names};

use crate::files;
use crate::page::{self, encode};

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// A running sidecar, by the URL of its admin listener.
    Sidecar(&'a str),
    /// A mesh file or a folder of them, as the sidecar of a service would see it.
    File { file: &'a Path, from: Option<&'a str> },
    /// What a control plane holds for a proxy, or, without one, for the sidecar of a service.
    Control { control: &'a str, proxy: Option<&'a str>, from: Option<&'a str> },
}

impl Source<'_> {
    /// The mesh to answer from.
    pub(crate) fn view(self) -> Result<View, String> {
        match self {
            Self::File { file, from } => {
                View::new(files::mesh(file)?, from).map_err(|error| format!("{}: {error}", file.display()))
            }
            Self::Control { control, proxy, from } => held(control, proxy, from),
            Self::Sidecar(_) => Err("a running sidecar answers by itself".to_owned()),
        }
    }
}

/// The mesh that a proxy sees by what a control plane is to send it; without one, that of the sidecar of `from`.
fn held(control: &str, proxy: Option<&str>, from: Option<&str>) -> Result<View, String> {
    let query = proxy.map_or_else(String::new, |proxy| format!("?proxy={}", encode(proxy)));
    let answer = page::json(control, &format!("/resources{query}"))
        .map_err(|error| format!("{error}; --control names a control plane's `admin.listen`"))?;
    // The id of our own sidecars begins with the service that they stand beside.
    let beside = proxy.and_then(|proxy| proxy.split_once('~')).map(|(service, _)| service);
    let beside = beside.filter(|service| service.contains('.'));
    let namespace =
        beside.and_then(|beside| beside.split_once('.')).map_or("default", |(_, namespace)| namespace);
    let own = Own { trust_domain: TRUST_DOMAIN.to_owned(), namespace: namespace.to_owned() };
    let mut parts = Parts::new();
    for resource in answer.as_array().into_iter().flatten() {
        let (kind, name, part) = read(resource, &own)?;
        parts.insert((kind, name), part);
    }
    let assembly = assemble(&parts, &own);
    for conflict in &assembly.conflicts {
        eprintln!("outrigger explain: note: {conflict}");
    }
    for (kind, name) in &assembly.missing {
        eprintln!("outrigger explain: note: the control plane does not hold {kind:?} {name} for this proxy");
    }
    // What a service asks of its callers is told to the sidecars beside it only.
    let told = |full: &str| parts.contains_key(&(Kind::Listener, names::inbound(full)));
    // A proxy that asks on demand may not have its own service; who calls is then not known by name.
    let known =
        beside.filter(|own| assembly.mesh.services.iter().any(|service| service.full_name() == **own));
    Ok(View::new(assembly.mesh, from.or(known))?.knowing_rules_of(told))
}

/// What a resource says that names no trust domain; ours always do.
const TRUST_DOMAIN: &str = "cluster.local";

fn read(resource: &Value, own: &Own) -> Result<(Kind, String, Part), String> {
    let text = |key: &str| {
        let value = resource[key].as_str();
        value.ok_or_else(|| format!("the control plane sent a resource without `{key}`"))
    };
    let (of_type, name) = (text("type")?, text("name")?);
    let short = |url: &str| url.rsplit(['.', '/']).next().unwrap_or_default().to_owned();
    let kind = Kind::ALL.into_iter().find(|kind| short(kind.type_url()) == short(of_type));
    let kind =
        kind.ok_or_else(|| format!("the control plane sent a resource of the unknown type {of_type}"))?;
    let bytes = BASE64.decode(text("base64")?).map_err(|error| format!("{of_type} {name}: {error}"))?;
    let part = decode(kind, name, &bytes, own).map_err(|refusal| format!("{of_type} {name}: {refusal}"))?;
    Ok((kind, name.to_owned(), part))
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
