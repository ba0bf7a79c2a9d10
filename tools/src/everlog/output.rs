//! How results are printed: one JSON object, or a short aligned table of the same values.
//!
//! Invariant: both show the same fields under the same names, since the table is made from the JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

/// Prints `result` on stdout.
pub fn print(result: &impl Serialize, json: bool) -> io::Result<()> {
    let value = serde_json::to_value(result).map_err(io::Error::other)?;
    let mut out = io::stdout().lock();
    if json { writeln!(out, "{value}") } else { out.write_all(table(&value).as_bytes()) }
}

/// The fields of an object, aligned, those of objects within it behind its name and a full stop; lists of objects follow as
/// tables of their own.
fn table(value: &Value) -> String {
    let Value::Object(fields) = value else { return format!("{}\n", cell(value)) };
    let fields: Vec<(String, &Value)> = fields.iter().flat_map(|(name, value)| flat(name, value)).collect();
    let is_list = |value: &Value| value.as_array().is_some_and(|items| items.iter().any(Value::is_object));
    let width = fields.iter().filter(|(_, v)| !is_list(v)).map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !is_list(value)) {
        out.push_str(&format!("{name:<width$}  {}\n", cell(value)));
    }
    for (name, value) in fields.iter().filter(|(_, value)| is_list(value)) {
        let rows: Vec<_> = value.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
        out.push_str(&format!("\n{name}\n{}", columns(&rows)));
    }
    out
}

/// A field, or those of an object.
fn flat<'a>(name: &str, value: &'a Value) -> Vec<(String, &'a Value)> {
    match value {
        Value::Object(fields) => fields.iter().map(|(field, value)| (format!("{name}.{field}"), value)).collect(),
        _ => vec![(name.to_owned(), value)],
    }
}

/// Rows of the same fields under a head line; numbers to the right.
fn columns(rows: &[&serde_json::Map<String, Value>]) -> String {
    let names: Vec<&String> = rows.first().map_or_else(Vec::new, |row| row.keys().collect());
    let text = |row: &serde_json::Map<String, Value>, name: &str| row.get(name).map_or_else(String::new, cell);
    let widths: Vec<usize> = names
        .iter()
        .map(|name| rows.iter().map(|row| text(row, name).chars().count()).chain([name.len()]).max().unwrap_or(0))
        .collect();
    let right = |name: &str| rows.iter().all(|row| row.get(name).is_none_or(|v| v.is_number() || v.is_null()));
    let mut out = String::new();
    let mut line = |cells: Vec<String>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(names.iter().zip(&widths))
            .map(
                |(cell, (name, width))| if right(name) { format!("{cell:>width$}") } else { format!("{cell:<width$}") },
            )
            .collect();
        out.push_str(&format!("  {}\n", padded.join("  ").trim_end()));
    };
    line(names.iter().map(|name| (*name).clone()).collect());
    rows.iter().for_each(|row| line(names.iter().map(|name| text(row, name)).collect()));
    out
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.abs() >= 100.0 => format!("{float:.0}"),
            Some(float) if number.is_f64() => format!("{float:.3}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_aligned_and_lists_follow() {
        let value = json!({"id": "ab", "seconds": 1.5, "list": [{"name": "x", "n": 7}, {"name": "long", "n": 12}]});
        let expected = "id       ab\nseconds  1.500\n\nlist\n  name   n\n  x      7\n  long  12\n";
        assert_eq!(table(&value), expected);
    }

    #[test]
    fn objects_are_taken_apart() {
        assert_eq!(
            table(&json!({"a": 1, "open": {"clean": true, "ms": 7}})),
            "a           1\nopen.clean  true\nopen.ms     7\n"
        );
    }

    #[test]
    fn what_is_missing_is_shown_as_missing() {
        assert_eq!(table(&json!({"a": null, "b": [], "c": [1, 2]})), "a  -\nb  \nc  1 2\n");
    }
}
