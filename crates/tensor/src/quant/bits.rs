//! Levels of 1, 2 or 4 bits, packed into bytes the way every ggml block packs them.
//!
//! The key decision: one rule covers all of them. Bytes are taken in lanes of `WIDTH`; the lowest
//! `BITS` bits of a lane's bytes are the first `WIDTH` levels, the next higher bits are the next
//! `WIDTH` levels, and so on; then comes the next lane. So level `i` of a lane stands in byte
//! `i % WIDTH`, shifted left by `BITS * (i / WIDTH)`.

/// Writes the level of every element, `packed.len() * 8 / BITS` of them.
pub(crate) fn unpack<const BITS: usize, const WIDTH: usize>(packed: &[u8], levels: &mut [u8]) {
    let mask = (1u8 << BITS) - 1;
    let lanes = packed.chunks_exact(WIDTH).zip(levels.chunks_exact_mut(WIDTH * 8 / BITS));
    for (lane, levels) in lanes {
        for (place, levels) in levels.chunks_exact_mut(WIDTH).enumerate() {
            for (level, byte) in levels.iter_mut().zip(lane) {
                *level = byte >> (BITS * place) & mask;
            }
        }
    }
}

/// The inverse of [`unpack`]; bits of a level above the lowest `BITS` are left out.
pub(crate) fn pack<const BITS: usize, const WIDTH: usize>(levels: &[u8], packed: &mut [u8]) {
    let mask = (1u8 << BITS) - 1;
    let lanes = packed.chunks_exact_mut(WIDTH).zip(levels.chunks_exact(WIDTH * 8 / BITS));
    for (lane, levels) in lanes {
        lane.fill(0);
        for (place, levels) in levels.chunks_exact(WIDTH).enumerate() {
            for (byte, level) in lane.iter_mut().zip(levels) {
                *byte |= (level & mask) << (BITS * place);
            }
        }
    }
}
