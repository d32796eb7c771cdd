//! The status pages on the port of the calls: a connection that begins with `GET` or `HEAD` gets
//! one answer, and then ends.

use super::Connection;
use crate::http::{exchange, is_http, refusal};
use crate::reactor::Turn;
use crate::stats::Dialect;
use crate::wire::InputBuffer;

impl Connection {
    /// Whether the peer speaks HTTP, and may. The first bytes that arrive tell.
    pub(super) fn speaks_http(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.dialect == Dialect::Unknown
            && self.server.options.status_pages
            && is_http(self.input.unread()) == Some(true)
        {
            self.dialect = Dialect::Http;
            self.path.cells.set_dialect(Dialect::Http);
            self.timeouts.http_begun(self.arrived);
            self.visit = self.server.begin_visit();
            self.set_alarm(turn);
        }
        self.dialect == Dialect::Http
    }

    /// Answers once the request is there. What arrives after it is not looked at.
    pub(super) fn answer_http(&mut self) {
        let answer = match self.visit {
            _ if self.goodbye => Some(Vec::new()),
            Some(_) => exchange(self.input.unread(), &*self.server),
            None => Some(refusal()),
        };
        if let Some(answer) = answer {
            self.input = InputBuffer::default();
            self.output.push_segment(answer);
            self.goodbye = true;
            // A failure to write shows again when the socket is read.
            let _ = self.write(usize::MAX);
        }
    }
}
