//! The head of a request (RFC 9112), read from bytes that anybody may have sent.

/// The longest head of a request that is looked at, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 8 << 10;

/// The longest name of a method in use has 17 letters.
const METHOD_BYTES_MAX: usize = 20;

/// What the bytes that have arrived amount to. More bytes never change a request or an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// The head is not whole yet.
    Incomplete,
    Request(Request<'a>),
    Error(HttpError),
}

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// `HEAD`: the same answer without its body.
    pub(crate) head_only: bool,
    /// As sent, printable ASCII, beginning with a slash.
    pub(crate) path: &'a str,
    /// What follows the question mark, as sent; empty without one.
    pub(crate) query: &'a str,
}

/// Why a request is not answered as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    #[error("only GET and HEAD are served")]
    Method,
    #[error("a request with a body is not served")]
    Body,
    #[error("the head of the request is over {HEAD_BYTES_MAX} bytes")]
    TooLarge,
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken")]
    Version,
}

impl HttpError {
    /// The status code of the answer.
    pub(crate) fn status(self) -> u16 {
        match self {
            HttpError::Malformed(_) => 400,
            HttpError::Method => 405,
            HttpError::Body => 413,
            HttpError::TooLarge => 431,
            HttpError::Version => 505,
        }
    }
}

/// Reads the head of a request off the front of `arrived`. What follows it is not looked at.
///
/// Lines end with CR LF, or with LF alone, as the RFC allows a reader to accept.
pub(crate) fn parse(arrived: &[u8]) -> Parsed<'_> {
    match parse_lines(&arrived[..arrived.len().min(HEAD_BYTES_MAX)]) {
        Ok(Some(request)) => Parsed::Request(request),
        Ok(None) if arrived.len() < HEAD_BYTES_MAX => Parsed::Incomplete,
        Ok(None) => Parsed::Error(HttpError::TooLarge),
        Err(error) => Parsed::Error(error),
    }
}

fn parse_lines(head: &[u8]) -> Result<Option<Request<'_>>, HttpError> {
    check_start(head)?;
    let mut rest = head;
    let Some(line) = next_line(&mut rest)? else {
        return Ok(None);
    };
    let request = parse_request_line(line)?;
    while let Some(line) = next_line(&mut rest)? {
        if line.is_empty() {
            return Ok(Some(request));
        }
        check_field(line)?;
    }
    Ok(None)
}

/// Refuses what is no HTTP at once, instead of waiting for the end of its first line.
fn check_start(head: &[u8]) -> Result<(), HttpError> {
    let start = &head[..head.len().min(METHOD_BYTES_MAX)];
    let method_len = start
        .iter()
        .position(|byte| !byte.is_ascii_uppercase() && *byte != b'-');
    match method_len {
        Some(len) if len > 0 && start[len] == b' ' => Ok(()),
        None if start.len() < METHOD_BYTES_MAX => Ok(()),
        _ => Err(HttpError::Malformed("it does not begin with a method")),
    }
}

/// Takes a line that has ended off the front of `rest`, without its end.
fn next_line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, HttpError> {
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.contains(&b'\r') || line.contains(&0) {
        return Err(HttpError::Malformed("a control character in a line"));
    }
    Ok(Some(line))
}

fn parse_request_line(line: &[u8]) -> Result<Request<'_>, HttpError> {
    let malformed = HttpError::Malformed("the request line is not: method, target, version");
    let printable = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let line = str::from_utf8(line).ok().filter(|_| printable);
    let mut words = line.ok_or(malformed)?.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed);
    };
    match version {
        "HTTP/1.0" | "HTTP/1.1" => {}
        other if other.starts_with("HTTP/") => return Err(HttpError::Version),
        _ => return Err(malformed),
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(HttpError::Method),
    };
    if !target.starts_with('/') {
        return Err(HttpError::Malformed("the target is not a path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request {
        head_only,
        path,
        query,
    })
}

/// Checks a header field. None of them changes our answer, but a body would follow some.
fn check_field(line: &[u8]) -> Result<(), HttpError> {
    let colon = line.iter().position(|&byte| byte == b':');
    let (name, value) =
        line.split_at(colon.ok_or(HttpError::Malformed("a field without a colon"))?);
    // Spaces around the name, and lines that continue others, are how requests are smuggled.
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(of_name) {
        return Err(HttpError::Malformed("a field without a proper name"));
    }
    let value = value[1..].trim_ascii();
    let no_body = value.iter().all(|&byte| byte == b'0') && !value.is_empty();
    if name.eq_ignore_ascii_case(b"transfer-encoding")
        || (name.eq_ignore_ascii_case(b"content-length") && !no_body)
    {
        return Err(HttpError::Body);
    }
    Ok(())
}

#[cfg(test)]
#[path = "request_test.rs"]
mod tests;
