//! A page as a model reads it: numbered spans to cite, numbered links to open.
//!
//! The key decision: a span is a paragraph, a few lines of a list or a part of a long paragraph, and its number is its
//! place in the whole page, so a citation means the same whichever part of the page was shown. Nothing is cut off
//! without being said.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dom_query::Document;
use dom_smoothie::{Config, Readability};
use serde::{Deserialize, Serialize};
use url::Url;

use super::decode::decode;
use super::text::{pieces, seen, shortened};
use super::tidy::{ELEMENTS, Tidy, tidy};
use super::walk::{Block, Walked, walk};

/// Characters of a span.
const SPAN: usize = 1000;
/// Characters up to which lines of lists and tables share a span.
const JOINED: usize = 500;
/// Characters of text of a page; more are left out, and that is said.
const LONGEST: usize = 2_000_000;
/// Elements up to which the main text is looked for: that takes time that grows with the square of their number.
const WEIGHED: usize = 15_000;
/// A text of fewer characters is no article.
const ARTICLE: usize = 250;

/// A link of a page; its number is its place, from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it says.
    pub text: String,
    /// Where it leads, in full.
    pub url: String,
}

/// A page that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// What it calls itself.
    pub title: String,
    /// The author, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// When it was published, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<String>,
    /// The text; the first is span 1.
    pub spans: Vec<String>,
    /// The links in it; the first is link 1.
    pub links: Vec<Link>,
    /// What a reader has to know of how it was read: in our words.
    pub notes: Vec<String>,
    /// What it says to crawlers in its head.
    #[serde(skip)]
    pub robots: String,
}

impl Page {
    /// All spans, one to a paragraph.
    pub fn text(&self) -> String {
        self.spans.join("\n\n")
    }
}

/// Why bytes are no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPage {
    /// Another kind of file.
    #[error(
        "this is a file of type {0} ({1} bytes), not a page of text; look for a page that says the same in HTML or plain text"
    )]
    Type(String, usize),
    /// Bytes that mean nothing as text.
    #[error("these {0} bytes are no text, whatever their type says; look for another page")]
    Binary(usize),
    /// Nothing to read.
    #[error("the page holds no text; it may be made by scripts alone, or be a picture")]
    Empty,
}

/// Reads what was fetched. `whole`: menus, footers and all, rather than the main text alone.
///
/// # Errors
/// If it is no text, or has none.
pub fn read(
    body: &[u8],
    media_type: &str,
    charset: Option<&str>,
    url: &Url,
    whole: bool,
) -> Result<Page, NotAPage> {
    let is_html = match media_type {
        "text/html" | "application/xhtml+xml" => true,
        "" | "application/octet-stream" => looks_like_html(body),
        other if is_text(other) => false,
        other => return Err(NotAPage::Type(shortened(&seen(other), 80), body.len())),
    };
    if is_binary(body) {
        return Err(NotAPage::Binary(body.len()));
    }
    let (text, broken) = decode(body, charset);
    let mut page = if is_html { html(&text, url, whole) } else { plain(&text) };
    if let Some(encoding) = broken {
        page.notes.push(format!(
            "Some characters could not be read as {encoding}; they are shown as \u{fffd}."
        ));
    }
    if page.spans.is_empty() {
        return Err(NotAPage::Empty);
    }
    Ok(page)
}

fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/")
        || media_type.ends_with("+json")
        || media_type.ends_with("+xml")
        || matches!(
            media_type,
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/x-ndjson"
                | "application/yaml"
        )
}

/// Whether more than one byte in fifty of the first ones is a control code that texts do not have.
fn is_binary(body: &[u8]) -> bool {
    let utf16 = body.starts_with(&[0xff, 0xfe]) || body.starts_with(&[0xfe, 0xff]);
    let head = &body[..body.len().min(10_000)];
    let strange = |byte: &&u8| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31 | 127);
    !utf16 && head.iter().filter(strange).count() * 50 > head.len()
}

fn looks_like_html(body: &[u8]) -> bool {
    let head = body[..body.len().min(1024)].to_ascii_lowercase();
    [&b"<html"[..], b"<!doctype html", b"<head", b"<body", b"<p>", b"<div"]
        .iter()
        .any(|mark| head.windows(mark.len()).any(|window| window == *mark))
}

/// A piece of HTML in bounded form, for those who parse it.
pub(crate) fn bounded(html: &str) -> String {
    tidy(html).html
}

