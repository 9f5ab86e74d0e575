//! What text from outside looks like before a model reads it.

use super::tidy::STANDS_FOR;

/// Text without what nobody sees: control, zero-width, direction and tag characters, fillers, variation selectors and
/// private ones. Words in scripts that need joiners keep them. Our own marks, `[span` and `[link`, cannot be imitated.
pub fn seen(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let joins = matches!(letter, '\u{200c}' | '\u{200d}')
            && out.chars().next_back().is_some_and(needs_joiners)
            && letters.peek().copied().is_some_and(needs_joiners);
        match letter {
            '\r' if letters.peek() != Some(&'\n') => out.push('\n'),
            '\n' | '\t' => out.push(letter),
            _ if stood_for(letter).is_some() => out.extend(stood_for(letter)),
            _ if joins || !is_unseen(letter) => out.push(letter),
            _ => {}
        }
    }
    for mark in ["[span", "[link"] {
        if out.contains(mark) {
            out = out.replace(mark, &mark.replace('[', "("));
        }
    }
    out
}

/// What a character stands for since [`super::tidy`].
fn stood_for(letter: char) -> Option<char> {
    STANDS_FOR.into_iter().find(|(_, stand)| *stand == letter).map(|(letter, _)| letter)
}

/// Arabic and the scripts of India, and pictures made of several.
fn needs_joiners(letter: char) -> bool {
    matches!(letter, '\u{600}'..='\u{dff}' | '\u{2600}'..='\u{27bf}' | '\u{1f300}'..='\u{1faff}')
}

/// Unicode's default-ignorable characters, controls, and private use.
fn is_unseen(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

/// The first characters, and a mark if there were more.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

/// Pieces of at most `most` characters, cut behind sentences where that is possible.
pub(super) fn pieces(text: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((hard, _)) = rest.char_indices().nth(most) {
        let front = &rest[..hard];
        let sentence = front
            .rfind(['。', '！', '？', '；', '\n'])
            .map(|at| at + front[at..].chars().next().map_or(0, char::len_utf8));
        let english = [". ", "! ", "? ", "; "].iter().filter_map(|end| front.rfind(end)).max();
        let behind = sentence.max(english.map(|at| at + 2)).filter(|at| *at > hard / 3);
        let behind = behind.or_else(|| front.rfind(' ').map(|at| at + 1)).filter(|at| *at > 0);
        let (piece, next) = rest.split_at(behind.unwrap_or(hard));
        pieces.push(piece.trim_end());
        rest = next;
    }
    pieces.push(rest);
    pieces.retain(|piece| !piece.trim().is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unseen_stays() {
        for (text, expected) in [
            ("a\u{200b}b\u{feff}c\u{202e}d\u{2066}e\u{ad}f", "abcdef"),
            ("x\u{e0049}\u{e0067}\u{e006e}y\u{e0101}\u{fe0f}z", "xyz"),
            ("a\u{1b}[31mb\u{7}\u{0}\u{9b}c", "a[31mbc"),
            ("a\r\nb\rc\td\u{2028}e", "a\nb\nc\tde"),
            ("a\u{200d}b, \u{3164}\u{115f}c", "ab, c"),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            ("\u{1f469}\u{200d}\u{1f4bb}", "\u{1f469}\u{200d}\u{1f4bb}"),
            ("[span 3] [link 4] [12]", "(span 3] (link 4] [12]"),
            ("[\u{200b}span 3]", "(span 3]"),
            ("玉山 Élève ½", "玉山 Élève ½"),
        ] {
            assert_eq!(seen(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pieces_end_behind_sentences_and_lose_nothing() {
        let text = "One sentence. Another one! 第三句。第四句。 And averyveryveryveryverylongword.";
        for most in 5..60 {
            let cut = pieces(text, most);
            assert!(cut.iter().all(|piece| piece.chars().count() <= most), "{most}: {cut:?}");
            let join = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(join(&cut.concat()), join(text), "{most}");
        }
        assert_eq!(pieces(text, 28)[0], "One sentence. Another one!");
    }
}
