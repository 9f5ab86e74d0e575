//! The alphabet of byte-level BPE (GPT-2, Radford et al. 2019): every byte is written as one
//! printable character, so that vocabularies can be stored as text.
//!
//! The map: `!`–`~`, `¡`–`¬` and `®`–`ÿ` stand for themselves, the other 68 bytes in order for
//! U+0100 to U+0143.

/// The character that stands for `byte`.
pub(super) fn char_of(byte: u8) -> char {
    CHAR_OF[byte as usize]
}

/// The byte that `character` stands for.
#[inline]
pub(super) fn byte_of(character: char) -> Option<u8> {
    match BYTE_OF.get(character as usize) {
        Some(&byte) if byte < 256 => Some(byte as u8),
        _ => None,
    }
}

/// Appends the bytes that `text` stands for. Text that holds a character outside the alphabet
/// (added tokens are stored as they are) is appended unchanged, and `false` returned.
pub(super) fn decode_into(text: &str, bytes: &mut Vec<u8>) -> bool {
    let start = bytes.len();
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(text.as_bytes());
                return false;
            }
        }
    }
    true
}

/// How `bytes` are written in this alphabet.
pub(super) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char_of(byte)).collect()
}

const fn stands_for_itself(byte: usize) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const CHAR_OF: [char; 256] = {
    let mut table = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100u32);
    while byte < 256 {
        if stands_for_itself(byte) {
            table[byte] = byte as u8 as char;
        } else {
            // U+0100..=U+0143 are all characters.
            table[byte] = match char::from_u32(next) {
                Some(character) => character,
                None => '\0',
            };
            next += 1;
        }
        byte += 1;
    }
    table
};

/// Inverse of [`CHAR_OF`]; 256 where a character stands for nothing.
const BYTE_OF: [u16; 0x144] = {
    let mut table = [256u16; 0x144];
    let mut byte = 0;
    while byte < 256 {
        table[CHAR_OF[byte] as usize] = byte as u16;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips_and_known_characters_agree() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xad)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(byte_of('\u{144}'), None);
        let mut bytes = Vec::new();
        assert!(!decode_into("a b", &mut bytes));
        assert_eq!(bytes, b"a b");
    }
}
