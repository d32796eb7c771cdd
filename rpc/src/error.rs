//! How a call fails: one code, one text, and whether the handler may have run.

use std::borrow::Cow;
use std::fmt;

/// The outcome of a call, with gRPC's numbers and names.
///
/// A variant exists because a caller acts on it differently; the numbers travel on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The caller gave the call up.
    Cancelled = 1,
    /// The arguments can never be accepted; asking again does not help.
    InvalidArgument = 3,
    /// No reply came before the call's deadline.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What should be created exists already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A bound was reached; ask again later, and less.
    ResourceExhausted = 8,
    /// The server has no such service or method.
    Unimplemented = 12,
    /// A defect on one of the two sides: a handler that panicked or forgot to answer, a broken
    /// reply.
    Internal = 13,
    /// The server cannot be reached, or the connection broke; ask again, here or elsewhere.
    Unavailable = 14,
    /// The caller did not say who it is.
    Unauthenticated = 16,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Code; 12] = [
        Code::Ok,
        Code::Cancelled,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::Unauthenticated,
    ];

    /// The code's number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The code with this number, or `None` for a number that we do not know.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Code> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// gRPC's name of the code.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call failed.
///
/// [`may_have_executed`](RpcError::may_have_executed) is what a retry needs to know: where it is
/// `false`, no handler has seen the call and none will, so it may be repeated even if it is not
/// idempotent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct RpcError {
    code: Code,
    text: Cow<'static, str>,
    may_have_executed: bool,
}

impl RpcError {
    /// An error that no handler has seen: [`may_have_executed`](RpcError::may_have_executed) is
    /// `false`. Once a handler has sent it as its answer, its caller reads `true`.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> RpcError {
        RpcError {
            code,
            text: text.into(),
            may_have_executed: false,
        }
    }

    /// The same error with another answer to [`may_have_executed`](RpcError::may_have_executed).
    #[must_use]
    pub fn with_may_have_executed(mut self, may_have_executed: bool) -> RpcError {
        self.may_have_executed = may_have_executed;
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened, for a reader: a lower-case clause with the values in it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a handler may have seen the call. `false`: certainly none did, and none will.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.may_have_executed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_grpcs() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(2), None);
        assert_eq!(Code::DeadlineExceeded.number(), 4);
        assert_eq!(Code::Unavailable.number(), 14);
        assert_eq!(Code::Unauthenticated.to_string(), "UNAUTHENTICATED");
    }

    #[test]
    fn an_error_reads_as_code_and_text() {
        let error = RpcError::new(Code::NotFound, "no key 7");
        assert_eq!(error.to_string(), "NOT_FOUND: no key 7");
        assert!(!error.may_have_executed());
        assert!(error.with_may_have_executed(true).may_have_executed());
    }
}
