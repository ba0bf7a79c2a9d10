//! The keys of an issuer: a set as RFC 7517 has it, of which those are kept that fit the one algorithm that was chosen.
//!
//! Invariant: a key whose type, curve, algorithm or use is another one is none, whatever a token says of itself.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use std::collections::HashMap;

/// Keys by their names.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    named: HashMap<String, DecodingKey>,
    /// The only one there is, named or not.
    only: Option<DecodingKey>,
}

impl Keys {
    /// The keys of the set that fit the algorithm.
    ///
    /// # Errors
    /// Why there is none.
    pub fn parse(text: &[u8], algorithm: Algorithm) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(text).map_err(|e| format!("it is no set of keys: {e}"))?;
        let mut keys = Self::default();
        let mut count = 0;
        for jwk in set.keys.iter().filter(|jwk| fits(jwk, algorithm)) {
            let key = DecodingKey::from_jwk(jwk).map_err(|e| format!("a key is malformed: {e}"))?;
            count += 1;
            keys.only = Some(key.clone()).filter(|_| count == 1);
            if let Some(name) = &jwk.common.key_id
                && keys.named.insert(name.clone(), key).is_some()
            {
                return Err(format!("two keys have the kid {name:?}"));
            }
        }
        if count == 0 {
            return Err(format!("none of its {} keys is one for {algorithm:?} signatures", set.keys.len()));
        }
        Ok(keys)
    }

    /// The key that a token names, or the only one for a token that names none.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&DecodingKey> {
        match name {
            Some(name) => self.named.get(name),
            None => self.only.as_ref(),
        }
    }
}

fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let (type_fits, named) = match (algorithm, &jwk.algorithm) {
        (Algorithm::EdDSA, AlgorithmParameters::OctetKeyPair(key)) => {
            (key.curve == EllipticCurve::Ed25519, KeyAlgorithm::EdDSA)
        }
        (Algorithm::ES256, AlgorithmParameters::EllipticCurve(key)) => {
            (key.curve == EllipticCurve::P256, KeyAlgorithm::ES256)
        }
        (Algorithm::RS256, AlgorithmParameters::RSA(_)) => (true, KeyAlgorithm::RS256),
        _ => return false,
    };
    let use_fits = jwk.common.public_key_use.as_ref().is_none_or(|kind| *kind == PublicKeyUse::Signature);
    type_fits && use_fits && jwk.common.key_algorithm.is_none_or(|said| said == named)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn set(keys: &[&str]) -> Vec<u8> {
        format!("{{\"keys\":[{}]}}", keys.join(",")).into_bytes()
    }

    fn with(key: &str, more: &str) -> String {
        key.replacen('{', &format!("{{{more},"), 1)
    }

    #[test]
    fn a_key_is_found_by_its_name_or_as_the_only_one() {
        let (a, b) = (with(ED, r#""kid":"a""#), with(ED, r#""kid":"b","alg":"EdDSA","use":"sig""#));
        let one = Keys::parse(&set(&[&a]), Algorithm::EdDSA).expect("a key");
        assert!(one.find(Some("a")).is_some() && one.find(None).is_some() && one.find(Some("b")).is_none());
        let two = Keys::parse(&set(&[&a, &b]), Algorithm::EdDSA).expect("keys");
        assert!(two.find(Some("b")).is_some() && two.find(None).is_none(), "which one is not said");
        assert!(Keys::parse(&set(&[&a, &a]), Algorithm::EdDSA).is_err());
    }

    #[test]
    fn a_key_for_something_else_is_none() {
        let oct = r#"{"kty":"oct","k":"c2VjcmV0","kid":"h"}"#;
        let others = [
            with(ED, r#""alg":"ES256""#),
            with(ED, r#""use":"enc""#),
            ED.replace("Ed25519", "X25519"),
            oct.to_owned(),
            r#"{"kty":"new"}"#.to_owned(),
        ];
        for other in &others {
            assert!(Keys::parse(&set(&[other]), Algorithm::EdDSA).is_err(), "{other}");
            assert!(Keys::parse(&set(&[ED, other]), Algorithm::EdDSA).is_ok(), "it is passed over: {other}");
        }
        for algorithm in [Algorithm::ES256, Algorithm::RS256] {
            assert!(Keys::parse(&set(&[ED]), algorithm).is_err(), "{algorithm:?}");
        }
        assert!(Keys::parse(b"{\"keys\":7}", Algorithm::EdDSA).is_err());
    }
}
