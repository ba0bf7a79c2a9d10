//! Tokens that are signed by the right key and by every other one.

use super::*;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rand};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;

/// Signs, and says which key that was. The key for RSA is a test's own, since ring makes none.
enum Signer {
    Ed(Ed25519KeyPair),
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn new(algorithm: JwtAlgorithm) -> Self {
        let random = SystemRandom::new();
        match algorithm {
            JwtAlgorithm::EdDSA => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).expect("random numbers");
                Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("just made"))
            }
            JwtAlgorithm::ES256 => {
                let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let key = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("random numbers");
                Self::Ec(Box::new(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).expect("just made")))
            }
            JwtAlgorithm::RS256 => {
                Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(include_bytes!("test-key.rsa.pkcs8")).expect("a key")))
            }
        }
    }

    /// The bytes that a public key is shown as.
    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed(key) => key.public_key().as_ref().to_vec(),
            Self::Ec(key) => key.public_key().as_ref().to_vec(),
            Self::Rsa(key) => key.public_key().as_ref().to_vec(),
        }
    }

    fn jwk(&self, name: &str) -> Value {
        match self {
            Self::Ed(_) => json!({"kty": "OKP", "crv": "Ed25519", "kid": name, "x": BASE64.encode(self.public())}),
            Self::Ec(_) => {
                let (x, y) = (BASE64.encode(&self.public()[1..33]), BASE64.encode(&self.public()[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": name, "alg": "ES256", "x": x, "y": y})
            }
            Self::Rsa(key) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "kid": name, "use": "sig", "n": BASE64.encode(n), "e": BASE64.encode(e)})
            }
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        signed(header, claims, |message| match self {
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).expect("it signs").as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let random: &dyn rand::SecureRandom = &SystemRandom::new();
                key.sign(&RSA_PKCS1_SHA256, random, message, &mut signature).expect("it signs");
                signature
            }
        })
    }
}

fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let signature = BASE64.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn claims() -> Value {
    json!({"sub": "alice", "device": "phone", "scope": "users/alice", "exp": now() + 600, "iss": "me", "aud": "everlog"})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
        value => claims[name] = value,
    }
    claims
}

const ALGORITHMS: [(JwtAlgorithm, &str); 3] =
    [(JwtAlgorithm::EdDSA, "EdDSA"), (JwtAlgorithm::ES256, "ES256"), (JwtAlgorithm::RS256, "RS256")];

/// A gate whose keys are those of a file.
async fn gate(file: &std::path::Path, keys: &[Value], algorithm: JwtAlgorithm) -> Arc<Jwt> {
    std::fs::write(file, json!({ "keys": keys }).to_string()).expect("there is room");
    let jwt = Jwt::open(Source::File(file.to_owned()), algorithm, Some("me"), Some("everlog")).await;
    Arc::new(jwt.expect("the keys are there"))
}

fn scratch() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::TempDir::new().expect("there is room");
    let file = dir.path().join("keys.json");
    (dir, file)
}

#[tokio::test]
async fn a_signed_token_stands_for_whom_it_says() {
    let (_dir, file) = scratch();
    for (algorithm, name) in ALGORITHMS {
        let signer = Signer::new(algorithm);
        let jwt = gate(&file, &[signer.jwk("one")], algorithm).await;
        for header in [json!({"alg": name, "kid": "one"}), json!({"alg": name, "typ": "JWT"})] {
            let caller = jwt.caller(&signer.sign(&header, &claims())).await.expect(name);
            assert_eq!((caller.actor.as_str(), caller.device.as_deref()), ("alice (phone)", Some("alice\0phone")));
            assert_eq!(caller.scope, Scope::Under("users/alice".into()));
        }
    }
}

#[tokio::test]
async fn a_token_is_for_this_server_and_this_moment() {
    let (_dir, file) = scratch();
    let signer = Signer::new(JwtAlgorithm::EdDSA);
    let jwt = gate(&file, &[signer.jwk("one")], JwtAlgorithm::EdDSA).await;
    let header = json!({"alg": "EdDSA", "kid": "one"});
    let refused = [
        ("exp", json!(now() - LEEWAY_S - 5)),
        ("exp", json!((now() + 600).to_string())),
        ("exp", Value::Null),
        ("nbf", json!(now() + LEEWAY_S + 60)),
        ("iss", json!("you")),
        ("iss", Value::Null),
        ("aud", json!("another")),
        ("aud", Value::Null),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("device", Value::Null),
        ("device", json!("")),
        ("device", json!("a\nb")),
        ("device", json!("x".repeat(NAME_BYTES_MAX + 1))),
        ("sub", json!("a\0b")),
        ("scope", Value::Null),
        ("scope", json!("")),
        ("scope", json!("users/alice/")),
        ("scope", json!("__everlog/tokens")),
        ("scope", json!(["users/alice"])),
    ];
    for (name, value) in refused {
        let token = signer.sign(&header, &with(claims(), name, value.clone()));
        assert!(jwt.caller(&token).await.is_none(), "{name}: {value}");
    }
    let taken = [("exp", json!(now() - 5)), ("nbf", json!(now() + 5)), ("aud", json!(["another", "everlog"]))];
    for (name, value) in taken {
        let token = signer.sign(&header, &with(claims(), name, value.clone()));
        assert!(jwt.caller(&token).await.is_some(), "{name}: {value}");
    }
}

