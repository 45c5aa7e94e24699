//! Leaves: what the CA says of a workload. Everything in one is ours but the key.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use config::spiffe::SpiffeId;
use files::hex;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::ca::random::random;
use crate::ca::root::Root;

/// A leaf is good from this long before now, because clocks differ, or from a tenth of its life.
const BACKDATED_MAX: Duration = Duration::from_secs(60);

/// A leaf that was signed.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) der: CertificateDer<'static>,
    /// In hex.
    pub(crate) serial: String,
    pub(crate) not_after: SystemTime,
}

/// Signs a leaf for one workload, and the names by which a server is dialled. It is good for `life`, but no longer than its root.
pub(crate) fn sign<K: PublicKeyData>(
    root: &Root,
    key: &K,
    id: &SpiffeId,
    names: &[String],
    life: Duration,
    now: SystemTime,
) -> Result<Signed, String> {
    let issuer = root.issuer.as_ref().ok_or("the root has no key")?;
    // X.509 counts whole seconds; less than was asked for would be a surprise.
    let not_after = now.checked_add(life).map_or(root.not_after, whole_second).min(root.not_after);
    let life = not_after.duration_since(now).unwrap_or_default();
    let mut serial = random::<16>()?;
    // Positive, and as long for everybody (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial.to_vec().into());
    params.not_before = (now - BACKDATED_MAX.min(life / 10)).into();
    params.not_after = not_after.into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "outrigger");
    let uri = id.as_str().try_into().map_err(|error| format!("{id}: {error}"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|error| format!("{name}: {error}"))?),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(key, issuer).map_err(|error| format!("cannot sign: {error}"))?;
    Ok(Signed { der: leaf.der().clone(), serial: hex(&serial), not_after })
}

/// The next whole second.
fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use identity::leaf::{Leaf, validity};
    use rcgen::KeyPair;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::ca::root::make;

    fn root(now: SystemTime) -> Root {
        let made = make(now).unwrap();
        let key = Some(("a.key", made.key.as_bytes()));
        Root::read("a", "a.crt", made.certificate.as_bytes(), key).unwrap()
    }

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/orders").unwrap()
    }

    #[test]
    fn a_leaf_says_what_spiffe_asks_for_and_chains_to_its_root() {
        let now = SystemTime::now();
        let (root, key) = (root(now), KeyPair::generate().unwrap());
        let life = Duration::from_secs(3_600);
        let signed = sign(&root, &key, &id(), &[], life, now).unwrap();
        assert_eq!(Leaf::read(&signed.der).unwrap().id, id());
        let (_, leaf) = X509Certificate::from_der(&signed.der).unwrap();
        let (_, issuer) = X509Certificate::from_der(&root.der).unwrap();
        leaf.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(leaf.issuer().as_raw(), issuer.subject().as_raw());
        assert_eq!(leaf.raw_serial().len(), 16);
        let (from, until) = validity(&signed.der).unwrap();
        assert!(until >= now + life && until < now + life + Duration::from_secs(2));
        assert!(from <= now - Duration::from_secs(60) && from > now - Duration::from_secs(62));
        let other = sign(&root, &key, &id(), &[], life, now).unwrap();
        assert_ne!(signed.serial, other.serial);
    }

    #[test]
    fn a_leaf_is_never_good_for_longer_than_its_root() {
        let now = SystemTime::now();
        let root = root(now);
        let late = root.not_after - Duration::from_secs(10);
        let signed =
            sign(&root, &KeyPair::generate().unwrap(), &id(), &[], Duration::from_secs(3_600), late).unwrap();
        assert_eq!(signed.not_after, root.not_after);
    }
}
