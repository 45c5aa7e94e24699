//! Why somebody is given no certificate, or is not served: the words of counters, of the audit, and for the client.

/// The label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Neither a certificate nor a token was shown.
    NoCredentials,
    /// A token that is not ours, was changed, or is for something else.
    WrongToken,
    /// A token whose time is over.
    ExpiredToken,
    /// A token for one use that was used.
    UsedToken,
    /// The request names another workload than the one that asks.
    ForeignId,
    /// The request cannot be read, or did not sign itself.
    BadCsr,
    /// A key of a kind that we do not sign.
    KeyType,
    /// Too many requests; or too many of one workload.
    Rate,
    /// There is no root that can sign.
    NoCa,
    /// The certificate that asks comes from a root that was stolen, so it may be anybody's.
    StolenRoot,
    /// A token for one use, and nowhere to remember that it was used.
    NoMemory,
}

impl Reason {
    /// All of them, with the values of their label.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::NoCredentials, "no_credentials"),
        (Self::WrongToken, "wrong_token"),
        (Self::ExpiredToken, "expired_token"),
        (Self::UsedToken, "used_token"),
        (Self::ForeignId, "foreign_id"),
        (Self::BadCsr, "bad_csr"),
        (Self::KeyType, "key_type"),
        (Self::Rate, "rate"),
        (Self::NoCa, "no_ca"),
        (Self::StolenRoot, "stolen_root"),
        (Self::NoMemory, "no_memory_of_tokens"),
    ];

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A reason, and what whoever asked is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_word() {
        for (place, (reason, word)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!((reason as usize, reason.as_str()), (place, word));
        }
    }
}
