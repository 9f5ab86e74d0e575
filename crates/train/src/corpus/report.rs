//! What a build did, for people: `report.md`, `report.html`, and two plots.
//!
//! The key decision: one list of sections is rendered twice, so that both say the same. There are no times and no paths in them:
//! the same build gives the same bytes.

mod plots;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::counts::{Count, Counts};
use super::reason::Reason;
use super::recipe::Recipe;
use super::rows::Manifest;
use crate::digest::{hex, sha256};
use crate::{Error, Result};

/// A piece of the report.
enum Part {
    Title(String),
    Section(String),
    Text(String),
    /// Rows of cells, the first row names the columns.
    Table(Vec<Vec<String>>),
    /// A plot: its file's name and the SVG.
    Plot(&'static str, String),
    /// A text as it was.
    Quote(String),
}

/// Writes the report's files into a folder.
pub(super) fn write(
    folder: &Path,
    recipe: &Recipe,
    manifest: &Manifest,
    counts: &[Counts],
) -> Result<()> {
    let parts = parts(recipe, manifest, counts)?;
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|source| Error::io("writing", path, source))
    };
    for part in &parts {
        if let Part::Plot(name, svg) = part {
            put(name, svg.clone())?;
        }
    }
    put("report.md", markdown(&parts))?;
    put("report.html", html(&recipe.name, &parts))
}

fn parts(recipe: &Recipe, manifest: &Manifest, counts: &[Counts]) -> Result<Vec<Part>> {
    let mut parts = vec![
        Part::Title(format!("Corpus {}", recipe.name)),
        Part::Text(format!("Recipe: SHA-256 {}", hex(&sha256(recipe.text.as_bytes())))),
        Part::Section("Sources".into()),
        Part::Table(sources(counts)),
        Part::Text("Bytes are UTF-8 bytes of cleaned text; of documents dropped before cleaning, raw bytes.".into()),
    ];
    parts.push(Part::Section("Dropped, by reason".into()));
    parts.push(Part::Table(reasons(counts)));
    parts.push(Part::Plot("drops.svg", plots::drops(counts)?));
    parts.push(Part::Section("Lengths of what was kept".into()));
    parts.push(Part::Plot("lengths.svg", plots::lengths(counts)?));
    parts.push(Part::Section("Duplicates".into()));
    parts.push(Part::Text(duplicates(recipe)));
    parts.push(Part::Section("Samples of what was dropped".into()));
    for one in counts {
        for (reason, samples) in &one.samples {
            parts.push(Part::Text(format!("{}, {}:", one.source, reason.name())));
            parts.extend(samples.iter().map(|(_, text)| Part::Quote(text.clone())));
        }
    }
    parts.push(Part::Section("Files read".into()));
    let mut files = vec![cells(["source", "file", "bytes", "SHA-256"])];
    files.extend(manifest.inputs.iter().map(|file| {
        vec![file.source.clone(), file.name.clone(), grouped(file.bytes), file.sha256.clone()]
    }));
    parts.push(Part::Table(files));
    Ok(parts)
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_string).into()
}

fn sources(counts: &[Counts]) -> Vec<Vec<String>> {
    let names = [
        "source",
        "licence",
        "files",
        "read",
        "bytes",
        "dropped",
        "train",
        "bytes",
        "hold-out",
        "bytes",
        "cut in a line",
        "UTF-8 replaced",
    ];
    let mut table = vec![cells(names)];
    for one in counts {
        let mut row = vec![one.source.clone(), one.licence.clone()];
        row.extend(numbers(one).map(grouped));
        table.push(row);
    }
    let mut all = cells(["all", ""]);
    all.extend((0..10).map(|column| grouped(counts.iter().map(|one| numbers(one)[column]).sum())));
    table.push(all);
    table
}

fn numbers(one: &Counts) -> [u64; 10] {
    let dropped = one.dropped.values().map(|count| count.documents).sum();
    let Count { documents: files, .. } = one.files;
    [
        files,
        one.read.documents,
        one.read.bytes,
        dropped,
        one.train.documents,
        one.train.bytes,
        one.holdout.documents,
        one.holdout.bytes,
        one.cut_inside_lines,
        one.replaced,
    ]
}

