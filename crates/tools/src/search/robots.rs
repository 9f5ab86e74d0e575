//! `robots.txt` (RFC 9309): what a site lets a crawler read.

/// Bytes that are read, as the RFC demands at least.
const LONGEST: usize = 500 * 1024;

/// The rules for one crawler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Robots {
    /// Whether it allows, and the pattern.
    rules: Vec<(bool, String)>,
}

impl Robots {
    /// Reads the rules for a crawler by its name; those for `*` if none are for it.
    pub fn parse(text: &str, crawler: &str) -> Robots {
        let text = text.char_indices().nth(LONGEST).map_or(text, |(at, _)| &text[..at]);
        let crawler = crawler.to_ascii_lowercase();
        let (mut mine, mut all) = (None::<Vec<_>>, Vec::new());
        // Whether the group at hand is for us, and for all; and whether its rules have begun.
        let (mut us, mut everybody, mut begun) = (false, false, false);
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((key, value)) = line.split_once(':') else { continue };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            match key.as_str() {
                "user-agent" => {
                    if std::mem::take(&mut begun) {
                        (us, everybody) = (false, false);
                    }
                    let name = value.split(['/', ' ']).next().unwrap_or_default();
                    us |= name.eq_ignore_ascii_case(&crawler);
                    everybody |= name == "*";
                    if us {
                        mine.get_or_insert_with(Vec::new);
                    }
                }
                "allow" | "disallow" => {
                    begun = true;
                    // An empty rule says nothing.
                    if value.is_empty() {
                        continue;
                    }
                    let rule = (key == "allow", normal(value));
                    if let Some(mine) = mine.as_mut().filter(|_| us) {
                        mine.push(rule.clone());
                    }
                    if everybody {
                        all.push(rule);
                    }
                }
                _ => {}
            }
        }
        Robots { rules: mine.unwrap_or(all) }
    }

    /// Whether a path, with its query, may be read: the longest rule that fits decides, `Allow` if two are as long.
    pub fn allows(&self, path: &str) -> bool {
        let path = normal(path);
        let fitting = self.rules.iter().filter(|(_, pattern)| fits(pattern, &path));
        let best = fitting.max_by_key(|(allows, pattern)| (pattern.len(), *allows));
        path == "/robots.txt" || best.is_none_or(|(allows, _)| *allows)
    }
}

/// Escapes in one form: upper case, and what need not be escaped is not.
fn normal(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = (byte == b'%').then(|| bytes.escaped()).flatten();
        match hex {
            Some(code) => {
                bytes.next();
                bytes.next();
                if code.is_ascii_alphanumeric() || b"-._~".contains(&code) {
                    out.push(char::from(code));
                } else {
                    out.push_str(&format!("%{code:02X}"));
                }
            }
            None if byte.is_ascii() => out.push(char::from(byte)),
            None => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The next two bytes as a number in hexadecimal, without taking them.
trait Peek {
    fn escaped(&self) -> Option<u8>;
}

impl Peek for std::str::Bytes<'_> {
    fn escaped(&self) -> Option<u8> {
        let mut ahead = self.clone();
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(ahead.next())?, digit(ahead.next())?);
        u8::try_from(high * 16 + low).ok()
    }
}

/// Whether a pattern fits the beginning of a path: `*` is anything, `$` at the end is the end. Takes time in proportion
/// to the product of the lengths at most, since each star is tried from where the last one stood.
fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, whole) = match pattern.strip_suffix('$') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    for (i, piece) in pieces.iter().enumerate() {
        if whole && i + 1 == pieces.len() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    !whole || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_the_rfc_says() {
        for (text, path, expected) in [
            ("", "/x", true),
            ("User-agent: *\nDisallow: /", "/x", false),
            ("User-agent: *\nDisallow: /", "/robots.txt", true),
            ("User-agent: *\nDisallow:", "/x", true),
            ("user-agent : *\n disallow : /a # why", "/a/b", false),
            ("User-agent: other\nDisallow: /", "/x", true),
            ("User-agent: YUSHAN\nDisallow: /\n\nUser-agent: *\nAllow: /", "/x", false),
            ("User-agent: *\nDisallow: /\nUser-agent: yushan/1.0\nDisallow: /private", "/x", true),
            ("User-agent: *\nDisallow: /\nUser-agent: yushan\n", "/x", true),
            (
                "User-agent: a\nUser-agent: yushan\nDisallow: /x\nUser-agent: b\nDisallow: /",
                "/y",
                true,
            ),
            ("User-agent: a\nUser-agent: yushan\nDisallow: /x", "/xy", false),
            ("User-agent: yushan\nDisallow: /a\n\nUser-agent: yushan\nDisallow: /b", "/b", false),
            ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", true),
            ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/c", false),
            ("User-agent: *\nDisallow: /page\nAllow: /page", "/page", true),
            ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif", false),
            ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?z", true),
            ("User-agent: *\nDisallow: /a*b*c", "/a-b-c-d", false),
            ("User-agent: *\nDisallow: /a*b*c", "/a-c-b", true),
            ("User-agent: *\nDisallow: /$", "/", false),
            ("User-agent: *\nDisallow: /$", "/a", true),
            ("User-agent: *\nDisallow: /a%3cd.html", "/a%3Cd.html", false),
            ("User-agent: *\nDisallow: /%7Ejoe/", "/~joe/index", false),
            ("User-agent: *\nDisallow: /山", "/%E5%B1%B1/x", false),
            ("User-agent: *\nDisallow: /a%2", "/a%2", false),
            ("\u{feff}User-agent: *\r\nDisallow: /x\r\n", "/x", false),
            ("Disallow: /", "/x", true),
            ("nonsense\n:\n::\nUser-agent: *\nDisallow: /x", "/x", false),
        ] {
            assert_eq!(Robots::parse(text, "Yushan").allows(path), expected, "{text:?} {path}");
        }
        let stars = format!("User-agent: *\nDisallow: /{}x", "*a".repeat(20_000));
        assert!(Robots::parse(&stars, "Yushan").allows(&format!("/{}", "a".repeat(8000))));
    }
}
