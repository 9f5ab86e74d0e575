//! Documents: Markdown in the middle, HTML by `pulldown-cmark`, `ammonia` and `htmd`.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::table::{Cell, Table};
use super::{ConvertError, Limits};

/// A document on its way.
pub(super) enum Document {
    /// Markdown.
    Markdown(String),
    /// Text without any marks.
    Plain(String),
}

fn parser(markdown: &str) -> Parser<'_> {
    Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH)
}

impl Document {
    /// A page; whatever could run or load in it is taken out.
    pub(super) fn into_html(self) -> String {
        let body = match self {
            Document::Markdown(markdown) => {
                let mut html = String::new();
                pulldown_cmark::html::push_html(&mut html, parser(&markdown));
                ammonia::clean(&html)
            }
            Document::Plain(text) => format!("<pre>{}</pre>\n", ammonia::clean_text(&text)),
        };
        format!("<!doctype html>\n<meta charset=\"utf-8\">\n{body}")
    }

    /// Markdown. Text is escaped where it would be read as marks.
    pub(super) fn into_markdown(self) -> String {
        match self {
            Document::Markdown(markdown) => markdown,
            Document::Plain(text) => {
                let mut out = String::with_capacity(text.len());
                for character in text.chars() {
                    if "\\`*_{}[]<>#|~".contains(character) {
                        out.push('\\');
                    }
                    // Pages of a PDF are parted by these.
                    if character == '\u{c}' {
                        out.push_str("\n---\n\n");
                    } else {
                        out.push(character);
                    }
                }
                out
            }
        }
    }

    /// The words, without marks.
    pub(super) fn into_text(self) -> String {
        let markdown = match self {
            Document::Plain(text) => return text,
            Document::Markdown(markdown) => markdown,
        };
        let mut out = String::new();
        for event in parser(&markdown) {
            match event {
                Event::Text(text) | Event::Code(text) => out.push_str(&text),
                Event::SoftBreak | Event::HardBreak => out.push('\n'),
                Event::End(TagEnd::TableCell) => out.push('\t'),
                Event::End(TagEnd::TableRow | TagEnd::TableHead) => {
                    out.truncate(out.trim_end_matches('\t').len());
                    out.push('\n');
                }
                Event::End(TagEnd::Item | TagEnd::CodeBlock) if !out.ends_with('\n') => {
                    out.push('\n')
                }
                Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::Table) => {
                    out.push_str("\n\n");
                }
                Event::Start(Tag::Item) => {
                    if !out.is_empty() && !out.ends_with('\n') {
                        out.push('\n');
                    }
                    out.push_str("- ");
                }
                _ => {}
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

/// How deeply elements may lie in each other: the libraries walk them by recursion, on a stack made for this many.
const DEPTH: usize = 10_000;

/// A page as Markdown, without scripts, styles and forms.
pub(super) fn from_html(html: &str) -> Result<String, ConvertError> {
    let depth = nesting(html);
    if depth > DEPTH {
        return Err(ConvertError::TooLarge {
            what: "the nesting of elements",
            size: depth as u64,
            limit: DEPTH as u64,
            next: "the page is not meant to be read; take another",
        });
    }
    let converter = htmd::HtmlToMarkdown::builder()
        .skip_tags(vec!["script", "style", "noscript", "template", "iframe", "svg", "head"])
        .build();
    let markdown = converter
        .convert(html)
        .map_err(|error| ConvertError::Malformed(format!("the page could not be read: {error}")))?;
    Ok(format!("{}\n", markdown.trim()))
}

/// At most how deeply elements lie in each other: openings minus closings, elements without an end left out.
fn nesting(html: &str) -> usize {
    const VOID: [&str; 8] = ["br", "hr", "img", "input", "meta", "link", "source", "wbr"];
    // Their ends are often left out, and the next of them closes the one before.
    const IMPLIED: [&str; 9] = ["p", "li", "td", "tr", "th", "dt", "dd", "option", "tbody"];
    let (mut depth, mut deepest) = (0usize, 0);
    for part in html.split('<').skip(1) {
        let closing = part.starts_with('/');
        let name: String = part
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .take(12)
            .collect::<String>()
            .to_ascii_lowercase();
        if name.is_empty() || VOID.contains(&&*name) || IMPLIED.contains(&&*name) {
            continue;
        }
        depth = if closing { depth.saturating_sub(1) } else { depth + 1 };
        deepest = deepest.max(depth);
    }
    deepest
}

/// The first table of a document.
pub(super) fn table_of(
    document: &Document,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    let Document::Markdown(markdown) = document else {
        return Err(ConvertError::malformed("plain text has no tables"));
    };
    let (mut table, mut row, mut cell, mut inside, mut tables) =
        (None::<Table>, Vec::new(), String::new(), false, 0);
    for event in parser(markdown) {
        match event {
            Event::Start(Tag::Table(_)) => {
                tables += 1;
                inside = tables == 1;
            }
            Event::End(TagEnd::Table) => inside = false,
            _ if !inside => {}
            Event::Text(text) | Event::Code(text) => cell.push_str(&text),
            Event::SoftBreak | Event::HardBreak => cell.push(' '),
            Event::End(TagEnd::TableCell) => {
                row.push(Cell::text(std::mem::take(&mut cell).trim()));
            }
            Event::End(TagEnd::TableHead) => {
                let names = row.drain(..).map(|cell: Cell| cell.display().into_owned()).collect();
                table = Some(Table::new(names, limits, notes)?);
            }
            Event::End(TagEnd::TableRow) => {
                let mut row = std::mem::take(&mut row);
                if let Some(table) = &mut table {
                    row.resize(table.columns.len(), Cell::Null);
                    table.push(row, limits)?;
                }
            }
            _ => {}
        }
    }
    let mut table = table.ok_or_else(|| {
        ConvertError::malformed(
            "the document has no table; convert it to markdown or text to read it",
        )
    })?;
    if tables > 1 {
        notes.push(format!("the first of {tables} tables was taken"));
    }
    table.infer();
    Ok(table)
}

/// A table in Markdown.
pub(super) fn of_table(table: &Table) -> Document {
    let mut out = String::new();
    line(&mut out, table.columns.iter().map(|name| name.as_str().into()));
    line(&mut out, table.columns.iter().map(|_| "---".into()));
    for row in &table.rows {
        line(&mut out, row.iter().map(Cell::display));
    }
    Document::Markdown(out)
}

fn line<'a>(out: &mut String, cells: impl Iterator<Item = std::borrow::Cow<'a, str>>) {
    out.push('|');
    for cell in cells {
        out.push(' ');
        for character in cell.chars() {
            match character {
                '\r' => {}
                '\n' => out.push(' '),
                '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '~' if &*cell != "---" => {
                    out.push('\\');
                    out.push(character);
                }
                other => out.push(other),
            }
        }
        out.push_str(" |");
    }
    out.push('\n');
}
