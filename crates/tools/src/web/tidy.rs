//! A page of any form made into one of bounded form: in one pass, in time and space proportional to its length.
//!
//! The key decision: the parser of HTML behind this follows the standard, in which some inputs take time that grows
//! with the square of their length (a million nested or never closed elements, a million attributes). So what it gets
//! is balanced, of limited depth and number of elements, and has the attributes that reading needs, no others. What nobody
//! would see in a browser is left out on the way: scripts, styles, comments, hidden elements.
//!
//! This is no sanitizer: what comes out is parsed again and only its text is used.

use std::collections::HashMap;

use html_escape::decode_html_entities;

/// Elements; more are left out, and that is said.
pub(super) const ELEMENTS: usize = 60_000;
/// Open elements; in deeper ones the text is kept and the tags are not.
pub(crate) const DEPTH: usize = 120;
/// Attributes of an element that are looked at.
const ATTRIBUTES: usize = 32;
/// Bytes of an attribute's value; longer ones are left out.
const VALUE: usize = 4096;

/// The attributes that reading needs.
const KEPT: [&str; 18] = [
    "alt",
    "class",
    "content",
    "datetime",
    "dir",
    "href",
    "id",
    "itemprop",
    "itemscope",
    "itemtype",
    "lang",
    "name",
    "property",
    "rel",
    "role",
    "src",
    "start",
    "title",
];
/// Elements without content.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
];
/// Of these, the ones that are kept.
const VOID_KEPT: [&str; 5] = ["base", "br", "hr", "img", "meta"];
/// Elements whose content is not markup. Of these the title alone is kept.
const RAW: [&str; 9] =
    ["iframe", "noembed", "noframes", "plaintext", "script", "style", "textarea", "title", "xmp"];
/// Elements that nobody reads.
const UNSEEN: [&str; 8] =
    ["template", "svg", "canvas", "object", "audio", "video", "select", "datalist"];
/// Elements that end a paragraph.
const BLOCKS: [&str; 33] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "center",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "main",
    "menu",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "ul",
];
/// What begins ends what is still open of these, as far as the first of those.
const IMPLIED: [(&str, &[&str], &[&str]); 9] = [
    ("li", &["li"], &["ul", "ol", "menu"]),
    ("dt", &["dt", "dd"], &["dl"]),
    ("dd", &["dt", "dd"], &["dl"]),
    ("tr", &["tr"], &["table"]),
    ("td", &["td", "th"], &["tr", "table"]),
    ("th", &["td", "th"], &["tr", "table"]),
    ("tbody", &["thead", "tbody"], &["table"]),
    ("tfoot", &["thead", "tbody"], &["table"]),
    ("option", &["option"], &["select"]),
];
/// A paragraph in one of these is another one.
const SCOPES: [&str; 8] = ["td", "th", "li", "table", "dd", "button", "caption", "object"];

/// What stands for `<` and `&` of the text: the parser behind this takes time that grows with the square of the number
/// of character references, so it gets none. [`super::text::seen`] puts them back.
pub(super) const STANDS_FOR: [(char, char); 2] = [('<', '\u{e000}'), ('&', '\u{e001}')];

/// A page of bounded form.
pub(crate) struct Tidy {
    /// Balanced.
    pub(crate) html: String,
    /// Of it.
    pub(crate) elements: usize,
    /// Whether there were more elements than are read.
    pub(crate) cut: bool,
    /// Whether elements lay too deep: their text is there.
    pub(crate) flattened: bool,
}

/// Makes one whose text has no character references.
pub(super) fn tidy(html: &str) -> Tidy {
    made(html, ELEMENTS, true)
}

/// Makes one of at most so many elements, whose text is as it was written: for a parser that reads character references in time
/// proportional to their number.
pub(crate) fn balanced(html: &str, elements: usize) -> Tidy {
    made(html, elements, false)
}

