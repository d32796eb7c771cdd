//! What `rpc` is required to reach beside the others, and whether it does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::round::Figures;
use crate::side::Side;
use crate::table::Table;

/// One requirement: a figure of `rpc` in a cell, divided by the same of another side.
#[derive(Clone, Debug)]
struct Requirement {
    cell: String,
    figure: Figure,
    beside: Side,
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Figure {
    /// In a cell the payloads of all sides are alike, so this is bytes/s as well.
    RequestsPerS,
    P50,
    ServerCpu,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

fn requirements() -> Vec<Requirement> {
    use Bound::{AtLeast, AtMost};
    use Figure::{P50, RequestsPerS, ServerCpu};
    use Side::{Bare, Tarpc, Tonic};

    let mut all = Vec::new();
    let mut require = |cell: String, figure, beside, bound| {
        all.push(Requirement {
            cell,
            figure,
            beside,
            bound,
        });
    };
    for size in ["16B", "1KiB"] {
        for in_flight in [64, 1024] {
            let cell = format!("{size}/callback/{in_flight}");
            require(cell.clone(), RequestsPerS, Tonic, AtLeast(12.0));
            require(cell, RequestsPerS, Tarpc, AtLeast(3.0));
        }
        require(format!("{size}/callback/64"), ServerCpu, Bare, AtMost(3.0));
        require(
            format!("{size}/blocking/1"),
            RequestsPerS,
            Tonic,
            AtLeast(2.0),
        );
        require(format!("{size}/blocking/1"), P50, Bare, AtMost(1.5));
        require(
            format!("{size}/threads/64"),
            RequestsPerS,
            Tonic,
            AtLeast(1.5),
        );
        require(
            format!("{size}/connections/64"),
            ServerCpu,
            Bare,
            AtMost(1.2),
        );
    }
    for shape in [
        "callback/1",
        "callback/64",
        "callback/1024",
        "connections/64",
        "blocking/1",
    ] {
        let cell = format!("64KiB/{shape}");
        require(cell.clone(), RequestsPerS, Bare, AtLeast(1.0 / 1.2));
        require(cell, RequestsPerS, Tonic, AtLeast(1.5));
    }
    // Not beside the bare echo, which has no callers that it would have to wake.
    let cell = "64KiB/threads/64".to_owned();
    require(cell, RequestsPerS, Tonic, AtLeast(1.5));
    all
}

/// A requirement and what was measured.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Verdict {
    pub cell: String,
    pub figure: &'static str,
    pub beside: Side,
    pub required: String,
    /// `rpc` / the other side.
    pub measured: f64,
    pub met: bool,
}

/// The requirements of those cells that were measured on the sides in question.
#[must_use]
pub fn verdicts(measured: &BTreeMap<&str, &BTreeMap<Side, Figures>>) -> Vec<Verdict> {
    let verdict = |required: Requirement| {
        let sides = measured.get(required.cell.as_str())?;
        let ratios = sides.get(&Side::Rpc)?.over(sides.get(&required.beside)?);
        let (figure, ratio) = match required.figure {
            Figure::RequestsPerS => ("requests/s", ratios.requests_per_s),
            Figure::P50 => ("p50", ratios.p50),
            Figure::ServerCpu => ("server CPU", ratios.server_cpu),
        };
        let (bound, met) = match required.bound {
            Bound::AtLeast(bound) => (format!(">= {bound:.2}x"), ratio >= bound),
            Bound::AtMost(bound) => (format!("<= {bound:.2}x"), ratio <= bound),
        };
        Some(Verdict {
            cell: required.cell,
            figure,
            beside: required.beside,
            required: bound,
            measured: ratio,
            met,
        })
    };
    requirements().into_iter().filter_map(verdict).collect()
}

/// A line for each verdict.
#[must_use]
pub fn table(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new(&[
        "required of rpc",
        "figure",
        "beside",
        "bound",
        "measured",
        "",
    ]);
    for verdict in verdicts {
        table.row([
            verdict.cell.clone(),
            verdict.figure.to_owned(),
            verdict.beside.name().to_owned(),
            verdict.required.clone(),
            format!("{:.2}x", verdict.measured),
            if verdict.met { "met" } else { "NOT MET" }.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::all_cells;
    use crate::latency::Latency;

    fn figures(requests_per_s: f64, p50_us: f64, server_cpu_us: f64) -> Figures {
        Figures {
            requests_per_s,
            latency: Latency {
                p50_us,
                ..Latency::default()
            },
            server_cpu_us,
            client_cpu_us: 1.0,
            rounds_requests_per_s: Vec::new(),
        }
    }

    #[test]
    fn every_requirement_names_a_cell() {
        let cells = all_cells();
        for required in requirements() {
            let known = cells.iter().any(|cell| cell.name == required.cell);
            assert!(known, "{required:?}");
        }
    }

    #[test]
    fn a_bound_is_met_from_its_own_side_only() {
        let sides = BTreeMap::from([
            (Side::Rpc, figures(200.0, 30.0, 1.0)),
            (Side::Tonic, figures(100.0, 50.0, 9.0)),
            (Side::Bare, figures(300.0, 15.0, 0.5)),
        ]);
        let verdicts = verdicts(&BTreeMap::from([("16B/blocking/1", &sides)]));
        let told: Vec<_> = verdicts
            .iter()
            .map(|verdict| (verdict.figure, verdict.beside, verdict.met))
            .collect();
        assert_eq!(
            told,
            [
                ("requests/s", Side::Tonic, true),
                ("p50", Side::Bare, false)
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let sides = BTreeMap::from([(Side::Rpc, figures(1.0, 1.0, 1.0))]);
        assert!(verdicts(&BTreeMap::from([("16B/callback/64", &sides)])).is_empty());
    }
}
