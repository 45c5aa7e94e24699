//! `outrigger certs kubernetes`: the authority and the join tokens as Secrets, for `kubectl apply -f -`.
//!
//! Run again, it prints the roots that there are then, and fresh tokens. The folder is the only place that is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use config::spiffe::SpiffeId;
use control::ca::make::{make_root, make_token};

/// What Kubernetes takes as a name of ours (RFC 1123).
const NAME_MAX: usize = 63;
/// Largest file of the folder that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The key of join tokens.
const TOKENS_KEY: &str = "tokens.key";

/// What the command line asks for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder of roots, their keys and the key of join tokens.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Makes the authority: the folder, with a first root. Without it a folder that has none is an error, for whoever applied what a
    /// mistyped one brings would replace the mesh's authority.
    #[arg(long)]
    new: bool,
    /// Who gets a join token.
    #[arg(required = true, value_name = "NAMESPACE/ACCOUNT")]
    workloads: Vec<Workload>,
    /// The trust domain of the mesh.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// The namespace of the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = "outrigger")]
    control_namespace: String,
    /// How long the tokens are good, such as 12h or 30d: a pod that starts later cannot join.
    #[arg(long, value_name = "DURATION", value_parser = crate::duration, default_value = "30d")]
    life: Duration,
}

/// A service account.
#[derive(Clone, Debug)]
struct Workload {
    namespace: String,
    account: String,
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, account) = text
            .split_once('/')
            .filter(|(namespace, account)| is_name(namespace) && is_name(account))
            .ok_or("write a namespace and a service account, such as shop/orders")?;
        Ok(Self { namespace: namespace.to_owned(), account: account.to_owned() })
    }
}

/// Prints the manifests; what was made besides goes to stderr.
pub(crate) fn print(options: &Options) -> Result<(), String> {
    print!("{}", manifests(options, SystemTime::now())?);
    Ok(())
}

fn manifests(options: &Options, now: SystemTime) -> Result<String, String> {
    let Options { folder, new, workloads, trust_domain, control_namespace, life } = options;
    if !has_root(folder)? {
        if !new {
            return Err(format!(
                "{}: there is no authority (*.crt) in it; `--new` makes one, once for each mesh",
                folder.display()
            ));
        }
        let made = make_root(folder, now)?;
        eprintln!("made the first root: {}", made.certificate.display());
    }
    let mut tokens = Vec::new();
    for workload in workloads {
        let Workload { namespace, account } = workload;
        let id = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}");
        let id = SpiffeId::parse(&id).map_err(|rule| format!("{id}: {rule}"))?;
        tokens.push((workload, make_token(folder, &id, *life, false, now)?));
    }
    let authority = authority(folder)?;
    let bundle: String =
        authority.iter().filter(|(name, _)| name.ends_with(".crt")).map(|(_, text)| text.as_str()).collect();
    let mut text = secret("outrigger-ca", control_namespace, &authority);
    for (Workload { namespace, account }, token) in tokens {
        let join = BTreeMap::from([("token".to_owned(), token), ("ca.crt".to_owned(), bundle.clone())]);
        text += &secret(&format!("{account}-join"), namespace, &join);
    }
    Ok(text)
}

fn has_root(folder: &Path) -> Result<bool, String> {
    match folder.exists() {
        true => Ok(names(folder)?.iter().any(|name| name.ends_with(".crt"))),
        false => Ok(false),
    }
}

/// What the control plane needs of the folder: roots, their keys, and the key of tokens.
fn authority(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let names = names(folder)?;
    let mut found = BTreeMap::new();
    for name in &names {
        let path = folder.join(name);
        let stem = name.strip_suffix(".key").or_else(|| name.strip_suffix(".stolen"));
        let is_key = name == TOKENS_KEY || stem.is_some_and(|stem| names.contains(&format!("{stem}.crt")));
        let bytes = match () {
            () if name.ends_with(".crt") || name.ends_with(".stolen") => files::read(&path, FILE_BYTES_MAX),
            () if is_key => files::read_private(&path, FILE_BYTES_MAX),
            () => continue,
        };
        let say = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = bytes.map_err(|error| say(&error))?;
        let mut text = String::from_utf8(bytes).map_err(|_| say(&"it is not text"))?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        found.insert(name.clone(), text);
    }
    Ok(found)
}