fn made(html: &str, elements: usize, decodes: bool) -> Tidy {
    let mut pass = Pass {
        rest: html,
        out: String::with_capacity(html.len()),
        open: Vec::new(),
        unseen: None,
        deeper: HashMap::new(),
        elements: 0,
        decodes,
    };
    while !pass.rest.is_empty() && pass.elements < elements {
        pass.step();
    }
    let cut = !pass.rest.is_empty();
    pass.close_to(0);
    let flattened = !pass.deeper.is_empty();
    Tidy { html: pass.out, elements: pass.elements, cut, flattened }
}

struct Pass<'a> {
    rest: &'a str,
    out: String,
    open: Vec<String>,
    /// The place in `open` of the element that nobody sees.
    unseen: Option<usize>,
    /// How many of each name were too deep to be opened.
    deeper: HashMap<String, usize>,
    elements: usize,
    /// Whether character references are replaced by what they mean.
    decodes: bool,
}

impl<'a> Pass<'a> {
    fn step(&mut self) {
        let Some(at) = self.rest.find('<') else {
            let all = std::mem::take(&mut self.rest);
            return self.text(all);
        };
        let (text, rest) = self.rest.split_at(at);
        self.text(text);
        self.rest = &rest[1..];
        match self.rest.as_bytes().first() {
            Some(b'!') if self.rest.starts_with("!--") => self.skip_behind("-->"),
            Some(b'!' | b'?') => self.skip_behind(">"),
            Some(b'/') if self.rest[1..].starts_with(|c: char| c.is_ascii_alphabetic()) => {
                self.rest = &self.rest[1..];
                let name = self.name();
                self.skip_behind(">");
                self.end(&name);
            }
            Some(b'/') => self.skip_behind(">"),
            Some(c) if c.is_ascii_alphabetic() => self.start(),
            _ => self.text("<"),
        }
    }

    fn text(&mut self, text: &str) {
        if self.unseen.is_some() {
            return;
        }
        if self.decodes {
            for letter in decode_html_entities(text).chars() {
                match letter {
                    '<' => self.out.push(STANDS_FOR[0].1),
                    '&' => self.out.push(STANDS_FOR[1].1),
                    '\u{e000}'..='\u{f8ff}' | '\0' => {}
                    _ => self.out.push(letter),
                }
            }
        } else {
            self.out.push_str(&text.replace('<', "&lt;"));
        }
    }

    fn skip_behind(&mut self, end: &str) {
        self.rest = self.rest.find(end).map_or("", |at| &self.rest[at + end.len()..]);
    }