#[tokio::test]
async fn no_token_chooses_how_it_is_checked() {
    let (_dir, file) = scratch();
    for (algorithm, name) in ALGORITHMS {
        let signer = Signer::new(algorithm);
        let jwk = signer.jwk("one");
        let jwt = gate(&file, std::slice::from_ref(&jwk), algorithm).await;
        let header = |alg: &str| json!({"alg": alg, "kid": "one"});
        let good = signer.sign(&header(name), &claims());
        assert!(jwt.caller(&good).await.is_some());
        // The public key taken for a secret: as bytes, and as every text that it is shown as.
        let mut secrets = vec![signer.public(), jwk.to_string().into_bytes(), BASE64.encode(signer.public()).into()];
        secrets.extend(["x", "n"].iter().filter_map(|part| Some(jwk[part].as_str()?.as_bytes().to_vec())));
        for secret in secrets {
            for alg in ["HS256", name] {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
                let token = signed(&header(alg), &claims(), |message| hmac::sign(&key, message).as_ref().to_vec());
                assert!(jwt.caller(&token).await.is_none(), "{name} as {alg}");
            }
        }
        for alg in ["none", "None", "HS256", "HS512", "EdDSA", "ES256", "ES384", "RS256", "RS512", "PS256", ""] {
            let unsigned = signed(&header(alg), &claims(), |_| Vec::new());
            assert!(jwt.caller(&unsigned).await.is_none(), "{name}: {alg} without a signature");
            if alg != name {
                let token = signer.sign(&header(alg), &claims());
                assert!(jwt.caller(&token).await.is_none(), "{name}: it says {alg}");
            }
        }
        for (other, _) in ALGORITHMS.iter().filter(|(other, _)| *other != algorithm) {
            let token = Signer::new(*other).sign(&header(name), &claims());
            assert!(jwt.caller(&token).await.is_none(), "{name} signed as {other:?}");
        }
        let (message, signature) = good.rsplit_once('.').expect("three parts");
        let other = claims_of_another(message);
        for bad in [
            message.to_owned(),
            format!("{message}."),
            format!("{other}.{signature}"),
            format!("{good}."),
            String::new(),
        ] {
            assert!(jwt.caller(&bad).await.is_none(), "{bad}");
        }
    }
}

/// The same header, and claims that were not signed.
fn claims_of_another(message: &str) -> String {
    let (header, _) = message.split_once('.').expect("two parts");
    format!("{header}.{}", BASE64.encode(with(claims(), "scope", json!("users/bob")).to_string()))
}

#[tokio::test]
async fn a_key_that_is_not_there_opens_nothing_until_the_file_is_read_again() {
    let (_dir, file) = scratch();
    let (old, new) = (Signer::new(JwtAlgorithm::EdDSA), Signer::new(JwtAlgorithm::EdDSA));
    let jwt = gate(&file, &[old.jwk("old")], JwtAlgorithm::EdDSA).await;
    let by = |signer: &Signer, kid: &str| signer.sign(&json!({"alg": "EdDSA", "kid": kid}), &claims());
    assert!(jwt.caller(&by(&new, "new")).await.is_none(), "an unknown key");
    assert!(jwt.caller(&by(&new, "old")).await.is_none(), "another key under a known name");
    std::fs::write(&file, "{").expect("it is ours");
    jwt.refresh().await;
    assert!(jwt.caller(&by(&old, "old")).await.is_some(), "what cannot be read changes nothing");
    std::fs::write(&file, json!({"keys": [new.jwk("new")]}).to_string()).expect("it is ours");
    jwt.refresh().await;
    assert!(jwt.caller(&by(&new, "new")).await.is_some());
    assert!(jwt.caller(&by(&old, "old")).await.is_none(), "it was taken away");
}

/// Answers each request with the next of the bodies, then no more.
fn issuer(bodies: Vec<String>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/keys", listener.local_addr().expect("it has one"));
    let served = std::thread::spawn(move || {
        for body in bodies {
            let (mut stream, _) = listener.accept().expect("it listens");
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).expect("a request");
            let len = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
            stream.write_all(format!("{head}{body}").as_bytes()).expect("it is read");
        }
    });
    (url, served)
}

#[tokio::test]
async fn keys_at_an_address_are_fetched_for_an_unknown_key_and_not_for_each() {
    let (old, new) = (Signer::new(JwtAlgorithm::EdDSA), Signer::new(JwtAlgorithm::EdDSA));
    let set = |signer: &Signer, name: &str| json!({"keys": [signer.jwk(name)]}).to_string();
    let (url, served) = issuer(vec![set(&old, "old"), set(&new, "new")]);
    let source = Source::parse(&url).expect("it is on this machine");
    let jwt = Arc::new(Jwt::open(source, JwtAlgorithm::EdDSA, None, None).await.expect("they are there"));
    let by = |signer: &Signer, kid: &str| signer.sign(&json!({"alg": "EdDSA", "kid": kid}), &claims());
    assert!(jwt.caller(&by(&old, "old")).await.is_some());
    assert!(jwt.caller(&by(&new, "new")).await.is_some(), "they were fetched for it");
    served.join().expect("both were asked for");
    // Nobody answers there any more, and nobody is asked within the minute.
    assert!(jwt.caller(&by(&old, "other")).await.is_none());
    assert!(jwt.caller(&by(&new, "new")).await.is_some(), "what is there stays");
    let gone = Source::parse(&url).expect("it is on this machine");
    let failure = Jwt::open(gone, JwtAlgorithm::EdDSA, None, None).await.expect_err("nobody answers");
    assert_eq!(failure.code(), 1, "{failure}");
}
