//! A certificate that lives as long as a measurement.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::generate_simple_self_signed;
use rpc::{TlsClient, TlsError, TlsServer};
use tempfile::TempDir;

/// The name that it is for.
const NAME: &str = "localhost";

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// A server's certificate, signed by itself, and its key, in files. They go when it is dropped.
#[derive(Debug)]
pub struct Certificate {
    dir: TempDir,
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
        Ok(Certificate { dir })
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// TLS for the server that has the certificate in `dir`.
///
/// # Errors
/// There is none.
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
