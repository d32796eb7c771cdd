//! A certificate that lives as long as a measurement.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rpc::{TlsClient, TlsError, TlsServer};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// The name that it is for.
const NAME: &str = "localhost";

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// A server's certificate, signed by itself, and its key, in files. They go when it is dropped.
#[derive(Debug)]
pub struct Certificate {
    dir: TempDir,
    roots: RootCertStore,
}

impl Certificate {
    /// Makes one.
    ///
    /// # Errors
    /// The system's, when a file cannot be written.
    pub fn new() -> io::Result<Certificate> {
        let made = generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join(CERTIFICATE), made.cert.pem())?;
        fs::write(dir.path().join(KEY), made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        let added = roots.add(made.cert.der().clone());
        added.map_err(io::Error::other)?;
        Ok(Certificate { dir, roots })
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// TLS for a client of the server that has it and that uses rustls directly.
    ///
    /// # Errors
    /// rustls's.
    pub fn client_config(&self) -> io::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// The name that certificates here are for.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("it is a host name")
}

/// TLS for the server that has the certificate in `dir`.
///
/// # Errors
/// No certificate is there.
pub fn tls_server(dir: &Path) -> Result<TlsServer, TlsError> {
    TlsServer::new(dir.join(CERTIFICATE), dir.join(KEY))
}

/// TLS for clients of that server.
///
/// # Errors
/// As [`tls_server`].
pub fn tls_client(dir: &Path) -> Result<TlsClient, TlsError> {
    TlsClient::new(dir.join(CERTIFICATE), NAME)
}
