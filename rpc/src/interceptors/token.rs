//! [`TokenAuth`] and [`TokenCredentials`]: a shared secret, for those who want no certificates.
//!
//! The token travels as the metadata `authorization: Bearer TOKEN`, readable for whoever can read
//! the connection: use TLS where that matters.

use std::fmt;

use bytes::Bytes;
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::error::{Code, RpcError};
use crate::interceptor::{ClientInterceptor, OutgoingCall, ServerInterceptor};
use crate::service::RpcContext;

/// The metadata that a token travels in.
const AUTHORIZATION: &str = "authorization";

const SCHEME: &[u8] = b"Bearer ";

/// Shorter tokens can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Longer tokens are a mistake, and would have to be compared.
const TOKEN_BYTES_MAX: usize = 1024;

/// Why a token cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is too short or too long.
    #[error("a token of {len} bytes; it takes {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX}")]
    Length {
        /// Its length in bytes.
        len: usize,
    },
}

fn checked(token: impl Into<Vec<u8>>) -> Result<Vec<u8>, TokenError> {
    let token = token.into();
    let len = token.len();
    if (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&len) {
        Ok(token)
    } else {
        Err(TokenError::Length { len })
    }
}

/// Lets calls pass that bring one of its tokens, and tells the handler whose it was.
///
/// Others are refused with `UNAUTHENTICATED`, without a word about what was wrong. Tokens are
/// compared in a time that depends on their lengths and number, not on what is in them. Later
/// interceptors and the handler do not see the token; under [`CALLER`](TokenAuth::CALLER) they find
/// the name that belongs to it.
///
/// Legacy callers cannot bring one, and are refused unless
/// [`admit_legacy`](TokenAuth::admit_legacy) says otherwise.
pub struct TokenAuth {
    tokens: RwLock<Vec<Named>>,
    exempt: Vec<String>,
    admits_legacy: bool,
}

struct Named {
    name: String,
    token: Vec<u8>,
}

impl TokenAuth {
    /// The metadata under which a handler finds the name of its caller. Empty if the call needed
    /// no token; never what the peer itself said.
    pub const CALLER: &'static str = "authenticated-as";

    /// Knows these callers, each by name and token. Several tokens may have the same name, so that
    /// one can follow the other.
    ///
    /// # Errors
    /// [`TokenError`]: a token takes 16 to 1024 bytes.
    pub fn new<N: Into<String>, T: Into<Vec<u8>>>(
        tokens: impl IntoIterator<Item = (N, T)>,
    ) -> Result<TokenAuth, TokenError> {
        Ok(TokenAuth {
            tokens: RwLock::new(named(tokens)?),
            exempt: Vec::new(),
            admits_legacy: false,
        })
    }

    /// Asks for no token at a service, named as on the wire.
    #[must_use]
    pub fn exempt_service(mut self, service: impl Into<String>) -> TokenAuth {
        self.exempt.push(service.into());
        self
    }

    /// Lets legacy callers pass, who cannot bring a token.
    #[must_use]
    pub fn admit_legacy(mut self) -> TokenAuth {
        self.admits_legacy = true;
        self
    }

    /// From now on knows these callers and no others. Calls that have passed go on. Any thread.
    ///
    /// # Errors
    /// [`TokenError`]; then the old tokens stay.
    pub fn replace<N: Into<String>, T: Into<Vec<u8>>>(
        &self,
        tokens: impl IntoIterator<Item = (N, T)>,
    ) -> Result<(), TokenError> {
        let tokens = named(tokens)?;
        *self.tokens.write() = tokens;
        Ok(())
    }

    /// The name that belongs to what a caller brought.
    fn caller(&self, authorization: &[u8]) -> Option<String> {
        let brought = authorization.strip_prefix(SCHEME)?;
        let tokens = self.tokens.read();
        // All are compared, whichever it is.
        tokens.iter().fold(None, |found, known| {
            let same = bool::from(known.token.ct_eq(brought));
            if same {
                Some(known.name.clone())
            } else {
                found
            }
        })
    }
}

fn named<N: Into<String>, T: Into<Vec<u8>>>(
    tokens: impl IntoIterator<Item = (N, T)>,
) -> Result<Vec<Named>, TokenError> {
    let named = |(name, token): (N, T)| {
        let (name, token) = (name.into(), checked(token)?);
        Ok(Named { name, token })
    };
    tokens.into_iter().map(named).collect()
}

impl ServerInterceptor for TokenAuth {
    fn before(&self, context: &mut RpcContext) -> Result<(), RpcError> {
        let exempt = self.exempt.iter().any(|it| it == context.service());
        let caller = if exempt || (self.admits_legacy && context.is_legacy()) {
            String::new()
        } else {
            let authorization = context.metadata().get(AUTHORIZATION).unwrap_or_default();
            self.caller(authorization).ok_or_else(|| {
                let text = "the call brings no token that is known here (metadata authorization)";
                RpcError::new(Code::Unauthenticated, text)
            })?
        };
        context.set_metadata(AUTHORIZATION, "");
        context.set_metadata(TokenAuth::CALLER, caller);
        Ok(())
    }
}

impl fmt::Debug for TokenAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.tokens.read();
        let names: Vec<_> = tokens.iter().map(|known| &known.name).collect();
        f.debug_struct("TokenAuth")
            .field("callers", &names)
            .field("exempt", &self.exempt)
            .field("admits_legacy", &self.admits_legacy)
            .finish()
    }
}

/// Adds a token to each call of a channel.
pub struct TokenCredentials {
    authorization: RwLock<Bytes>,
}

impl TokenCredentials {
    /// Adds `token`.
    ///
    /// # Errors
    /// [`TokenError`]: a token takes 16 to 1024 bytes.
    pub fn new(token: impl Into<Vec<u8>>) -> Result<TokenCredentials, TokenError> {
        Ok(TokenCredentials {
            authorization: RwLock::new(authorization(token)?),
        })
    }

    /// Adds another token from now on. Any thread.
    ///
    /// # Errors
    /// [`TokenError`]; then the old token stays.
    pub fn replace(&self, token: impl Into<Vec<u8>>) -> Result<(), TokenError> {
        let new = authorization(token)?;
        *self.authorization.write() = new;
        Ok(())
    }
}

fn authorization(token: impl Into<Vec<u8>>) -> Result<Bytes, TokenError> {
    Ok([SCHEME, &checked(token)?].concat().into())
}

impl ClientInterceptor for TokenCredentials {
    fn before(&self, call: &mut OutgoingCall<'_>) -> Result<(), RpcError> {
        let authorization = self.authorization.read().clone();
        call.metadata.insert(AUTHORIZATION, authorization);
        Ok(())
    }
}

impl fmt::Debug for TokenCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCredentials").finish_non_exhaustive()
    }
}