    fn name(&mut self) -> String {
        let ends = |c: char| c.is_ascii_whitespace() || c == '/' || c == '>';
        let (name, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        // Longer names are nobody's.
        name.chars().take(32).collect::<String>().to_ascii_lowercase()
    }

    fn start(&mut self) {
        let name = self.name();
        let (attributes, hidden) = self.attributes();
        if VOID.contains(&name.as_str()) {
            if VOID_KEPT.contains(&name.as_str()) && !hidden {
                self.close_implied(&name);
                self.tag(&name, &attributes);
            }
            return;
        }
        if RAW.contains(&name.as_str()) {
            return self.raw(&name);
        }
        self.close_implied(&name);
        if self.open.len() >= DEPTH {
            *self.deeper.entry(name).or_default() += 1;
            return;
        }
        if self.unseen.is_none() && (hidden || UNSEEN.contains(&name.as_str())) {
            self.unseen = Some(self.open.len());
        }
        // What stands there for browsers without scripts is for us.
        let shown = if name == "noscript" { "div" } else { &name };
        if is_plain(shown) {
            self.tag(shown, &attributes);
        }
        self.open.push(shown.to_string());
    }

    fn tag(&mut self, name: &str, attributes: &[(&'static str, &str)]) {
        if self.unseen.is_some() {
            return;
        }
        self.elements += 1;
        self.out.push('<');
        self.out.push_str(name);
        for (key, value) in attributes {
            self.out.push(' ');
            self.out.push_str(key);
            self.out.push_str("=\"");
            self.out.push_str(&value.replace('"', "&quot;"));
            self.out.push('"');
        }
        self.out.push('>');
    }

    /// Those that are kept, and whether they hide the element. Behind the `>`.
    fn attributes(&mut self) -> (Vec<(&'static str, &'a str)>, bool) {
        let mut kept: Vec<(&'static str, &'a str)> = Vec::new();
        let (mut hidden, mut seen) = (false, 0);
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
            if self.rest.is_empty() {
                return (kept, hidden);
            }
            if let Some(rest) = self.rest.strip_prefix('>') {
                self.rest = rest;
                return (kept, hidden);
            }
            let (key, value) = self.attribute();
            seen += 1;
            if seen > ATTRIBUTES || key.len() > 32 {
                continue;
            }
            let key = key.to_ascii_lowercase();
            hidden |= hides(&key, value);
            let known = KEPT.into_iter().find(|known| *known == key);
            if let Some(key) = known.filter(|_| value.len() <= VALUE)
                && kept.iter().all(|(other, _)| *other != key)
            {
                kept.push((key, value));
            }
        }
    }

    fn attribute(&mut self) -> (&'a str, &'a str) {
        // A name may begin with `=`, so that there is progress.
        let ends = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '=');
        let first = self.rest.chars().next().map_or(0, char::len_utf8);
        let end = self.rest[first..].find(ends).map_or(self.rest.len(), |at| at + first);
        let (key, rest) = self.rest.split_at(end);
        self.rest = rest.trim_ascii_start();
        let Some(rest) = self.rest.strip_prefix('=') else { return (key, "") };
        let rest = rest.trim_ascii_start();
        for quote in ['"', '\''] {
            if let Some(rest) = rest.strip_prefix(quote) {
                let (value, rest) = rest.split_once(quote).unwrap_or((rest, ""));
                self.rest = rest;
                return (key, value);
            }
        }
        let ends = |c: char| c.is_ascii_whitespace() || c == '>';
        let (value, rest) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        self.rest = rest;
        (key, value)
    }

    /// An element whose content is no markup, with its end.
    fn raw(&mut self, name: &str) {
        let mut from = 0;
        let (content, rest) = loop {
            let Some(at) = self.rest[from..].find("</").map(|at| at + from) else {
                break (self.rest, "");
            };
            let behind = &self.rest.as_bytes()[at + 2..];
            let named = behind.get(..name.len());
            let ends = behind.get(name.len()).is_none_or(|c| !c.is_ascii_alphanumeric());
            if named.is_some_and(|named| named.eq_ignore_ascii_case(name.as_bytes())) && ends {
                break (&self.rest[..at], &self.rest[at..]);
            }
            from = at + 2;
        };
        self.rest = rest;
        self.skip_behind(">");
        if name == "title" && self.unseen.is_none() {
            self.out.push_str("<title>");
            self.text(content);
            self.out.push_str("</title>");
        }
    }

    fn end(&mut self, name: &str) {
        if let Some(count) = self.deeper.get_mut(name).filter(|count| **count > 0) {
            *count -= 1;
            return;
        }
        let name = if name == "noscript" { "div" } else { name };
        if let Some(at) = self.open.iter().rposition(|open| open == name) {
            self.close_to(at);
        }
    }

    fn close_to(&mut self, at: usize) {
        while self.open.len() > at {
            let Some(name) = self.open.pop() else { return };
            if self.unseen.is_none() && is_plain(&name) {
                self.out.push_str("</");
                self.out.push_str(&name);
                self.out.push('>');
            }
            if self.unseen.is_some_and(|unseen| unseen >= self.open.len()) {
                self.unseen = None;
            }
        }
    }

    /// Ends what the beginning of `name` ends.
    fn close_implied(&mut self, name: &str) {
        if BLOCKS.contains(&name) {
            self.close_nearest(&["p"], &SCOPES);
        }
        if let Some((_, ended, scopes)) = IMPLIED.iter().find(|(begun, ..)| *begun == name) {
            self.close_nearest(ended, scopes);
        }
    }

    fn close_nearest(&mut self, names: &[&str], scopes: &[&str]) {
        for at in (0..self.open.len()).rev() {
            let open = self.open[at].as_str();
            if names.contains(&open) {
                return self.close_to(at);
            }
            if scopes.contains(&open) {
                return;
            }
        }
    }
}

/// Names of other forms are kept on the stack and not written.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

/// Whether an attribute takes its element out of sight.
fn hides(key: &str, value: &str) -> bool {
    if key == "hidden" {
        return true;
    }
    if key != "style" || value.len() > VALUE {
        return false;
    }
    let style: String =
        value.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    style.split(';').any(|rule| {
        let Some((key, value)) = rule.split_once(':') else { return false };
        let value = value.trim_end_matches("!important");
        // The leading number, without its unit.
        let end = value.find(|c: char| !matches!(c, '0'..='9' | '.' | '-')).unwrap_or(value.len());
        let number = value[..end].parse::<f32>().ok();
        match key {
            "display" => value == "none",
            "visibility" => matches!(value, "hidden" | "collapse"),
            "font-size" => {
                number.is_some_and(|n| n < 2.0 && !value.contains("em")) || number == Some(0.0)
            }
            "opacity" => number.is_some_and(|n| n < 0.05),
            "text-indent" | "left" | "top" | "margin-left" => number.is_some_and(|n| n <= -500.0),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_balanced_and_lose_what_nobody_sees() {
        for (page, expected) in [
            ("<p>a<p>b", "<p>a</p><p>b</p>"),
            (
                "<ul><li>a<li>b<ul><li>c</ul></ul>",
                "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>",
            ),
            ("<b><i>x</b>y</i>", "<b><i>x</i></b>y"),
            (
                "<TABLE><tr><td>1<td>2<tr><td>3</table>",
                "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>",
            ),
            ("a<!-- x > y -->b<!DOCTYPE z>c<?php d?>e", "abce"),
            ("&eacute;&#x41;&#66;&nothing;&amp;lt;\u{e000}", "éAB&amp;nothing;&amp;lt;"),
            ("1 < 2 && 3 <4", "1 &lt; 2 &amp;&amp; 3 &lt;4"),
            ("<script>if (a</b) x('</scripty>')</SCRIPT >z", "z"),
            ("<title>a<b</title>", "<title>a&lt;b</title>"),
            ("<div style='DISPLAY : none !important'>x<p>y</p></div>z", "z"),
            (
                "<p hidden>x</p>y<span style='font-size:1px'>z</span><span style=\"font-size:1em\">w</span>",
                "y<span>w</span>",
            ),
            ("<p style='position:absolute;left:-9999px'>x</p>y", "y"),
            ("<template><p>x</p></template><svg><path/><text>q</text></svg>y", "y"),
            ("<noscript><p>x</noscript>y", "<div><p>x</p></div>y"),
            (
                "<a href=/x?a=1&b=2 onclick='y()' title='\"q\"'>z</a>",
                "<a href=\"/x?a=1&b=2\" title=\"&quot;q&quot;\">z</a>",
            ),
            ("<a href='x' href='y' =z ==/ \u{7389}>t", "<a href=\"x\">t</a>"),
            (
                "<img src=a.png alt=b/><br/>c</br></p></nothing>",
                "<img src=\"a.png\" alt=\"b/\"><br>c",
            ),
            ("x<a href='never closed", "x<a href=\"never closed\"></a>"),
            ("x</", "x"),
            ("x<", "x&lt;"),
            ("x<!--", "x"),
        ] {
            let tidied = tidy(page);
            assert!(!tidied.cut);
            let html = tidied.html.replace('\u{e000}', "&lt;").replace('\u{e001}', "&amp;");
            assert_eq!(html, expected, "{page}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded_and_the_text_stays() {
        let deep = format!("{}x{}y", "<div>".repeat(50_000), "</div>".repeat(50_000));
        let tidied = tidy(&deep);
        assert_eq!(tidied.html.matches("<div>").count(), DEPTH);
        assert!(!tidied.cut && tidied.html.ends_with("</div>y"));
        let many = tidy(&"<b>x</b>".repeat(1_000_000));
        assert!(many.cut);
        assert_eq!(many.html.matches("<b>").count(), ELEMENTS);
        let huge = format!("<p class='{}' {}>x", "c".repeat(1 << 20), "a=b ".repeat(1 << 18));
        assert_eq!(tidy(&huge).html, "<p>x</p>");
    }
}
