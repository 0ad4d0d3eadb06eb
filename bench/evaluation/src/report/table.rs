//! Tables in Markdown.

use defuse_bench::statistics::Spread;

/// Rows of cells.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column heads.
    pub fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// One more.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As text; nothing if there are no rows.
    pub fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("\n{}{rule}{rows}\n", line(&self.head))
    }
}

/// Percent, with the quartiles.
pub fn percent(value: Option<Spread>) -> String {
    value.map_or_else(nothing, |Spread { low, median, high }| {
        format!("{:.0} ({:.0}-{:.0})", median * 100.0, low * 100.0, high * 100.0)
    })
}

/// Times something, with the quartiles.
pub fn times(value: Option<Spread>) -> String {
    value.map_or_else(nothing, |Spread { low, median, high }| format!("{median:.2} ({low:.2}-{high:.2})"))
}

/// Nanoseconds, in the unit that fits.
pub fn time(nanoseconds: Option<f64>) -> String {
    nanoseconds.map_or_else(nothing, |value| match value {
        value if value < 1e3 => format!("{value:.0} ns"),
        value if value < 1e6 => format!("{:.1} us", value / 1e3),
        value if value < 1e9 => format!("{:.1} ms", value / 1e6),
        value => format!("{:.2} s", value / 1e9),
    })
}

/// What the paper has.
pub fn published(value: Option<f64>) -> String {
    value.map_or_else(
        nothing,
        |value| if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") },
    )
}

/// Not measured.
pub fn nothing() -> String {
    "-".into()
}

#[cfg(test)]
mod tests {
    use super::{Table, time};

    #[test]
    fn a_table_without_rows_is_no_table() {
        assert_eq!(Table::new(["a"]).text(), "");
    }

    #[test]
    fn cells_do_not_break_the_table() {
        let mut table = Table::new(["a", "b"]);
        table.row(["x|y".to_owned(), "z".to_owned()]);
        assert_eq!(table.text(), "\n| a | b |\n|---|---|\n| x\\|y | z |\n\n");
    }

    #[test]
    fn units_fit() {
        assert_eq!(time(Some(999.0)), "999 ns");
        assert_eq!(time(Some(1500.0)), "1.5 us");
        assert_eq!(time(Some(2.5e9)), "2.50 s");
        assert_eq!(time(None), "-");
    }
}
