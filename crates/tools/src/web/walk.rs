//! From a tree of elements to lines of text with numbered links.

use std::collections::HashMap;

use dom_query::NodeRef;
use url::Url;

use super::page::Link;
use super::text::{seen, shortened};

/// Links that are numbered.
const LINKS: usize = 2000;

/// A piece of text that stands by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) text: String,
    /// Of a list or a table: short ones are shown together.
    pub(super) joins: bool,
    /// A heading goes with what follows.
    pub(super) heading: bool,
}

/// What a tree says.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) blocks: Vec<Block>,
    pub(super) links: Vec<Link>,
    /// Links that have no number because there were too many.
    pub(super) unnumbered: usize,
}

/// Reads a tree, without recursion.
pub(super) fn walk(root: &NodeRef<'_>, base: &Url) -> Walked {
    let mut walker = Walker::new(base);
    let mut at = *root;
    loop {
        let enters = walker.open(&at);
        if let Some(child) = at.first_child().filter(|_| enters) {
            at = child;
            continue;
        }
        walker.close(&at);
        loop {
            if at.id == root.id {
                walker.flush();
                return walker.said;
            }
            if let Some(next) = at.next_sibling() {
                at = next;
                break;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => {
                    walker.flush();
                    return walker.said;
                }
            }
            walker.close(&at);
        }
    }
}

struct Walker<'a> {
    base: &'a Url,
    said: Walked,
    numbers: HashMap<String, usize>,
    line: String,
    prefix: String,
    heading: bool,
    /// Open `pre` elements.
    verbatim: usize,
    /// Of each open list, the number of its next item; nothing: bullets.
    lists: Vec<Option<u32>>,
    /// Open table rows.
    rows: usize,
    /// Where in `line` the text of the open link began, and its text from earlier lines.
    link: Option<(usize, String)>,
}

impl<'a> Walker<'a> {
    fn new(base: &'a Url) -> Walker<'a> {
        Walker {
            base,
            said: Walked::default(),
            numbers: HashMap::new(),
            line: String::new(),
            prefix: String::new(),
            heading: false,
            verbatim: 0,
            lists: Vec::new(),
            rows: 0,
            link: None,
        }
    }

    /// Whether its children are to be read.
    fn open(&mut self, node: &NodeRef<'_>) -> bool {
        if node.is_text() {
            self.text(&node.text());
            return false;
        }
        let Some(name) = node.node_name() else { return !node.is_comment() };
        match &*name {
            "script" | "style" | "head" | "template" => return false,
            "br" if self.verbatim > 0 => self.line.push('\n'),
            "br" => self.line.push('\n'),
            "img" => self.image(node),
            "a" => self.link = Some((self.line.len(), String::new())),
            "td" | "th" if !self.line.trim().is_empty() => self.line.push_str(" | "),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.flush();
                let level = name.as_bytes()[1] - b'0';
                self.prefix = format!("{} ", "#".repeat(level.into()));
                self.heading = true;
            }
            "ul" | "menu" => self.begin_list(None),
            "ol" => {
                let first = node.attr("start").and_then(|first| first.trim().parse().ok());
                self.begin_list(Some(first.unwrap_or(1)));
            }
            "li" => self.item(),
            "tr" => {
                self.flush();
                self.rows += 1;
            }
            "pre" => {
                self.flush();
                self.verbatim += 1;
            }
            "blockquote" => {
                self.flush();
                self.prefix = "> ".into();
            }
            name if is_block(name) && self.rows == 0 => self.flush(),
            name if is_block(name) => self.space(),
            _ => {}
        }
        true
    }

    fn close(&mut self, node: &NodeRef<'_>) {
        let Some(name) = node.node_name() else { return };
        match &*name {
            "a" => self.end_link(node),
            "ul" | "ol" | "menu" => {
                self.flush();
                self.lists.pop();
            }
            "tr" => {
                self.flush();
                self.rows = self.rows.saturating_sub(1);
            }
            "pre" => {
                self.flush();
                self.verbatim = self.verbatim.saturating_sub(1);
            }
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "li" | "blockquote" => self.flush(),
            name if is_block(name) && self.rows == 0 => self.flush(),
            name if is_block(name) => self.space(),
            _ => {}
        }
    }

