//! Plain-text tables: numbers to the right, names last.

/// Renders rows of cells under their heads, every column as wide as its widest cell; the last column is text
/// and stands to the left.
pub(super) fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let last = widths.len().saturating_sub(1);
        for (place, (cell, width)) in cells.zip(&widths).enumerate() {
            match place == last {
                true => out.push_str(cell),
                false => out.push_str(&format!("{cell:>width$}  ")),
            }
        }
        out.push('\n');
    };
    line(&mut heads.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// How much of a name a table shows. Generic parameters can take thousands of characters.
const LONGEST_NAME: usize = 100;

/// A name fit for one line of a table.
pub(super) fn one_line(name: &str) -> String {
    let mut line: String =
        name.chars().take(LONGEST_NAME).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if name.chars().nth(LONGEST_NAME).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// `value` in its unit, with three digits that count: `12.3 ms`.
pub(super) fn amount(value: f64, unit: &str) -> String {
    let steps: &[(f64, &str)] = match unit {
        "nanoseconds" => &[(1e9, " s"), (1e6, " ms"), (1e3, " us"), (1.0, " ns")],
        "bytes" => &[(1_073_741_824.0, " GiB"), (1_048_576.0, " MiB"), (1024.0, " KiB"), (1.0, " B")],
        _ => &[(1e9, "G"), (1e6, "M"), (1e4, "k"), (1.0, "")],
    };
    // A whole of the smaller unit reads better than a fraction of the larger.
    let step = steps.iter().find(|(size, _)| value.abs() >= *size).or(steps.last());
    let (size, name) = step.copied().unwrap_or((1.0, ""));
    let size = if name == "k" { 1e3 } else { size };
    let scaled = value / size;
    let digits = match scaled.abs() {
        _ if size == 1.0 && scaled.fract() == 0.0 => 0,
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{name}")
}

/// `part` of `whole` in per cent.
pub(super) fn percent(part: f64, whole: f64) -> String {
    format!("{:.2}%", if whole == 0.0 { 0.0 } else { part / whole * 100.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_a_unit_to_read() {
        assert_eq!(amount(30_303_030.0, "nanoseconds"), "30.3 ms");
        assert_eq!(amount(-1.5e9, "nanoseconds"), "-1.50 s");
        assert_eq!(amount(0.0, "nanoseconds"), "0 ns");
        assert_eq!(amount(2048.0, "bytes"), "2.00 KiB");
        assert_eq!(
            [amount(7.0, "count"), amount(9999.0, "count"), amount(12_345.0, "count")],
            ["7", "9999", "12.3k"]
        );
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(one_line("a\nb"), "a b");
        assert_eq!(one_line(&"x".repeat(100)), "x".repeat(100));
        assert_eq!(one_line(&"ü".repeat(101)), format!("{}…", "ü".repeat(99)));
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["1".into(), "a".into()], vec!["100".into(), "b c".into()]];
        assert_eq!(render(&["self", "function"], &rows), "self  function\n   1  a\n 100  b c\n");
    }
}
