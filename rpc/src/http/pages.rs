//! The pages: which there are, and what they show.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::answer::Answer;
use super::escape::Html;
use super::metrics::metrics;
use super::request::Request;
use crate::stats::{ConnectionInfo, MethodStats, ServerStats};

/// Connections that a page lists; of further ones it tells the number. A page is made on an event
/// loop's thread, where nothing may take long.
const CONNECTIONS_SHOWN_MAX: usize = 1_000;

/// What the pages show.
pub(crate) trait Observed {
    /// What was counted.
    fn stats(&self) -> ServerStats;

    /// At most `max` of the open connections, the oldest first.
    fn connections(&self, max: usize) -> Vec<ConnectionInfo>;

    /// Whether a service should be sent calls (empty name: the server), with the status's name.
    fn health(&self, service: &str) -> (bool, &'static str);
}

/// Answers a request.
pub(crate) fn answer(request: &Request<'_>, observed: &dyn Observed) -> Answer {
    match request.path {
        "/" => Answer::html(index(&observed.stats())),
        "/connections" => {
            let connections = observed.connections(CONNECTIONS_SHOWN_MAX);
            Answer::html(connections_page(
                &connections,
                observed.stats().connections_open,
            ))
        }
        "/services" => Answer::html(services(&observed.stats())),
        "/metrics" => Answer::metrics(metrics(&observed.stats())),
        "/health" => {
            let service = request.query.strip_prefix("service=").unwrap_or("");
            let (serving, name) = observed.health(service);
            Answer::text(if serving { 200 } else { 503 }, name)
        }
        _ => Answer::error(
            404,
            "there are /, /connections, /services, /metrics and /health",
        ),
    }
}

fn index(stats: &ServerStats) -> String {
    let mut page = Page::new("rpc server");
    let phase = if stats.draining {
        "draining"
    } else {
        "serving"
    };
    page.table(&["", ""]);
    page.row(&[&"state", &phase]);
    page.row(&[&"uptime", &Span(stats.uptime)]);
    page.row(&[&"connections open", &stats.connections_open]);
    page.row(&[&"connections accepted", &stats.connections_accepted]);
    page.row(&[&"connections refused", &stats.connections_refused]);
    page.row(&[&"bytes in", &stats.bytes_in]);
    page.row(&[&"bytes out", &stats.bytes_out]);
    page.row(&[
        &"calls in flight",
        &methods(stats).map(|method| method.in_flight).sum::<u64>(),
    ]);
    page.row(&[
        &"calls ended",
        &methods(stats).map(MethodStats::count).sum::<u64>(),
    ]);
    page.row(&[
        &"calls a second",
        &format!(
            "{:.1}",
            methods(stats).map(|method| method.rate).sum::<f64>()
        ),
    ]);
    page.row(&[&"calls of unknown methods", &stats.calls_unknown]);
    page.row(&[&"streams open", &stats.streams_open()]);
    page.row(&[&"stream items sent", &stats.stream_items]);
    page.end()
}

fn methods(stats: &ServerStats) -> impl Iterator<Item = &MethodStats> {
    stats.services.iter().flat_map(|service| &service.methods)
}

fn connections_page(connections: &[ConnectionInfo], open: u64) -> String {
    let mut page = Page::new("connections");
    page.table(&[
        "peer",
        "dialect",
        "in flight",
        "unsent bytes",
        "age",
        "idle",
        "bytes in",
        "bytes out",
    ]);
    for connection in connections {
        page.row(&[
            &connection.peer,
            &connection.dialect.name(),
            &connection.in_flight,
            &connection.unsent_bytes,
            &Span(connection.age),
            &Span(connection.idle),
            &connection.bytes_in,
            &connection.bytes_out,
        ]);
    }
    let more = open.saturating_sub(connections.len() as u64);
    if more > 0 {
        page.note(&format!("and {more} more"));
    }
    page.end()
}

fn services(stats: &ServerStats) -> String {
    let mut page = Page::new("services");
    page.table(&[
        "service",
        "method",
        "count",
        "errors",
        "in flight",
        "per second",
        "p50",
        "p99",
        "p99.9",
    ]);
    for service in &stats.services {
        for method in &service.methods {
            let quantile = |share| {
                method
                    .latency
                    .quantile(share)
                    .map_or_else(String::new, |time| Span(time).to_string())
            };
            let name = if method.streaming {
                format!("{} (stream)", method.name)
            } else {
                method.name.to_owned()
            };
            page.row(&[
                &service.name,
                &name,
                &method.count(),
                &method.errors(),
                &method.in_flight,
                &format!("{:.1}", method.rate),
                &quantile(0.5),
                &quantile(0.99),
                &quantile(0.999),
            ]);
        }
    }
    if !stats.worker_queues.is_empty() {
        page.table(&["workers of", "threads", "calls waiting", "at most"]);
        for queue in &stats.worker_queues {
            page.row(&[
                &queue.service,
                &queue.threads,
                &queue.waiting,
                &queue.capacity,
            ]);
        }
    }
    page.note("Latency is from the arrival of a request to when its reply is ready, within 3.2 %; the rate is over the last five seconds.");
    page.end()
}

/// A time span for people: three digits and a unit.
struct Span(Duration);

impl Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            86_400.. => write!(f, "{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
            3_600.. => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
            60.. => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{:.3?}", self.0),
        }
    }
}

/// HTML with nothing from elsewhere: no script, no picture, no font.
struct Page {
    text: String,
    in_table: bool,
}

impl Page {
    fn new(title: &str) -> Page {
        let text = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
             <style>body{{font-family:sans-serif;margin:2em}}table{{border-collapse:collapse;margin:1em 0}}\
             td,th{{border:1px solid #bbb;padding:.2em .6em;text-align:right}}\
             td:first-child,th:first-child{{text-align:left}}</style></head>\n\
             <body><p><a href=\"/\">server</a> <a href=\"/services\">services</a> \
             <a href=\"/connections\">connections</a> <a href=\"/metrics\">metrics</a> \
             <a href=\"/health\">health</a></p>\n<h1>{title}</h1>\n"
        );
        Page {
            text,
            in_table: false,
        }
    }

    fn table(&mut self, heads: &[&str]) {
        self.end_table();
        self.text.push_str("<table>\n");
        self.in_table = true;
        if heads.iter().any(|head| !head.is_empty()) {
            self.text.push_str("<tr>");
            for head in heads {
                self.add(format_args!("<th>{head}</th>"));
            }
            self.text.push_str("</tr>\n");
        }
    }

    /// A row of a table; what is in it is escaped here.
    fn row(&mut self, cells: &[&dyn Display]) {
        self.text.push_str("<tr>");
        for cell in cells {
            self.add(format_args!("<td>{}</td>", Html(cell)));
        }
        self.text.push_str("</tr>\n");
    }

    fn note(&mut self, text: &str) {
        self.end_table();
        self.add(format_args!("<p>{}</p>\n", Html(text)));
    }

    fn end_table(&mut self) {
        if std::mem::take(&mut self.in_table) {
            self.text.push_str("</table>\n");
        }
    }

    fn end(mut self) -> String {
        self.end_table();
        self.text.push_str("</body></html>\n");
        self.text
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes any text");
    }
}

#[cfg(test)]
#[path = "pages_test.rs"]
mod tests;