    fn space(&mut self) {
        if !self.line.is_empty() && !self.line.ends_with(char::is_whitespace) {
            self.line.push(' ');
        }
    }

    fn text(&mut self, text: &str) {
        let text = seen(text);
        if self.verbatim > 0 {
            return self.line.push_str(&text);
        }
        for (i, word) in text.split_whitespace().enumerate() {
            if i > 0 || text.starts_with(char::is_whitespace) {
                self.space();
            }
            self.line.push_str(word);
        }
        if text.ends_with(char::is_whitespace) {
            self.space();
        }
    }

    fn image(&mut self, node: &NodeRef<'_>) {
        let described = node.attr("alt").map(|alt| seen(&alt)).unwrap_or_default();
        if !described.trim().is_empty() {
            self.line.push_str(&format!("[image: {}]", shortened(described.trim(), 200)));
        }
    }

    fn begin_list(&mut self, first: Option<u32>) {
        self.flush();
        self.lists.push(first);
    }

    fn item(&mut self) {
        self.flush();
        let depth = self.lists.len().clamp(1, 8) - 1;
        let mark = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number = number.saturating_add(1);
                format!("{}. ", number.saturating_sub(1))
            }
            _ => "- ".into(),
        };
        self.prefix = format!("{}{mark}", "  ".repeat(depth));
    }

    fn end_link(&mut self, node: &NodeRef<'_>) {
        let Some((from, mut text)) = self.link.take() else { return };
        text.push_str(self.line.get(from..).unwrap_or_default());
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(url) = node.attr("href").and_then(|href| self.target(&href)) else { return };
        if text.is_empty() {
            return;
        }
        let number = match self.numbers.get(&url) {
            Some(number) => *number,
            None if self.said.links.len() >= LINKS => {
                self.said.unnumbered += 1;
                return;
            }
            None => {
                self.said.links.push(Link { text: shortened(&text, 100), url: url.clone() });
                self.numbers.insert(url, self.said.links.len());
                self.said.links.len()
            }
        };
        let mark = format!(" [link {number}]");
        match self.said.blocks.last_mut() {
            // All of the link's text is in lines that are already over.
            Some(block) if self.line.trim().is_empty() => block.text.push_str(&mark),
            _ => {
                self.line.truncate(self.line.trim_end().len());
                self.line.push_str(&mark);
            }
        }
    }

    /// Where a link leads, if that is another page of the web.
    fn target(&self, href: &str) -> Option<String> {
        let href = href.trim();
        if href.is_empty() || href.starts_with('#') {
            return None;
        }
        let url = self.base.join(href).ok()?;
        let short = url.as_str().len() <= 2048;
        (matches!(url.scheme(), "http" | "https") && short).then(|| url.to_string())
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        if let Some((from, text)) = &mut self.link {
            text.push_str(line.get(*from..).unwrap_or_default());
            text.push(' ');
            *from = 0;
        }
        let text = if self.verbatim > 0 { line.trim_end() } else { line.trim() };
        if text.trim().is_empty() {
            return;
        }
        let prefix = std::mem::take(&mut self.prefix);
        let block = Block {
            text: format!("{prefix}{text}"),
            joins: self.rows > 0 || !self.lists.is_empty(),
            heading: std::mem::take(&mut self.heading),
        };
        self.said.blocks.push(block);
    }
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "address"
            | "article"
            | "aside"
            | "blockquote"
            | "body"
            | "caption"
            | "center"
            | "dd"
            | "details"
            | "dialog"
            | "div"
            | "dl"
            | "dt"
            | "fieldset"
            | "figcaption"
            | "figure"
            | "footer"
            | "form"
            | "header"
            | "hr"
            | "main"
            | "nav"
            | "p"
            | "section"
            | "summary"
            | "table"
            | "tbody"
            | "thead"
            | "tfoot"
    )
}
