//! Whose resources are read.

/// Who we are: fills what a foreign control plane does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The trust domain of services that are not said to have another.
    pub trust_domain: String,
    /// The namespace of services whose names have no dot.
    pub namespace: String,
}
