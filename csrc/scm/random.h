// One random number at a time, for drawing models: from an address, or from a stream of words where order matters.
#pragma once
#include "noise.h"
#include "scm.h"

namespace settx::scm {

SETTX_FN float unit(uint32_t word) {
    return float(word >> 8) * 5.9604644775390625e-8f;
}  // [0, 1)

SETTX_FN int32_t pick(uint32_t word, int32_t count) {
    return int32_t((uint64_t(word) * uint32_t(count)) >> 32);
}

// Of the whole numbers n from low to high, one with a probability in proportion to log((n + 1) / n).
SETTX_CALL static inline int32_t pick_log(uint32_t word, Range r) {
    const float low = log(float(r.low));
    const int32_t chosen = int32_t(exp(fma(unit(word), log(float(r.high) + 1.0f) - low, low)));
    return chosen < r.low ? r.low : chosen > r.high ? r.high : chosen;
}

SETTX_FN int32_t pick(uint32_t word, Range r) {
    if (r.is_log) return pick_log(word, r);
    return r.low + pick(word, r.high - r.low + 1);
}

SETTX_CALL static inline float draw_number(const Distribution& d, Words w) {
    float x = d.low;
    if (d.kind == UNIFORM_BETWEEN) x = clamp(fma(unit(w.w0), d.high - d.low, d.low), d.low, d.high);
    if (d.kind == LOG_UNIFORM) {
        const float low = log(d.low);
        x = clamp(exp(fma(unit(w.w0), log(d.high) - low, low)), d.low, d.high);
    }
    if (d.kind == NORMAL) x = fma(d.high, gaussian_pair(w.w0, w.w1).first, d.low);
    return d.is_signed && w.w2 >> 31 ? -x : x;
}

SETTX_CALL static inline Words words_at(Address at, uint64_t seed) {
    return philox(at, seed);
}

struct Stream {
    Address at;
    uint64_t seed;
    int used = 4;
    uint32_t words[4] = {};

    SETTX_METHOD Stream(Address first, uint64_t seed_) : at(first), seed(seed_) {}

    SETTX_METHOD uint32_t next() {
        if (used == 4) {
            const Words w = block();
            words[0] = w.w0, words[1] = w.w1, words[2] = w.w2, words[3] = w.w3;
            used = 0;
        }
        return words[used++];
    }

    SETTX_METHOD Words block() {
        const Words w = words_at(at, seed);
        ++at.block;
        return w;
    }
};

}  // namespace settx::scm
