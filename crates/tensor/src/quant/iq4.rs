//! IQ4_NL: blocks of 32 with one scale and 16 levels that are not evenly spaced.
//!
//! Bytes: `d: f16, q: [4 bit; 32]`; the value of level `q` is `d * VALUES[q]`.

use super::bits::unpack;
use super::scale_at;

/// The sixteen levels (`kvalues_iq4nl` of ggml): denser near zero, where weights are.
pub const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn read_iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 0);
    let mut levels = [0; 32];
    unpack::<4, 16>(&block[2..18], &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = d * VALUES[level as usize] as f32;
    }
}
