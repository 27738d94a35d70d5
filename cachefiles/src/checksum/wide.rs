//! CRC32C of one page by folding 512 bits at a time: four fifths of the time of the general routine,
//! whose tail of a 4 KiB input is serial.
//!
//! Eight vectors of 64 bytes are the page's first row; each of the seven rows that follow is added to
//! what the one before, moved as far from the end as it stands, is worth. All of it is polynomials over
//! GF(2) modulo the CRC's: what has `n` bytes behind it counts `x^(8n)` times, and a sum is an XOR. In the
//! reflected form the instructions use, a product of two 64-bit halves comes out one bit too high, which
//! the constants make up for. Every step is linear, so agreeing with another CRC32C on the zero page and
//! on each page with a single bit set means agreeing on all pages: that is the test.
//!
//! The vector unit takes two cycles a multiplication, and that is the bound. Chains of `crc32` on a third
//! of the page beside it would make it a quarter faster for what is in the first two levels of cache, and
//! several times slower for what is not: five streams at once are too many for the processor to run ahead.

#![allow(unsafe_code, reason = "vector loads, and calls of what the processor was asked for")]

use std::arch::x86_64::{
    __m512i, _mm_crc32_u64, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_xor_si128,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256, _mm512_castsi512_si256,
    _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_loadu_si512,
    _mm512_maskz_mov_epi64, _mm512_set_epi64, _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

use netfs::folio::PAGE_SIZE;

/// The CRC's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// `x^n` modulo the polynomial, reflected.
const fn power(n: usize) -> i64 {
    let (mut value, mut i) = (0x8000_0000_u32, 0);
    while i < n {
        value = (value >> 1) ^ (if value & 1 == 1 { POLYNOMIAL } else { 0 });
        i += 1;
    }
    value as i64
}

/// What moves the two halves of 128 bits `bytes` further from the end.
const fn halves(bytes: usize) -> [i64; 2] {
    [power(8 * bytes + 31), power(8 * bytes - 33)]
}

/// The page's checksum; `None` if this processor lacks what it takes.
pub(super) fn crc32c(page: &[u8; PAGE_SIZE]) -> Option<u32> {
    let able = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("sse4.2");
    // SAFETY: the processor has all the features the function is compiled for.
    able.then(|| unsafe { folded(page) })
}

#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2")]
fn folded(page: &[u8; PAGE_SIZE]) -> u32 {
    let (blocks, _) = page.as_chunks::<64>();
    let (rows, _) = blocks.as_chunks::<8>();
    // The CRC starts with all ones.
    let mut sums = [_mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, 0xffff_ffff); 8];
    for (i, block) in rows[0].iter().enumerate() {
        sums[i] = if i == 0 { _mm512_xor_si512(sums[0], load(block)) } else { load(block) };
    }
    let by_row = everywhere(const { halves(8 * 64) });
    for row in &rows[1..] {
        for (sum, block) in sums.iter_mut().zip(row) {
            *sum = fold(*sum, by_row, load(block));
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let by = everywhere(const { halves(4 * 64) });
    let [a, b, c, d] = [fold(a, by, e), fold(b, by, f), fold(c, by, g), fold(d, by, h)];
    let by = everywhere(const { halves(2 * 64) });
    let [a, b] = [fold(a, by, c), fold(b, by, d)];
    let last = fold(a, everywhere(const { halves(64) }), b);
    // `crc32` gives 32 bits.
    !(reduce(last) as u32)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are read where there are 64; this load needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

/// The same constants for each 128 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn everywhere([low, high]: [i64; 2]) -> __m512i {
    _mm512_set_epi64(high, low, high, low, high, low, high, low)
}

/// Each 128 bits of `x` moved away from the end as `by` says, plus `next`, which stands there.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn fold(x: __m512i, by: __m512i, next: __m512i) -> __m512i {
    let (low, high) =
        (_mm512_clmulepi64_epi128::<0x00>(x, by), _mm512_clmulepi64_epi128::<0x11>(x, by));
    _mm512_ternarylogic_epi64::<0x96>(low, high, next) // XOR of three
}

/// The CRC of 64 bytes, from zero and not inverted.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2")]
fn reduce(x: __m512i) -> u64 {
    let [[l3, h3], [l2, h2], [l1, h1]] = const { [halves(48), halves(32), halves(16)] };
    // The last 128 bits stay where they are.
    let last = _mm512_maskz_mov_epi64(0b1100_0000, x);
    let x = fold(x, _mm512_set_epi64(0, 0, h1, l1, h2, l2, h3, l3), last);
    let x = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    let x = _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let crc = _mm_crc32_u64(0, _mm_cvtsi128_si64(x).cast_unsigned());
    _mm_crc32_u64(crc, _mm_extract_epi64::<1>(x).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By linearity (see the module) this proves it for every page.
    #[test]
    fn every_bit_of_a_page_counts_as_in_any_crc32c() {
        let mut page = [0; PAGE_SIZE];
        if crc32c(&page).is_none() {
            return; // nothing of this is used on this processor
        }
        assert_eq!(crc32c(&page), Some(crc_fast::crc32_iscsi(&page)));
        for bit in 0..8 * PAGE_SIZE {
            page[bit / 8] = 1 << (bit % 8);
            assert_eq!(crc32c(&page), Some(crc_fast::crc32_iscsi(&page)), "bit {bit}");
            page[bit / 8] = 0;
        }
    }
}
