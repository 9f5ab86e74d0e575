use std::io::Write;

use proptest::prelude::*;

use super::*;

fn url() -> Url {
    Url::parse("https://example.org/dir/page.html").unwrap()
}

/// An article long enough to be one.
fn article() -> String {
    let paragraph =
        "Yushan is the highest mountain of the island, and many people climb it every year. "
            .repeat(6);
    format!(
        "<html><head><title>Yushan | The Site</title><meta name=author content='A. Writer'></head><body>\
         <nav><ul><li><a href=/>Home</a><li><a href=/login>Log in</a></ul></nav>\
         <article><h1>Yushan</h1><p>{paragraph}</p><p>See <a href='more.html?x=1&amp;y=2#top'>the route</a> and \
         <a href='https://other.example/'>another page</a>.</p><h2>Heights</h2><table><tr><th>Peak<th>Metres\
         <tr><td>Main<td>3952<tr><td>East<td>3869</table><ol start=3><li>pack<li>climb<ul><li>slowly</ul></ol>\
         <pre>  a\n    b</pre><blockquote>It is cold.</blockquote><img src=x.png alt='the summit'><p>{paragraph}</p>\
         </article><footer>Imprint</footer></body></html>"
    )
}

#[test]
fn an_article_becomes_numbered_text() {
    let page = read(article().as_bytes(), "text/html", None, &url(), false).unwrap();
    assert_eq!(page.title, "Yushan | The Site");
    let text = page.text();
    for expected in [
        "See the route [link 1] and another page [link 2].",
        "Peak | Metres\nMain | 3952\nEast | 3869",
        "3. pack\n4. climb\n  - slowly",
        "  a\n    b",
        "> It is cold.",
        "[image: the summit]",
        "## Heights",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for absent in ["Home", "Log in", "Imprint"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    assert_eq!(page.links[0].url, "https://example.org/dir/more.html?x=1&y=2#top");
    assert_eq!(page.links[0].text, "the route");
    assert!(page.notes[0].starts_with("This is the main text: "), "{:?}", page.notes);
    let whole = read(article().as_bytes(), "text/html", None, &url(), true).unwrap();
    let text = whole.text();
    for expected in ["Home [link 1]", "Log in [link 2]", "Imprint", "3. pack"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(whole.notes, Vec::<String>::new());
}

#[test]
fn short_pages_come_whole() {
    for (html, expected) in [
        ("<p>one<p>two", vec!["one", "two"]),
        ("<title>T</title>plain", vec!["plain"]),
        ("<base href='http://b.example/x/'><a href=y>z</a>", vec!["z [link 1]"]),
        (
            "<a href='javascript:x()'>a</a> <a href='#top'>b</a> <a href=mailto:x@y>c</a>",
            vec!["a b c"],
        ),
        ("<a href=/x><div>block</div></a>after", vec!["block [link 1]", "after"]),
        ("<a href=/x>a</a><a href=/x>b</a>", vec!["a [link 1]b [link 1]"]),
        ("a<br>b &amp; &lt;c&gt; &#x4e2d;", vec!["a\nb & <c> 中"]),
        ("<div>a<span> b </span>c</div>", vec!["a b c"]),
        ("<p>x\u{200b}\u{e0041}y [span 7] [link 9]", vec!["xy (span 7] (link 9]"]),
        ("<p style='display:none'>hidden<p>seen", vec!["seen"]),
        ("<ul><li>a<li>b</ul>", vec!["- a\n- b"]),
    ] {
        let page = read(html.as_bytes(), "text/html", None, &url(), false).unwrap();
        assert_eq!(page.spans, expected, "{html}");
    }
    let page =
        read(b"<base href='http://b.example/x/'><a href=y>z</a>", "text/html", None, &url(), false);
    assert_eq!(page.unwrap().links[0].url, "http://b.example/x/y");
}

#[test]
fn other_texts_are_taken_as_they_are() {
    let page = |body: &[u8], media_type| read(body, media_type, None, &url(), false);
    assert_eq!(page(b"a\r\n\r\nb\nc\n", "text/plain").unwrap().spans, ["a", "b\nc"]);
    assert_eq!(page(b"{\"a\": 1}", "application/json").unwrap().spans, ["{\"a\": 1}"]);
    assert_eq!(page(b"<rss>x</rss>", "application/rss+xml").unwrap().spans, ["<rss>x</rss>"]);
    assert_eq!(page(b"<!DOCTYPE html><p>x", "").unwrap().spans, ["x"]);
    assert_eq!(
        page(b"%PDF-1.7", "application/pdf"),
        Err(NotAPage::Type("application/pdf".into(), 8))
    );
    assert_eq!(page(b"\x89PNG", "image/png"), Err(NotAPage::Type("image/png".into(), 4)));
    assert_eq!(page(&[0, 1, 2, 0, 0, 255], "text/html"), Err(NotAPage::Binary(6)));
    assert_eq!(page(&[0; 100], "text/plain"), Err(NotAPage::Binary(100)));
    assert_eq!(page(b"", "text/html"), Err(NotAPage::Empty));
    assert_eq!(page(b"<script>x()</script>", "text/html"), Err(NotAPage::Empty));
}

#[test]
fn long_texts_lose_nothing_and_what_is_left_out_is_said() {
    let sentence = "This is a sentence of a long text that has no paragraphs at all. ";
    let text = sentence.repeat(1000);
    let page = plain(&text);
    assert!(page.spans.iter().all(|span| span.chars().count() <= SPAN && span.ends_with('.')));
    assert_eq!(page.spans.join(" "), text.trim_end());
    let page = plain(&format!("{}\n\nmore", "x".repeat(1000) + &"\n\nyyyy".repeat(500_000)));
    assert_eq!(
        page.notes,
        ["Only the first 2000000 characters of the text were read; it has more."]
    );
    let page = html(&"<p>x</p>".repeat(1_000_000), &url(), false);
    // The last one that was begun has no text any more.
    assert_eq!(page.spans.len(), ELEMENTS - 1);
    assert_eq!(
        page.notes.last().unwrap(),
        "Only the first 60000 elements of the page were read; it has more."
    );
}

/// Pages made to make readers slow or to break them.
#[test]
fn hostile_pages_are_read_in_bounded_time() {
    let n = 100_000;
    let deep = "<div>".repeat(n);
    for html in [
        format!("{deep}text"),
        format!("{}text", "<div><p>".repeat(n)),
        format!("{}text", "<b><i><a href=x>".repeat(n)),
        format!("{}text", "<table><tr><td>".repeat(n)),
        format!("<p>text<a {}>", "x ".repeat(n)),
        format!("<p>text<a title='{}'>", "&amp;".repeat(n)),
        format!("<p>text{}", "</b>".repeat(n)),
        format!("<p>text{}", "<!--".repeat(n)),
        format!("<p>text{}", "<svg><title>".repeat(n)),
        format!("<p>text{}", "<form><select><option>".repeat(n)),
        format!("<p>text{}", "<a href=".repeat(n)),
        format!("<p>text{}", "&#xfffff;&notanentity".repeat(n)),
        format!("text{}", "<p class=article>,,,,,,,,,,".repeat(n)),
        format!("text{}", "<li><ul>".repeat(n)),
        format!("<p>text{}", "<br>".repeat(n)),
        format!("<p>text{}", "<img src=x alt=y>".repeat(n)),
        format!("<p>text<h1>{}", "<span>x</span>".repeat(n)),
    ] {
        let page = super::html(&html, &url(), false);
        let start: String = html.chars().take(40).collect();
        let said = page.notes.iter().any(|note| note.starts_with("Only the first"));
        assert!(said || page.text().contains("text"), "{start}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any soup of tags and text ends in a page, and what is plain text in it is not lost.
    #[test]
    fn any_soup_is_read(pieces in prop::collection::vec(prop_oneof![
        Just("<p>"), Just("</p>"), Just("<b>"), Just("</i>"), Just("<table>"), Just("<td>"), Just("</table>"),
        Just("<a href=/x>"), Just("</a>"), Just("<ul><li>"), Just("</ul>"), Just("<pre>"), Just("</pre>"), Just("<tr>"),
        Just("<select>"), Just("<!--x-->"), Just("<h1>"), Just("</h2>"), Just("&amp;"), Just("<"), Just("<a b='"),
        Just("<form>"), Just("<button>"), Just("<frameset>"), Just("<body>"), Just("<math><mi>"), Just("word "),
    ], 0..60), whole in any::<bool>()) {
        let html = pieces.concat();
        let page = super::html(&html, &url(), whole);
        prop_assert!(!page.notes.iter().any(|note| note.contains("taken apart")), "{html}");
        for span in &page.spans {
            prop_assert!(!span.trim().is_empty() && span.chars().count() <= SPAN);
        }
    }
}

#[test]
fn compressed_and_cut_bytes_are_no_text() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(article().as_bytes()).unwrap();
    let failed = read(&packed.finish().unwrap(), "text/html", Some("utf-8"), &url(), false);
    assert!(matches!(failed, Err(NotAPage::Binary(_))), "{failed:?}");
}