fn reasons(counts: &[Counts]) -> Vec<Vec<String>> {
    let mut names = cells(["reason"]);
    names.extend(counts.iter().map(|one| one.source.clone()));
    names.extend(cells(["all", "bytes"]));
    let mut table = vec![names];
    for reason in Reason::ALL {
        let of = |one: &Counts| one.dropped.get(&reason).copied().unwrap_or_default();
        let documents: Vec<u64> = counts.iter().map(|one| of(one).documents).collect();
        let all: u64 = documents.iter().sum();
        if all > 0 {
            let mut row = vec![reason.name().to_string()];
            row.extend(documents.into_iter().map(grouped));
            row.push(grouped(all));
            row.push(grouped(counts.iter().map(|one| of(one).bytes).sum()));
            table.push(row);
        }
    }
    table
}

fn duplicates(recipe: &Recipe) -> String {
    let dedup = &recipe.dedup;
    let exact = if dedup.exact { "dropped by SHA-256 of the cleaned text" } else { "kept" };
    if !dedup.near {
        return format!("Exact duplicates: {exact}. Near duplicates: kept.");
    }
    let (bands, rows) = (dedup.bands as f64, dedup.rows as f64);
    let chance = |similarity: f64| 100.0 * (1.0 - (1.0 - similarity.powf(rows)).powf(bands));
    format!(
        "Exact duplicates: {exact}. Near duplicates: MinHash over shingles of {} words, {} bands of {} rows: pairs of Jaccard \
         similarity 0.5, 0.7, 0.8 and 0.9 become candidates with probability {:.0} %, {:.0} %, {:.0} % and {:.0} %; a candidate is \
         dropped when at least {} of its signature agrees. The first in the order of input stays.",
        dedup.shingle_words,
        dedup.bands,
        dedup.rows,
        chance(0.5),
        chance(0.7),
        chance(0.8),
        chance(0.9),
        dedup.similarity
    )
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn markdown(parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        // Writing to a string does not fail.
        let _ = match part {
            Part::Title(text) => writeln!(out, "# {text}\n"),
            Part::Section(text) => writeln!(out, "## {text}\n"),
            Part::Text(text) => writeln!(out, "{text}\n"),
            Part::Plot(name, _) => writeln!(out, "![{name}]({name})\n"),
            Part::Quote(text) => writeln!(out, "{}\n", fenced(text)),
            Part::Table(rows) => {
                for (at, row) in rows.iter().enumerate() {
                    let cells: Vec<String> =
                        row.iter().map(|cell| cell.replace('|', "\\|")).collect();
                    let _ = writeln!(out, "| {} |", cells.join(" | "));
                    if at == 0 {
                        let _ = writeln!(out, "|{}", "---|".repeat(row.len()));
                    }
                }
                writeln!(out)
            }
        };
    }
    out
}

/// A text from outside, in a fence that it does not end.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{text}\n{fence}")
}

fn html(name: &str, parts: &[Part]) -> String {
    let style = "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}\
        td,th{border:1px solid #ccc;padding:.2em .5em;text-align:right}td:first-child,th:first-child{text-align:left}\
        pre{background:#f4f4f4;padding:.6em;white-space:pre-wrap;overflow-wrap:anywhere}svg{max-width:100%;height:auto}";
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Corpus {}</title><style>{style}</style></head><body>\n",
        escaped(name)
    );
    for part in parts {
        let _ = match part {
            Part::Title(text) => writeln!(out, "<h1>{}</h1>", escaped(text)),
            Part::Section(text) => writeln!(out, "<h2>{}</h2>", escaped(text)),
            Part::Text(text) => writeln!(out, "<p>{}</p>", escaped(text)),
            Part::Plot(_, svg) => writeln!(out, "{svg}"),
            Part::Quote(text) => writeln!(out, "<pre>{}</pre>", escaped(text)),
            Part::Table(rows) => {
                let _ = writeln!(out, "<table>");
                for (at, row) in rows.iter().enumerate() {
                    let tag = if at == 0 { "th" } else { "td" };
                    let cells: String = row
                        .iter()
                        .map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)))
                        .collect();
                    let _ = writeln!(out, "<tr>{cells}</tr>");
                }
                writeln!(out, "</table>")
            }
        };
    }
    out.push_str("</body></html>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_outside_stay_texts() {
        let parts =
            [Part::Quote("</pre><script>``` & \"x\"".into()), Part::Table(vec![cells(["a|b"])])];
        let html = html("<x>", &parts);
        assert!(
            !html.contains("<script>")
                && html.contains("&lt;script&gt;")
                && html.contains("Corpus &lt;x&gt;")
        );
        let markdown = markdown(&parts);
        assert!(markdown.starts_with("````text\n") && markdown.contains("| a\\|b |"), "{markdown}");
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
