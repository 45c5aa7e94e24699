//! The certificate that a peer proved itself by, to be looked at again when the roots change.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::credentials::{Client, Credentials};

/// A chain, and the roots that it led to last.
#[derive(Debug)]
pub(crate) struct Proof {
    chain: Vec<CertificateDer<'static>>,
    trust: Arc<RootCertStore>,
    role: Role,
}

/// What the peer is to us: their certificates are for different uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Caller,
    Server,
}

impl Proof {
    /// Of a caller that `own` has let in.
    pub(crate) fn of_caller(chain: &[CertificateDer<'_>], own: &Credentials) -> Self {
        Self::new(chain, own.material.trust.clone(), Role::Caller)
    }

    /// Of a server that `tls` has accepted.
    pub(crate) fn of_server(chain: &[CertificateDer<'_>], tls: &Client) -> Self {
        Self::new(chain, tls.material.trust.clone(), Role::Server)
    }

    fn new(chain: &[CertificateDer<'_>], trust: Arc<RootCertStore>, role: Role) -> Self {
        Self { chain: chain.iter().map(|each| each.clone().into_owned()).collect(), trust, role }
    }

    /// Whether it still leads to a root of `own`. It costs a look at the signatures once for each time that a root goes which may
    /// have signed it.
    pub(crate) fn holds(&mut self, own: Option<&Credentials>) -> bool {
        // Without an identity of our own nobody has proved anything.
        let Some(own) = own else { return true };
        let trust = &own.material.trust;
        let vouched = || match self.role {
            Role::Caller => own.accepts_caller(&self.chain),
            Role::Server => own.accepts_server(&self.chain),
        };
        let holds = Arc::ptr_eq(trust, &self.trust) || !self.names_one_gone(trust) || vouched();
        self.trust = trust.clone();
        holds
    }

    /// Whether a certificate of the chain was signed in the name of a root that is not among `trust` any more. Of any: whoever is
    /// asked may send more than leads to its root.
    fn names_one_gone(&self, trust: &RootCertStore) -> bool {
        let gone: Vec<_> = self.trust.roots.iter().filter(|root| !trust.roots.contains(root)).collect();
        !gone.is_empty()
            && self.chain.iter().any(|certificate| match X509Certificate::from_der(certificate) {
                // The name of a root stands without its head.
                Ok((_, read)) => gone.iter().any(|root| read.issuer().as_raw().ends_with(&root.subject)),
                Err(_) => true,
            })
    }
}

#[cfg(test)]
mod tests {
    use bench::certs::Ca;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    fn roots(of: &[&Ca]) -> RootCertStore {
        let mut store = RootCertStore::empty();
        for ca in of {
            store.add(CertificateDer::from_pem_slice(ca.bundle_pem().as_bytes()).unwrap()).unwrap();
        }
        store
    }

    #[test]
    fn a_chain_is_looked_at_again_only_where_a_root_of_its_issuer_s_name_is_gone() {
        let (ours, same_name) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
        let other = Ca::new("other.local");
        let leaf = ours.leaf("spiffe://cluster.local/ns/shop/sa/orders");
        let chain: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(Result::unwrap).collect();
        let proof = Proof::new(&chain, Arc::new(roots(&[&ours, &same_name, &other])), Role::Caller);
        assert!(!proof.names_one_gone(&roots(&[&other, &ours, &same_name])), "none is gone");
        assert!(proof.names_one_gone(&roots(&[&other, &same_name])), "its own");
    }
}