/// Reads HTML.
pub fn html(text: &str, url: &Url, whole: bool) -> Page {
    let tidied = tidy(text);
    // The parsers behind this are others' and get hostile input: a panic of theirs is a page that cannot be read.
    let read = catch_unwind(AssertUnwindSafe(|| of_tidied(&tidied, url, whole)));
    let mut page = read.unwrap_or_else(|_| Page {
        notes: vec!["The page could not be taken apart.".into()],
        ..Page::default()
    });
    if tidied.cut {
        page.notes.push(format!(
            "Only the first {ELEMENTS} elements of the page were read; it has more."
        ));
    }
    page
}

fn of_tidied(tidied: &Tidy, url: &Url, whole: bool) -> Page {
    let document = Document::from(tidied.html.as_str());
    let base = document.base_uri().and_then(|base| url.join(base.trim()).ok());
    let base = base.filter(|base| matches!(base.scheme(), "http" | "https"));
    let base = base.unwrap_or_else(|| url.clone());
    let all = document.body().map(|body| walk(&body, &base)).unwrap_or_default();
    let title = document.select_single("title").text().to_string();
    let robots = document.select_single("meta[name=robots i]").attr("content").unwrap_or_default();
    let mut page = Page { title, robots: robots.to_string(), ..Page::default() };
    let config = Config { disable_json_ld: true, ..Config::default() };
    let main = (tidied.elements <= WEIGHED)
        .then(|| Readability::with_document(document, None, Some(config)).ok()?.parse().ok())
        .flatten();
    if tidied.elements > WEIGHED && !whole {
        page.notes.push(
            "The page is too large to tell its main text from the rest: all of it is here.".into(),
        );
    }
    let mut shown = None;
    if let Some(article) = main {
        page.title = article.title;
        page.author = article.byline;
        page.published = article.published_time;
        let walked = walk(&Document::fragment(article.content).root(), &base);
        if !whole && length(&walked) >= ARTICLE {
            let (main, total) = (length(&walked), length(&all));
            if main < total {
                page.notes.push(format!(
                    "This is the main text: {main} of the page's {total} characters. With whole = true all of it comes."
                ));
            }
            shown = Some(walked);
        }
    }
    let lines = [Some(&mut page.title), page.author.as_mut(), page.published.as_mut()];
    for line in lines.into_iter().flatten() {
        *line = shortened(&seen(line).split_whitespace().collect::<Vec<_>>().join(" "), 200);
    }
    fill(&mut page, shown.unwrap_or(all));
    page
}

fn length(walked: &Walked) -> usize {
    walked.blocks.iter().map(|block| block.text.chars().count()).sum()
}

/// Reads plain text: paragraphs are what lies between empty lines.
pub fn plain(text: &str) -> Page {
    let text = seen(text);
    let blocks = text.split("\n\n").map(|paragraph| Block {
        text: paragraph.trim_matches('\n').trim_end().to_string(),
        ..Block::default()
    });
    let mut page = Page::default();
    fill(&mut page, Walked { blocks: blocks.collect(), ..Walked::default() });
    page
}

/// Cuts blocks into spans.
fn fill(page: &mut Page, walked: Walked) {
    let mut total = 0;
    let mut open: Option<(String, bool)> = None;
    let mut spans = Vec::new();
    for block in walked.blocks {
        let length = block.text.chars().count();
        total += length;
        if total > LONGEST {
            page.notes.push(format!(
                "Only the first {LONGEST} characters of the text were read; it has more."
            ));
            break;
        }
        let joined = open.as_ref().is_some_and(|(text, heading)| {
            (*heading || block.joins && !block.heading) && text.chars().count() + length < JOINED
        });
        match &mut open {
            Some((text, heading)) if joined => {
                text.push('\n');
                text.push_str(&block.text);
                *heading = block.heading;
            }
            _ => {
                let kind = block.heading;
                let old = open.replace((block.text, kind));
                spans.extend(old.map(|(text, _)| text));
            }
        }
    }
    spans.extend(open.map(|(text, _)| text));
    page.spans = spans
        .iter()
        .flat_map(|span| pieces(span, SPAN).into_iter().map(String::from).collect::<Vec<_>>())
        .collect();
    page.links = walked.links;
    if walked.unnumbered > 0 {
        page.notes.push(format!("{} further links have no number.", walked.unnumbered));
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
