//! Text from outside, made safe to show.
//!
//! The key decision: one function for the terminal, for cards that people confirm and for whatever else prints what
//! a model, a page or a file says. What a terminal would obey is written out; what nobody could see is left out.

/// The text with nothing in it that a terminal obeys or that hides or reorders what is shown: control characters
/// (escape sequences and OSC 8 links begin with one) are written as escapes, directional controls, tag
/// characters and zero-width characters are left out. Lines and tabs stay. Joiners stay between characters beyond
/// ASCII, where scripts and emoji need them.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    for char in text.chars() {
        match char {
            '\n' | '\t' => out.push(char),
            '\u{200c}' | '\u{200d}' if before.is_some_and(|char: char| !char.is_ascii()) => {
                out.push(char);
            }
            char if is_hidden(char) => continue,
            char if char.is_control() => out.extend(char.escape_default()),
            char => out.push(char),
        }
        before = Some(char);
    }
    out
}

/// Whether a character is shown as nothing, or changes the order in which others are shown.
pub fn is_hidden(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_obeyed_hidden_or_turned_round() {
        for (text, shown) in [
            ("plain 玉山 \u{1f1f9}\u{1f1fc}\n\tü", "plain 玉山 \u{1f1f9}\u{1f1fc}\n\tü"),
            ("\u{1b}[2J\r", "\\u{1b}[2J\\r"),
            (
                "\u{1b}]8;;http://evil\u{1b}\\a\u{1b}]8;;\u{7}",
                "\\u{1b}]8;;http://evil\\u{1b}\\a\\u{1b}]8;;\\u{7}",
            ),
            ("\u{9b}1m\u{9d}", "\\u{9b}1m\\u{9d}"),
            ("a\u{202e}b\u{2066}c\u{200f}", "abc"),
            ("pay\u{200b}\u{2060}\u{feff}pal\u{ad}", "paypal"),
            ("x\u{e0041}\u{e007f}y", "xy"),
            ("a\u{200d}b \u{200c}", "ab "),
            (
                "\u{1f469}\u{200d}\u{1f4bb} می\u{200c}خواهم",
                "\u{1f469}\u{200d}\u{1f4bb} می\u{200c}خواهم",
            ),
        ] {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(&printable(text)), printable(text));
        }
    }
}
