//! Plain tables: the first column to the left, figures to the right.

use std::fmt::{self, Display};

/// Rows of cells under a heading; printed with `{}`.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    #[must_use]
    pub fn new(heading: &[&str]) -> Table {
        Table {
            rows: vec![heading.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row below.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A figure with about three digits that count, thousands apart: `12 340`, `12.3`, `1.23`.
#[must_use]
pub fn figure(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 1000.0 => thousands(&format!("{value:.0}")),
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(digits: &str) -> String {
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            spaced.push(' ');
        }
        spaced.push(digit);
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["cell", "per s"]);
        table.row(["put/1".to_owned(), figure(1_234_567.0)]);
        table.row(["get/256".to_owned(), figure(1.234)]);
        let expected = "cell         per s\nput/1    1 234 567\nget/256       1.23\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn figures_keep_about_three_digits() {
        let told = [0.0, 0.123, 12.34, 123.4, 999.6, 1_000.0, 12_345.0].map(figure);
        assert_eq!(
            told,
            ["0.00", "0.12", "12.3", "123", "1000", "1 000", "12 345"]
        );
    }
}
