//! PEM files: certificates, keys, roots; and what can be wrong with them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest file that is read. A root store of the whole web has 200 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why TLS cannot be set up with what was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is no PEM file, or lacks what it should hold.
    #[error("{} is not usable: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what belongs into it.
        reason: String,
    },
    /// A certificate chain or its key cannot be used, or they do not belong together.
    #[error("the certificate of {} and the key of {} cannot be used: {reason}",
        certificates.display(), key.display())]
    Identity {
        /// The file of the certificates.
        certificates: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// Certificates that should be trusted cannot be used as roots.
    #[error("the certificates of {} cannot be used as roots: {reason}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// The name that the server should have is none.
    #[error("the server's name \"{name}\" is neither a host name nor an IP address")]
    ServerName {
        /// The name.
        name: String,
    },
}

/// A certificate chain, the peer's own certificate first, and its private key.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) certificates: PathBuf,
    pub(super) key: PathBuf,
}

impl Identity {
    pub(super) fn load(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        Ok((load_certificates(&self.certificates)?, load_key(&self.key)?))
    }

    /// The error for a chain and a key that rustls does not take.
    pub(super) fn refused(&self, error: &rustls::Error) -> TlsError {
        let reason = match error {
            rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate; the \
                server's own certificate must be the first of its file"
                .to_owned(),
            error => error.to_string(),
        };
        TlsError::Identity {
            certificates: self.certificates.clone(),
            key: self.key.clone(),
            reason,
        }
    }
}

/// Certificates that are trusted to sign others.
pub(super) fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Roots {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// The cryptography: ring's, whatever else the process may have chosen for itself.
pub(super) fn crypto() -> Arc<CryptoProvider> {
    static CRYPTO: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&CRYPTO)
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            let reason = "no certificate in it (-----BEGIN CERTIFICATE-----)";
            Err(not_usable(path, reason.to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(not_pem(path, &error)),
    }
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let reason = "no private key in it (-----BEGIN PRIVATE KEY-----, or RSA or EC PRIVATE \
                KEY); an encrypted one has to be decrypted first (openssl pkey)";
            Err(not_usable(path, reason.to_owned()))
        }
        Err(error) => Err(not_pem(path, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(len) if len as u64 > FILE_BYTES_MAX => Err(not_usable(
            path,
            format!("more than {FILE_BYTES_MAX} bytes"),
        )),
        Ok(_) => Ok(bytes),
        Err(source) => Err(TlsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn not_pem(path: &Path, error: &pem::Error) -> TlsError {
    not_usable(path, format!("broken PEM: {error}"))
}

fn not_usable(path: &Path, reason: String) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        reason,
    }
}