fn names(folder: &Path) -> Result<Vec<String>, String> {
    let say = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(say)? {
        let name = entry.map_err(say)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A Secret. With `data` and not `stringData`: of the latter, `kubectl apply` leaves behind what a later manifest does not have, and
/// a root that was taken out would be trusted on.
fn secret(name: &str, namespace: &str, files: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         labels: {{app.kubernetes.io/part-of: outrigger}}\ndata:\n"
    );
    for (name, content) in files {
        text += &format!("  {name}: {}\n", STANDARD.encode(content));
    }
    text
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= NAME_MAX
        && text.bytes().all(inner)
        && ends.iter().all(|end| end.is_some_and(|end| end != b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path) -> Options {
        let workloads = ["shop/orders", "shop/users"].map(|text| text.parse().expect("a workload"));
        Options {
            folder: folder.join("ca"),
            new: true,
            workloads: workloads.to_vec(),
            trust_domain: "cluster.local".to_owned(),
            control_namespace: "outrigger".to_owned(),
            life: Duration::from_secs(60),
        }
    }

    fn value(text: &str, secret: &str, key: &str) -> Option<String> {
        let one = text.split("---\n").find(|one| one.contains(&format!("  name: {secret}\n")))?;
        let line = one.lines().find_map(|line| line.strip_prefix(&format!("  {key}: ")))?;
        Some(String::from_utf8(STANDARD.decode(line).expect("base64")).expect("text"))
    }

    #[test]
    fn the_first_run_makes_a_root_and_later_ones_keep_it_and_make_fresh_tokens() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(folder.path());
        let first = manifests(&options, SystemTime::now()).expect("manifests");
        let options = Options { new: false, ..options };
        let again = manifests(&options, SystemTime::now()).expect("manifests");
        let nowhere =
            Options { folder: folder.path().join("mistyped"), ..super::tests::options(folder.path()) };
        let error =
            manifests(&Options { new: false, ..nowhere }, SystemTime::now()).expect_err("no authority");
        assert!(error.contains("--new") && !folder.path().join("mistyped").exists(), "{error}");
        let bundle = value(&first, "orders-join", "ca.crt").expect("a bundle");
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(value(&again, "users-join", "ca.crt"), Some(bundle));
        assert_eq!(value(&first, "outrigger-ca", TOKENS_KEY), value(&again, "outrigger-ca", TOKENS_KEY));
        assert_ne!(value(&first, "orders-join", "token"), value(&again, "orders-join", "token"));
        assert_ne!(value(&first, "orders-join", "token"), value(&first, "users-join", "token"));
        assert_eq!(first.matches("kind: Secret").count(), 3);
        for join in ["orders-join", "users-join"] {
            let keys = first.split("---\n").find(|one| one.contains(join)).expect("a Secret");
            assert!(!keys.contains(".key:"), "nobody but the control plane gets a key: {keys}");
        }
    }

    #[test]
    fn a_second_root_goes_to_everybody_and_one_that_was_taken_out_to_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(folder.path());
        manifests(&options, SystemTime::now()).expect("manifests");
        let second = make_root(&options.folder, SystemTime::now()).expect("a root").certificate;
        let both = manifests(&options, SystemTime::now()).expect("manifests");
        let bundle = value(&both, "orders-join", "ca.crt").expect("a bundle");
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
        fs::remove_file(&second).expect("it was there");
        let one = manifests(&options, SystemTime::now()).expect("manifests");
        assert_eq!(value(&one, "users-join", "ca.crt").map(|text| text.matches("BEGIN").count()), Some(1));
        let key = second.with_extension("key").file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(value(&one, "outrigger-ca", &key), None, "a key without its root is of use to nobody");
    }

    #[test]
    fn what_kubernetes_would_not_take_as_a_name_is_refused() {
        for wrong in ["orders", "/orders", "shop/", "shop/Orders", "shop/a/b", "shop/a: b", "-a/b", "a/b-"] {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
        assert!("shop/orders-2".parse::<Workload>().is_ok());
    }
}
