//! SHA-256 as the journal and the contents use it: 32 bytes, or 64 digits of lower-case hexadecimal.
//!
//! The key decision: one form of the name. Capitals are refused, so two names never mean one
//! content, and nothing that is not a digest ever becomes part of a path.

use sha2::{Digest, Sha256};
use yushan_abi::DiskError;

/// A digest.
pub(crate) type Hash = [u8; 32];

/// The digest of these parts, one behind the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Refuses what is not the name of a content.
pub(crate) fn check_name(sha256: &str) -> Result<(), DiskError> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if sha256.len() == 64 && sha256.bytes().all(is_digit) {
        return Ok(());
    }
    let shown: String = sha256.chars().take(80).collect();
    Err(DiskError::Failed(format!(
        "{shown:?} is not the name of a content; expected a SHA-256, 64 digits of lower-case \
         hexadecimal"
    )))
}
