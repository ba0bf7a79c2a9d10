//! TLS: the certificate and its key, and their exchange while the server runs.
//!
//! Invariant: a file that cannot be used never takes the place of one that can: at the start it is refused, later the
//! certificate in use stays and the log says why. Connections that are open keep the one they began with.

use crate::failure::Failure;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// HTTP/2, as ALPN names it.
pub const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The two that belong together.
#[derive(Clone)]
struct InUse {
    /// For connections that are served.
    serving: Arc<ServerConfig>,
    /// For those that are turned away, which is done in HTTP/1.1.
    refusing: Arc<ServerConfig>,
}

/// A certificate and its key, from two files.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    in_use: RwLock<InUse>,
}

impl Tls {
    /// Reads both files, in PEM: the certificate first, then those that lead from it to an authority.
    ///
    /// # Errors
    /// Exit code 2 if they cannot be used.
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Self, Failure> {
        let in_use = read(&cert, &key).map_err(|cause| Failure::new(2, cause, REMEDY))?;
        Ok(Self { cert, key, in_use: RwLock::new(in_use) })
    }

    /// Reads the files again, for connections that come from now on.
    pub fn reload(&self) {
        match read(&self.cert, &self.key) {
            Ok(read) => {
                *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = read;
                tracing::info!(cert = %self.cert.display(), "the certificate was read again and is in use");
            }
            Err(cause) => tracing::error!("the certificate in use stays: {cause}; {REMEDY}, and send SIGHUP again"),
        }
    }

    /// What a connection that is served begins with.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner).serving))
    }

    /// What a connection that is turned away begins with.
    #[must_use]
    pub fn refusing(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner).refusing))
    }
}

const REMEDY: &str = "give tls_cert a certificate with its chain and tls_key the key of that certificate, both in PEM and \
                      readable for everlogd";

/// The configuration that the files make, or why they make none.
fn read(cert: &PathBuf, key: &PathBuf) -> Result<InUse, String> {
    let unreadable = |path: &PathBuf, e: rustls::pki_types::pem::Error| {
        format!("the file {} cannot be read as PEM: {e}", path.display())
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|e| unreadable(cert, e))?;
    if chain.is_empty() {
        return Err(format!("the file {} holds no certificate", cert.display()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be had: {e}"))?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|e| format!("the files {} and {} do not go together: {e}", cert.display(), key.display()))?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    let refusing = Arc::new(config.clone());
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok(InUse { serving: Arc::new(config), refusing })
}
