//! Where an issuer's keys come from: a file, or an address.
//!
//! Invariant: what is fetched is bounded in bytes and in time, over TLS unless it does not leave the machine, and from the
//! very address that was given.

use crate::failure::Failure;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A larger set is none.
const BYTES_MAX: usize = 1 << 20;
/// How long a fetch may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// At an address.
    Url(String),
}

impl Source {
    /// What the setting `jwks` names.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')))
        {
            return Err("it holds a password, which would stand in the log".to_owned());
        }
        if text.starts_with("https://") {
            return Ok(Self::Url(text.to_owned()));
        }
        if !text.contains("://") {
            return if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(Self::File(text.into())) };
        }
        let host = text.strip_prefix("http://").map(host);
        match host {
            Some(host) if is_loopback(host) => Ok(Self::Url(text.to_owned())),
            Some(_) => Err("keys come over https, but for those of this machine".to_owned()),
            None => Err("it is neither a file nor an address that begins with https://".to_owned()),
        }
    }

    /// The set as it is now.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn fetch(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
            }
            Self::Url(url) => tokio::time::timeout(PATIENCE, get(url))
                .await
                .map_err(|_| format!("it did not come within {} s", PATIENCE.as_secs()))?,
        }
    }

    /// Why the server does not start without the keys.
    pub fn missing(&self, why: &str) -> Failure {
        let (place, code) = match self {
            Self::File(path) => (path.display().to_string(), 2),
            Self::Url(url) => (url.clone(), 1),
        };
        let remedy = "have it hold the issuer's keys as a JSON Web Key Set, and see to jwt_algorithm";
        Failure::new(code, format!("the keys in {place} cannot be had: {why}"), remedy)
    }
}

async fn get(url: &str) -> Result<Vec<u8>, String> {
    // The cold stores' clients may have chosen it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
    if url.starts_with("http://") {
        builder = builder.no_proxy();
    }
    let client = builder.build().map_err(|e| e.to_string())?;
    let mut answer = client.get(url).send().await.map_err(|e| told(&e))?;
    if !answer.status().is_success() {
        return Err(format!("it is answered with status {}", answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| told(&e))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > BYTES_MAX {
            return Err(format!("it has more than {BYTES_MAX} bytes"));
        }
    }
    Ok(bytes)
}

/// An error with what caused it.
fn told(error: &reqwest::Error) -> String {
    let mut told = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        told = format!("{told}: {error}");
        source = error.source();
    }
    told
}

/// The host of what stands behind the scheme.
fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
        Some(_) => "",
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_come_over_a_network_in_clear() {
        for good in ["https://id.example/jwks", "http://127.0.0.1:8080/jwks", "http://localhost/x", "http://[::1]:1/x"]
        {
            assert!(matches!(Source::parse(good), Ok(Source::Url(_))), "{good}");
        }
        assert!(matches!(Source::parse("/etc/everlog/jwks.json"), Ok(Source::File(_))));
        for bad in [
            "",
            "http://id.example/jwks",
            "http://127.0.0.1@id.example/jwks",
            "http://127.0.0.1.id.example",
            "http://localhost.id.example/",
            "http://[::1]id.example/",
            "http:///x",
            "ftp://127.0.0.1/x",
        ] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }
}
