//! A CA for one demo, and a leaf for each service and for the control plane. The CA's key never leaves the process.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::demo::mesh::spiffe_id;

/// How long the certificates hold; longer than anybody watches a demo.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Certificates begin this much in the past, because clocks differ.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// The account of the control plane, and the name of its files.
pub(crate) const CONTROL: &str = "control";

/// Writes `ca.crt`, and `NAME.crt` and `NAME.key` for each of `services` and for a control plane that is dialled at
/// `control`, into `folder`.
pub(crate) fn write(folder: &Path, services: &[&str], control: IpAddr) -> io::Result<()> {
    let authority = authority().map_err(io::Error::other)?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    let services = services.iter().map(|service| (*service, None));
    for (name, dialled) in services.chain([(CONTROL, Some(control))]) {
        let (certificate, key) = leaf(name, dialled, &authority).map_err(io::Error::other)?;
        fs::write(folder.join(format!("{name}.crt")), certificate)?;
        write_private(&folder.join(format!("{name}.key")), &key)?;
    }
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = params("outrigger demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// Certificate and private key, in PEM. Sidecars know each other by their SPIFFE ids, and the control plane by the address
/// that they dial.
fn leaf(
    account: &str,
    dialled: Option<IpAddr>,
    authority: &CertifiedIssuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    let mut params = params(account);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(spiffe_id(account))?)];
    params.subject_alt_names.extend(dialled.map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LIFE).into();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn everybody_gets_a_certificate_and_a_key_that_only_we_can_read() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &["users", "orders"], [127, 1, 2, 3].into()).expect("certificates");
        for name in ["users", "orders", CONTROL] {
            let certificate = fs::read_to_string(folder.path().join(format!("{name}.crt")));
            assert!(certificate.expect("a certificate").starts_with("-----BEGIN CERTIFICATE-----"));
            let key = folder.path().join(format!("{name}.key"));
            assert_eq!(fs::metadata(key).expect("a key").permissions().mode() & 0o777, 0o600);
        }
        assert!(folder.path().join("ca.crt").exists());
    }
}
