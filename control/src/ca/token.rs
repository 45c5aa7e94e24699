//! Join tokens: who a workload is before it has a certificate. JWT (RFC 7519), HS256.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;
use files::hex;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::ca::random::random;
use crate::ca::reason::{Reason, Refusal};

/// Who makes them.
const ISSUER: &str = "outrigger";
/// Of a token; ours have some 400.
pub(crate) const BYTES_MAX: usize = 4 << 10;
/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// What tokens are signed with.
#[derive(Clone)]
pub(crate) struct TokenKey([u8; KEY_BYTES]);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// The SPIFFE id that it is bound to.
    sub: String,
    /// The trust domain.
    aud: String,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    single_use: bool,
}

/// A token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: SpiffeId,
    pub(crate) expires: SystemTime,
    /// Its number: 32 hex digits.
    pub(crate) jti: String,
    /// It may bring one certificate and no second.
    pub(crate) single_use: bool,
}

impl TokenKey {
    /// Reads it as it stands in `what`: hex.
    pub(crate) fn read(what: &str, text: &[u8]) -> Result<Self, String> {
        let digits = text.trim_ascii();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        let key = bytes.filter(|_| digits.iter().all(u8::is_ascii_hexdigit));
        match key.and_then(|key| key.try_into().ok()) {
            Some(key) => Ok(Self(key)),
            None => Err(format!(
                "{what}: not a key of join tokens, which is {} hex digits; remove it to have one made",
                2 * KEY_BYTES
            )),
        }
    }

    /// Makes a token for a workload.
    pub(crate) fn make(
        &self,
        id: &SpiffeId,
        life: Duration,
        single_use: bool,
        now: SystemTime,
    ) -> Result<String, String> {
        let iat = seconds(now);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: id.to_string(),
            aud: id.trust_domain().to_owned(),
            iat,
            exp: iat.saturating_add(life.as_secs().max(1)),
            jti: hex(&random::<16>()?),
            single_use,
        };
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&self.0))
            .map_err(|error| format!("a token cannot be made: {error}"))
    }

    /// Checks a token: ours, of this trust domain, for a workload of it, and not over.
    pub(crate) fn check(&self, token: &str, trust_domain: &str, now: SystemTime) -> Result<Token, Refusal> {
        let wrong = |what: String| Refusal::new(Reason::WrongToken, format!("the token is not good: {what}"));
        if token.len() > BYTES_MAX {
            return Err(wrong(format!("it has more than {BYTES_MAX} bytes")));
        }
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.set_issuer(&[ISSUER]);
        rules.set_audience(&[trust_domain]);
        // By our own clock, below.
        rules.validate_exp = false;
        let claims = decode::<Claims>(token, &DecodingKey::from_secret(&self.0), &rules)
            .map_err(|error| {
                wrong(match error.kind() {
                    ErrorKind::InvalidSignature => {
                        "it was signed with another key than ours (tokens.key)".to_owned()
                    }
                    ErrorKind::InvalidAudience => {
                        format!("it is for another trust domain than `{trust_domain}`")
                    }
                    _ => error.to_string(),
                })
            })?
            .claims;
        let id = SpiffeId::parse(&claims.sub).map_err(|rule| wrong(format!("`sub`: {rule}")))?;
        if id.trust_domain() != trust_domain || id.path().is_empty() {
            return Err(wrong(format!("`sub` is {id}, which is no workload of `{trust_domain}`")));
        }
        if claims.jti.is_empty()
            || claims.jti.len() > 64
            || !claims.jti.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(wrong("`jti` is no number of ours".to_owned()));
        }
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        let expires = expires.ok_or_else(|| wrong("`exp` is out of bounds".to_owned()))?;
        if expires <= now {
            let ago = now.duration_since(expires).unwrap_or_default().as_secs();
            let what = format!("the token for {id} expired {ago} s ago; make another: outrigger certs token");
            return Err(Refusal::new(Reason::ExpiredToken, what));
        }
        Ok(Token { id, expires, jti: claims.jti, single_use: claims.single_use })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/orders").unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    fn reason(key: &TokenKey, token: &str, domain: &str, now: SystemTime) -> Reason {
        key.check(token, domain, now).unwrap_err().reason
    }

    #[test]
    fn a_token_says_who_it_is_for_until_it_expires() {
        let key = TokenKey([7; KEY_BYTES]);
        let text = key.make(&id(), LIFE, true, now()).unwrap();
        let token = key.check(&text, "cluster.local", now() + LIFE - Duration::from_secs(1)).unwrap();
        assert_eq!((token.id, token.expires, token.single_use), (id(), now() + LIFE, true));
        assert_eq!(token.jti.len(), 32);
        assert_eq!(reason(&key, &text, "cluster.local", now() + LIFE), Reason::ExpiredToken);
        let other = key.make(&id(), LIFE, false, now()).unwrap();
        assert!(!key.check(&other, "cluster.local", now()).unwrap().single_use);
    }

    #[test]
    fn a_token_of_another_key_or_domain_or_that_was_changed_is_wrong() {
        let key = TokenKey([7; KEY_BYTES]);
        let text = key.make(&id(), LIFE, false, now()).unwrap();
        assert_eq!(reason(&TokenKey([8; KEY_BYTES]), &text, "cluster.local", now()), Reason::WrongToken);
        assert_eq!(reason(&key, &text, "example.org", now()), Reason::WrongToken);
        let domain = SpiffeId::parse("spiffe://cluster.local").unwrap();
        let text = key.make(&domain, LIFE, false, now()).unwrap();
        assert_eq!(reason(&key, &text, "cluster.local", now()), Reason::WrongToken);
        for text in ["", "a.b.c", &"x".repeat(BYTES_MAX + 1)] {
            assert_eq!(reason(&key, text, "cluster.local", now()), Reason::WrongToken);
        }
    }

    #[test]
    fn a_token_without_a_signature_is_wrong_whatever_its_head_says() {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let claims = r#"{"iss":"outrigger","sub":"spiffe://cluster.local/ns/shop/sa/orders","aud":"cluster.local","iat":1,"exp":9999999999,"jti":"a"}"#;
        for head in [r#"{"alg":"none","typ":"JWT"}"#, r#"{"alg":"HS512","typ":"JWT"}"#, r#"{"alg":"HS256"}"#]
        {
            let text = format!("{}.{}.", encode(head), encode(claims));
            assert_eq!(reason(&TokenKey([7; KEY_BYTES]), &text, "cluster.local", now()), Reason::WrongToken);
        }
    }

    #[test]
    fn a_key_is_64_hex_digits() {
        let digits = "0f".repeat(KEY_BYTES);
        assert_eq!(TokenKey::read("k", format!("{digits}\n").as_bytes()).unwrap().0, [15; KEY_BYTES]);
        for bad in ["", "0f", &digits[2..], &format!("{digits}00"), &"+f".repeat(KEY_BYTES)] {
            assert!(TokenKey::read("k", bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
