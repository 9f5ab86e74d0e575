//! A document as blocks, and its two forms: HTML and Markdown.
//!
//! The key decision: a report is put together once, of blocks, so that both forms say the same. Everything that comes
//! from a file (names, recipes, what a model wrote) is text and is escaped here, in one place; the page has a
//! policy that forbids scripts and everything from elsewhere besides.

use std::fmt::Write;

/// A part of a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    /// English, and a short Chinese one behind it.
    Heading(&'static str, &'static str),
    Text(String),
    /// Something to take note of.
    Warning(String),
    Table {
        head: Vec<String>,
        rows: Vec<Vec<String>>,
    },
    Code(String),
    Plot {
        /// The file's name, without its end.
        name: &'static str,
        caption: String,
        svg: String,
    },
    /// What a model wrote.
    Sample {
        about: String,
        prompt: String,
        text: String,
    },
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2328;--muted:#656d76;--line:#d8dee4;--soft:#f6f8fa;--paper:#fff;--red:#cf222e}\
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--muted:#9198a1;--line:#30363d;--soft:#161b22;--paper:#0d1117;--red:#ff7b72}}\
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}\
h1 span,h2 span{color:var(--muted);font-weight:normal;margin-left:.4em}\
table{border-collapse:collapse;display:block;overflow-x:auto}\
th,td{text-align:left;vertical-align:top;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line)}\
td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}th{color:var(--muted);font-weight:600}\
pre{background:var(--soft);padding:.8rem 1rem;overflow-x:auto;border-radius:6px;font-size:.875rem}\
pre.sample{white-space:pre-wrap;overflow-wrap:anywhere}pre.sample b{color:var(--muted)}\
figure{margin:1.2rem 0}svg{width:100%;height:auto;display:block}figcaption,.about{color:var(--muted);font-size:.875rem}\
.warning{border-left:4px solid var(--red);padding-left:.8rem}\
@media print{body{max-width:none}h2{break-after:avoid}figure,table{break-inside:avoid}}";

/// Text for HTML and SVG; what no document may hold is shown as missing.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(letter),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// One page, in need of nothing else.
pub(crate) fn html(title: &str, blocks: &[Block]) -> String {
    let title = escape(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for block in blocks {
        block.html(&mut page);
        page.push('\n');
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// The same with plots as files beside it, under `plots/`.
pub(crate) fn markdown(title: &str, blocks: &[Block]) -> String {
    let mut page = format!("# {}\n", plain(title));
    for block in blocks {
        page.push('\n');
        block.markdown(&mut page);
    }
    page
}

impl Block {
    pub(crate) fn text(text: impl Into<String>) -> Block {
        Block::Text(text.into())
    }

    /// Rows of a name and a value; a row without a value is left out.
    pub(crate) fn facts(rows: Vec<(&str, Option<String>)>) -> Block {
        let row = |(name, value): (&str, Option<String>)| Some(vec![name.to_owned(), value?]);
        Block::Table { head: Vec::new(), rows: rows.into_iter().filter_map(row).collect() }
    }

    fn html(&self, page: &mut String) {
        // Writing into a String does not fail.
        let _ = match self {
            Block::Heading(english, chinese) => {
                write!(
                    page,
                    "<h2>{}<span lang=\"zh-Hant\">{}</span></h2>",
                    escape(english),
                    escape(chinese)
                )
            }
            Block::Text(text) => write!(page, "<p>{}</p>", escape(text)),
            Block::Warning(text) => write!(page, "<p class=\"warning\">{}</p>", escape(text)),
            Block::Code(text) => write!(page, "<pre>{}</pre>", escape(text)),
            Block::Plot { caption, svg, .. } => {
                write!(page, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption))
            }
            Block::Sample { about, prompt, text } => write!(
                page,
                "<p class=\"about\">{}</p>\n<pre class=\"sample\"><b>{}</b>{}</pre>",
                escape(about),
                escape(prompt),
                escape(text)
            ),
            Block::Table { head, rows } => {
                page.push_str("<table>");
                let cells = |page: &mut String, tag: &str, cells: &[String]| {
                    page.push_str("<tr>");
                    for (at, cell) in cells.iter().enumerate() {
                        // A table of facts has its names in front instead of above.
                        let tag = if at == 0 && head.is_empty() { "th" } else { tag };
                        let _ = write!(page, "<{tag}>{}</{tag}>", escape(cell));
                    }
                    page.push_str("</tr>\n");
                };
                if !head.is_empty() {
                    cells(page, "th", head);
                }
                rows.iter().for_each(|row| cells(page, "td", row));
                write!(page, "</table>")
            }
        };
    }

    fn markdown(&self, page: &mut String) {
        let _ = match self {
            Block::Heading(english, chinese) => writeln!(page, "## {english} {chinese}"),
            Block::Text(text) => writeln!(page, "{}", plain(text)),
            Block::Warning(text) => writeln!(page, "> **Note.** {}", plain(text)),
            Block::Code(text) => writeln!(page, "{}", fenced(text)),
            Block::Plot { name, caption, .. } => {
                writeln!(page, "![{}](plots/{name}.svg)", plain(caption))
            }
            Block::Sample { about, prompt, text } => {
                writeln!(page, "{}\n\n{}", plain(about), fenced(&format!("{prompt}⏵{text}")))
            }
            Block::Table { head, rows } => {
                let width = rows.iter().map(Vec::len).max().unwrap_or(0).max(head.len());
                let row = |cells: &[String]| {
                    let cell = |at: usize| cells.get(at).map_or(String::new(), |cell| plain(cell));
                    (0..width).map(|at| format!("| {} ", cell(at))).collect::<String>() + "|\n"
                };
                page.push_str(&row(head));
                page.push_str(&("|---".repeat(width) + "|\n"));
                rows.iter().for_each(|cells| page.push_str(&row(cells)));
                Ok(())
            }
        };
    }
}

/// One line of Markdown that is only text.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' | '!' => {
                plain.extend(['\\', letter])
            }
            '<' => plain.push_str("&lt;"),
            '&' => plain.push_str("&amp;"),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

/// In a fence that is longer than any in the text.
fn fenced(text: &str) -> String {
    let (mut longest, mut run) = (2, 0);
    for letter in text.chars() {
        run = if letter == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(longest + 1);
    let text: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    format!("{fence}\n{}\n{fence}", text.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        let evil = "</pre><script>alert('x')</script>\u{1b}[31m ```` | [a](b) & \"q\"";
        let blocks = [
            Block::text(evil),
            Block::Warning(evil.into()),
            Block::Code(evil.into()),
            Block::Sample { about: evil.into(), prompt: evil.into(), text: evil.into() },
            Block::Table {
                head: vec![evil.into()],
                rows: vec![vec![evil.into(), "2".into()], vec![]],
            },
            Block::Plot { name: "loss", caption: evil.into(), svg: "<svg></svg>".into() },
            Block::facts(vec![("a", None), ("b", Some(evil.into()))]),
        ];
        let page = html(evil, &blocks);
        assert!(!page.contains("<script") && !page.contains('\u{1b}'), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 12);
        let page = markdown(evil, &blocks);
        assert!(!page.contains('\u{1b}'));
        let mut fence = None;
        for line in page.lines() {
            match &fence {
                None if line.starts_with("```") => fence = Some(line.to_owned()),
                None => assert!(!line.contains("<script") && !line.contains("| [a]"), "{line}"),
                Some(open) if line == open => fence = None,
                Some(open) => assert!(open.len() == 5),
            }
        }
        assert!(page.contains("|---|---|\n"), "{page}");
    }
}
