//! Certificates and keys in PEM (RFC 7468), from bytes and from files.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Largest certificate, key or bundle file that is read.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The certificates of a PEM text, at least one. `what`: whose text it is, as errors name it.
pub fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{what}: not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{what}: no certificate in PEM"));
    }
    Ok(certificates)
}

/// The private key of a PEM text.
pub fn key(what: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("{what}: no private key in PEM: {error}"))
}

/// Reads a file whole; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, FILE_BYTES_MAX).map_err(|error| format!("{}: {error}", path.display()))
}

/// The certificates of a file, at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&path.display().to_string(), &read(path)?)
}

/// A certificate in PEM.
pub fn write_certificate(der: &[u8]) -> String {
    write("CERTIFICATE", der)
}

/// Certificates in PEM, one after the other.
pub fn write_certificates(all: &[CertificateDer<'_>]) -> String {
    all.iter().map(|der| write_certificate(der)).collect()
}

/// A private key in PEM.
pub fn write_key(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    write(label, key.secret_der())
}

/// Characters of a line (RFC 7468, section 2).
const LINE: usize = 64;

fn write(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(LINE.min(rest.len()));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for bytes in [1_usize, 47, 48, 49, 500] {
            let der = CertificateDer::from(vec![7; bytes]);
            assert_eq!(certificates("it", write_certificate(&der).as_bytes()).unwrap(), [der]);
        }
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let read = key("it", pem.as_bytes()).unwrap();
        assert_eq!(key("it", write_key(&read).as_bytes()).unwrap(), read);
    }
}
