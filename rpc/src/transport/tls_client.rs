//! [`TlsClient`]: whom a channel trusts, and who it says it is.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::tls_files::{Identity, TlsError, crypto, load_roots};
use super::tls_stream::TlsStream;
use super::watched::{CHECK_EVERY, Recipe, Watched};

/// TLS for a channel ([`ChannelOptions::tls`](crate::ChannelOptions::tls)), from PEM files.
///
/// The server must show a certificate for the name that is given here, from one of the roots in the
/// file; nobody else is trusted, the system's roots neither. Files that change are read again when
/// a channel connects, as [`TlsServer`](crate::TlsServer)'s are. Clones share all of that.
#[derive(Clone)]
pub struct TlsClient {
    watched: Arc<Watched<ClientFiles>>,
    server_name: ServerName<'static>,
}

impl TlsClient {
    /// Trusts the roots in a PEM file, and asks for a server of this name: a host name, or an IP
    /// address, that stands in the server's certificate (`subjectAltName`).
    ///
    /// # Errors
    /// [`TlsError`], when the file cannot be read or used, or the name is none.
    pub fn new(roots: impl Into<PathBuf>, server_name: &str) -> Result<TlsClient, TlsError> {
        let files = ClientFiles {
            roots: roots.into(),
            identity: None,
        };
        let name = ServerName::try_from(server_name.to_owned());
        let server_name = name.map_err(|_| TlsError::ServerName {
            name: server_name.to_owned(),
        })?;
        TlsClient::of(files, server_name, CHECK_EVERY)
    }

    /// Shows this certificate to servers that ask for one (mutual TLS). The files are as those of
    /// [`TlsServer::new`](crate::TlsServer::new).
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used, or the key is not the certificate's.
    pub fn with_identity(
        self,
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<TlsClient, TlsError> {
        let mut files = self.watched.recipe().clone();
        files.identity = Some(Identity {
            certificates: certificates.into(),
            key: key.into(),
        });
        TlsClient::of(files, self.server_name, self.watched.check_every())
    }

    /// Looks at the files' times at most this often, in place of once a second.
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used any more.
    pub fn with_check_every(self, pause: Duration) -> Result<TlsClient, TlsError> {
        TlsClient::of(self.watched.recipe().clone(), self.server_name, pause)
    }

    /// Reads the files now. Connections that exist go on as they are.
    ///
    /// # Errors
    /// [`TlsError`], when a file cannot be read or used. What was in use stays in use then.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.watched.reload()
    }

    /// The client's end of a new connection.
    pub(super) fn connect<S: Read + Write>(&self, socket: S) -> io::Result<TlsStream<S>> {
        let tls = ClientConnection::new(self.watched.current(), self.server_name.clone())
            .map_err(io::Error::other)?;
        Ok(TlsStream::connected(socket, tls))
    }

    fn of(
        files: ClientFiles,
        server_name: ServerName<'static>,
        check_every: Duration,
    ) -> Result<TlsClient, TlsError> {
        let watched = Arc::new(Watched::new(files, check_every)?);
        Ok(TlsClient {
            watched,
            server_name,
        })
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.watched.recipe();
        f.debug_struct("TlsClient")
            .field("server_name", &self.server_name)
            .field("roots", &files.roots)
            .field("identity", &files.identity)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct ClientFiles {
    roots: PathBuf,
    identity: Option<Identity>,
}

impl Recipe for ClientFiles {
    type Made = ClientConfig;

    fn files(&self) -> Vec<&Path> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|identity| [&*identity.certificates, &*identity.key]);
        std::iter::once(&*self.roots).chain(identity).collect()
    }

    fn make(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = load_roots(&self.roots)?;
        let builder = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Roots {
                path: self.roots.clone(),
                reason: error.to_string(),
            })?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.load()?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| identity.refused(&error))?
            }
        };
        Ok(Arc::new(config))
    }
}
