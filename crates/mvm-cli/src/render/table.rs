//! Tables for people.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

/// A table without lines; columns are as wide as they need to be.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Names and values, one a line.
pub(crate) fn facts(rows: Vec<(&str, String)>) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let line = |(name, value): &(&str, String)| format!("{:<width$} {value}", format!("{name}:"));
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let text = table(["A", "LONG"], vec![["x".into(), "1".into()], ["yyy".into(), "2".into()]]);
        assert_eq!(text, "A    LONG\nx    1\nyyy  2");
        assert_eq!(facts(vec![("a", "1".into()), ("bcd", "2".into())]), "a:   1\nbcd: 2");
    }
}
