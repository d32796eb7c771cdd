//! [`TlsServer`]: a provider's certificate, and whom it lets in.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection};

use super::tls_files::{Identity, TlsError, crypto, load_roots};
use super::tls_stream::TlsStream;
use super::watched::{CHECK_EVERY, Recipe, Watched};

/// TLS for a provider ([`ProviderOptions::tls`](crate::ProviderOptions::tls)), from PEM files.
///
/// TLS 1.3 and 1.2, with the safe cipher suites of rustls. When a file changes, connections that
/// come later get what it says now, without a restart: at most once a second, when somebody
/// connects, the files' times of modification are looked at. Files that cannot be used are logged
/// as an error and the old ones stay in use. Clones share all of that.
#[derive(Clone)]
pub struct TlsServer {
    watched: Arc<Watched<ServerFiles>>,
}

impl TlsServer {
    /// Takes the certificate chain (the server's own certificate first, then those between it and
    /// the root) and the private key from PEM files.
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used, or the key is not the certificate's.
    pub fn new(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<TlsServer, TlsError> {
        let identity = Identity {
            certificates: certificates.into(),
            key: key.into(),
        };
        let files = ServerFiles {
            identity,
            client_roots: None,
        };
        TlsServer::of(files, CHECK_EVERY)
    }

    /// Lets in only clients that have a certificate from one of the roots in this PEM file (mutual
    /// TLS).
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used.
    pub fn with_client_roots(self, roots: impl Into<PathBuf>) -> Result<TlsServer, TlsError> {
        let mut files = self.watched.recipe().clone();
        files.client_roots = Some(roots.into());
        TlsServer::of(files, self.watched.check_every())
    }

    /// Looks at the files' times at most this often, in place of once a second.
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used any more.
    pub fn with_check_every(self, pause: Duration) -> Result<TlsServer, TlsError> {
        TlsServer::of(self.watched.recipe().clone(), pause)
    }

    /// Reads the files now. Connections that exist go on as they are.
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used. What was in use stays in use then.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.watched.reload()
    }

    /// The server's end of a new connection.
    pub(super) fn accept<S: Read + Write>(&self, socket: S) -> io::Result<TlsStream<S>> {
        let tls = ServerConnection::new(self.watched.current()).map_err(io::Error::other)?;
        Ok(TlsStream::accepted(socket, tls))
    }

    fn of(files: ServerFiles, check_every: Duration) -> Result<TlsServer, TlsError> {
        let watched = Arc::new(Watched::new(files, check_every)?);
        Ok(TlsServer { watched })
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.watched.recipe();
        f.debug_struct("TlsServer")
            .field("certificates", &files.identity.certificates)
            .field("key", &files.identity.key)
            .field("client_roots", &files.client_roots)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct ServerFiles {
    identity: Identity,
    client_roots: Option<PathBuf>,
}

impl Recipe for ServerFiles {
    type Made = ServerConfig;

    fn files(&self) -> Vec<&Path> {
        let identity = [&*self.identity.certificates, &*self.identity.key];
        identity
            .into_iter()
            .chain(self.client_roots.as_deref())
            .collect()
    }

    /// Sessions that an earlier config let in cannot be resumed at this one.
    fn make(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let (chain, key) = self.identity.load()?;
        let builder = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.identity.refused(&error))?;
        let builder = match &self.client_roots {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(load_roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, crypto())
                    .build()
                    .map_err(|error| TlsError::Roots {
                        path: path.clone(),
                        reason: error.to_string(),
                    })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|error| self.identity.refused(&error))?;
        Ok(Arc::new(config))
    }
}
