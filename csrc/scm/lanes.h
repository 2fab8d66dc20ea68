// Sixteen Philox counters at a time: 64 words for 64 rows. Word j of lane l belongs to row 16·j + l.
#pragma once
#include "philox.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace settx::scm {

constexpr int LANES = 16, BLOCK = 64;

// Four words of 32 bits in the low halves of 64-bit lanes, which is what the widening multiply reads and writes;
// the high halves hold left-overs that nothing reads.
#if defined(__AVX512F__)
struct Wide {
    static constexpr int WIDTH = 8;
    __m512i v;
};
SETTX_FN Wide broadcast(uint32_t x) {
    return {_mm512_set1_epi32(int32_t(x))};
}
SETTX_FN Wide count_from(uint32_t x) {
    return {_mm512_add_epi64(broadcast(x).v, _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0))};
}
SETTX_FN Wide multiply(Wide a, Wide b) {
    return {_mm512_mul_epu32(a.v, b.v)};
}
SETTX_FN Wide high(Wide a) {
    return {_mm512_srli_epi64(a.v, 32)};
}
SETTX_FN Wide exclusive_or(Wide a, Wide b, Wide c) {
    return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)};
}
SETTX_FN void store_low(uint32_t* to, Wide a, Wide b) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi32(a.v, even, b.v));
}
#elif defined(__AVX2__)
struct Wide {
    static constexpr int WIDTH = 4;
    __m256i v;
};
SETTX_FN Wide broadcast(uint32_t x) {
    return {_mm256_set1_epi32(int32_t(x))};
}
SETTX_FN Wide count_from(uint32_t x) {
    return {_mm256_add_epi64(broadcast(x).v, _mm256_set_epi64x(3, 2, 1, 0))};
}
SETTX_FN Wide multiply(Wide a, Wide b) {
    return {_mm256_mul_epu32(a.v, b.v)};
}
SETTX_FN Wide high(Wide a) {
    return {_mm256_srli_epi64(a.v, 32)};
}
SETTX_FN Wide exclusive_or(Wide a, Wide b, Wide c) {
    return {_mm256_xor_si256(_mm256_xor_si256(a.v, b.v), c.v)};
}
SETTX_FN void store_low(uint32_t* to, Wide a, Wide b) {
    const __m256 mixed = _mm256_shuffle_ps(_mm256_castsi256_ps(a.v), _mm256_castsi256_ps(b.v), 0x88);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xD8));
}
#endif

// words (4, LANES): those of counters at, at + 1, …, at + 15. Ten rounds are one long chain, so all counters go through
// them side by side; the key comes first in its exclusive-or, as it does not wait for the product.
SETTX_FN void philox_lanes(Address at, const Keys& keys, uint32_t* words) {
#if defined(__AVX2__)
    constexpr int GROUPS = LANES / Wide::WIDTH;
    Wide w0[GROUPS], w1[GROUPS], w2[GROUPS], w3[GROUPS];
    for (int g = 0; g < GROUPS; ++g) {
        w0[g] = count_from(at.block + g * Wide::WIDTH);
        w1[g] = broadcast(at.variable_purpose);
        w2[g] = broadcast(at.dataset_low);
        w3[g] = broadcast(at.dataset_environment);
    }
#pragma GCC unroll 10
    for (uint32_t round = 0; round < ROUNDS; ++round) {
        const Wide key0 = broadcast(keys.first[round]), key1 = broadcast(keys.second[round]);
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; ++g) {
            const Wide product0 = multiply(w0[g], broadcast(MULTIPLIER_0));
            const Wide product1 = multiply(w2[g], broadcast(MULTIPLIER_1));
            w0[g] = exclusive_or(w1[g], key0, high(product1));
            w1[g] = product1;
            w2[g] = exclusive_or(w3[g], key1, high(product0));
            w3[g] = product0;
        }
    }
    for (int g = 0; g < GROUPS; g += 2) {
        store_low(words + 0 * LANES + g * Wide::WIDTH, w0[g], w0[g + 1]);
        store_low(words + 1 * LANES + g * Wide::WIDTH, w1[g], w1[g + 1]);
        store_low(words + 2 * LANES + g * Wide::WIDTH, w2[g], w2[g + 1]);
        store_low(words + 3 * LANES + g * Wide::WIDTH, w3[g], w3[g + 1]);
    }
#else
    const uint64_t seed = uint64_t(keys.second[0]) << 32 | keys.first[0];
    for (int lane = 0; lane < LANES; ++lane) {
        const Words w = philox({at.block + lane, at.variable_purpose, at.dataset_low, at.dataset_environment}, seed);
        words[0 * LANES + lane] = w.w0;
        words[1 * LANES + lane] = w.w1;
        words[2 * LANES + lane] = w.w2;
        words[3 * LANES + lane] = w.w3;
    }
#endif
}

}  // namespace settx::scm
