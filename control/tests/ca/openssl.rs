//! What OpenSSL says of what we sign.

use std::process::Command;

use bench::joiner::Csr;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

use crate::kit::{Live, ORDERS};

fn openssl(dir: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(dir).output().expect("openssl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test]
async fn openssl_takes_our_chains_for_a_client_and_a_server_strictly() {
    let live = Live::start().await;
    let mut connection = live.connect(None).await.expect("a connection");
    let key = |algorithm| KeyPair::generate_for(algorithm).expect("a key");
    let dir = live.dir.path();
    std::fs::write(dir.join("roots.pem"), live.bundle()).expect("a file");
    for key in [
        KeyPair::generate().expect("a key"),
        key(&PKCS_ECDSA_P384_SHA384),
        key(&PKCS_RSA_SHA256),
        key(&PKCS_ED25519),
    ] {
        let csr = Csr::with(&[ORDERS], &key);
        let answer = connection.create(Some(&live.token(ORDERS)), &csr.pem, 0).await;
        std::fs::write(dir.join("leaf.pem"), csr.leaf(&answer).cert_pem).expect("a file");
        for purpose in ["sslclient", "sslserver"] {
            let verify = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots.pem", "leaf.pem"];
            let (fine, says) = openssl(dir, &verify);
            assert!(fine && says.contains("leaf.pem: OK"), "{purpose}: {says}");
        }
        let (fine, says) = openssl(dir, &["x509", "-in", "leaf.pem", "-noout", "-text"]);
        assert!(fine, "{says}");
        let says = says.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in [
            "X509v3 Key Usage: critical Digital Signature X509v3",
            "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication",
            "X509v3 Basic Constraints: critical CA:FALSE",
            &format!("X509v3 Subject Alternative Name: URI:{ORDERS}"),
            "X509v3 Subject Key Identifier:",
            "X509v3 Authority Key Identifier:",
            "Signature Algorithm: ecdsa-with-SHA256",
        ] {
            assert!(says.contains(expected), "{expected}: {says}");
        }
        assert_eq!(says.matches("URI:").count(), 1, "{says}");
    }
    let (_, says) = openssl(dir, &["x509", "-in", "roots.pem", "-noout", "-text"]);
    let says = says.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in
        ["CA:TRUE, pathlen:0", "X509v3 Key Usage: critical Certificate Sign, CRL Sign", "NIST CURVE: P-256"]
    {
        assert!(says.contains(expected), "{expected}: {says}");
    }
}
