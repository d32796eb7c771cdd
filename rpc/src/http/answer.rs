//! [`Answer`]: a status, a type, a body; then the connection ends.

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(super) fn html(body: String) -> Answer {
        Answer {
            status: 200,
            content_type: "text/html; charset=utf-8",
            body,
        }
    }

    /// In the text format of Prometheus.
    pub(super) fn metrics(body: String) -> Answer {
        Answer {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body,
        }
    }

    pub(super) fn text(status: u16, line: &str) -> Answer {
        Answer {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{line}\n"),
        }
    }

    /// Why there is nothing else.
    pub(super) fn error(status: u16, reason: &str) -> Answer {
        Answer::text(status, &format!("{status} {}: {reason}", phrase(status)))
    }

    /// The bytes of the answer; without the body, but with its length, if only the head was asked
    /// for.
    pub(crate) fn encode(&self, head_only: bool) -> Vec<u8> {
        let (status, content_type, length) = (self.status, self.content_type, self.body.len());
        let allow = if status == 405 {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let mut out = format!(
            "HTTP/1.1 {status} {}\r\n\
             Content-Type: {content_type}\r\n\
             Content-Length: {length}\r\n\
             Connection: close\r\n\
             Cache-Control: no-store\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\
             X-Content-Type-Options: nosniff\r\n\
             {allow}\r\n",
            phrase(status),
        )
        .into_bytes();
        if !head_only {
            out.extend_from_slice(self.body.as_bytes());
        }
        out
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_its_length_and_that_the_connection_ends() {
        let answer = Answer::error(405, "no");
        let text = String::from_utf8(answer.encode(false)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "405 Method Not Allowed: no\n");
        let lines: Vec<_> = head.split("\r\n").collect();
        assert_eq!(lines[0], "HTTP/1.1 405 Method Not Allowed");
        for line in [
            "Content-Length: 27",
            "Connection: close",
            "Allow: GET, HEAD",
        ] {
            assert!(lines.contains(&line), "{line} in {lines:?}");
        }
        let head_only = String::from_utf8(answer.encode(true)).unwrap();
        assert_eq!(head_only, format!("{head}\r\n\r\n"));
    }
}
