//! Documents: Markdown in the middle, HTML by `pulldown-cmark`, `ammonia` and `htmd`.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::table::{Cell, Table};
use super::{ConvertError, Limits, within};
use crate::web::tidy::{DEPTH, Tidy, balanced};

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
    pub(super) fn into_html(self, notes: &mut Vec<String>) -> String {
        let body = match self {
            Document::Markdown(markdown) => {
                let mut html = String::new();
                pulldown_cmark::html::push_html(&mut html, parser(&markdown));
                ammonia::clean(&flat(balanced(&html, usize::MAX), notes).html)
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

/// Elements of a page: the library behind this takes time that grows with the square of the number of some.
const ELEMENTS: usize = 200_000;

/// A page as Markdown, without scripts, styles, forms and what nobody sees. What it is made of is balanced and not deep:
/// the library walks it by recursion.
pub(super) fn from_html(html: &str, notes: &mut Vec<String>) -> Result<String, ConvertError> {
    let page = balanced(html, ELEMENTS + 1);
    within("the number of elements", page.elements, ELEMENTS, "convert a part of the page")?;
    let page = flat(page, notes);
    let converter = htmd::HtmlToMarkdown::builder()
        .skip_tags(vec!["script", "style", "noscript", "template", "iframe", "svg", "head"])
        .build();
    let markdown = converter
        .convert(&page.html)
        .map_err(|error| ConvertError::Malformed(format!("the page could not be read: {error}")))?;
    Ok(format!("{}\n", markdown.trim()))
}

/// Says it where a page was too deep: the libraries behind this take long over such, and some walk it by recursion.
fn flat(page: Tidy, notes: &mut Vec<String>) -> Tidy {
    if page.flattened {
        let deep = format!("elements that lay more than {DEPTH} deep in each other");
        notes.push(format!("{deep} were left out, and their text was kept"));
    }
    page
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
