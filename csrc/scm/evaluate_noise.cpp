// Noise of many rows of one variable, in blocks.
#include "lanes.h"
#include "node.h"
#include "noise.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

// x (count,), count a multiple of BLOCK; `at` is the address of its first rows.
struct NoisyRows {
    float scale;
    Address at;
    Keys keys;
    int64_t count;
    float* x;
};

// Calls change(words, more, x) for one block after the other; words (BLOCK,), and as many more if TWO are needed a row.
template <bool TWO, class Change>
SETTX_FN void change_blocks(const NoisyRows& rows, Change change) {
    alignas(64) uint32_t words[BLOCK], more[TWO ? BLOCK : 1];
    Address at = rows.at;
    for (int64_t row = 0; row < rows.count; row += BLOCK, at.block += LANES) {
        philox_lanes(at, rows.keys, words);
        if constexpr (TWO) philox_lanes(second_words(at), rows.keys, more);
        change(words, more, rows.x + row);
    }
}

// noise(word, more): one number from one word, or from two.
template <bool TWO, class Noise>
SETTX_LOOP void add_each(const NoisyRows& rows, Noise noise) {
    const float scale = rows.scale;
    change_blocks<TWO>(rows, [&](const uint32_t* words, const uint32_t* more, float* __restrict x) {
        for (int i = 0; i < BLOCK; ++i) x[i] = fma(scale, noise(words[i], TWO ? more[i] : 0), x[i]);
    });
}

// noise(normal, more): one number from a normal, and another word.
template <bool TWO, class Noise>
SETTX_LOOP void add_normals(const NoisyRows& rows, Noise noise) {
    const float scale = rows.scale;
    change_blocks<TWO>(rows, [&](const uint32_t* words, const uint32_t* more, float* __restrict x) {
        for (int half = 0; half < BLOCK; half += 2 * LANES)
            for (int i = half, j = half + LANES; i < half + LANES; ++i, ++j) {
                const Pair pair = gaussian_pair(words[i], words[j]);
                x[i] = fma(scale, noise(pair.first, TWO ? more[i] : 0), x[i]);
                x[j] = fma(scale, noise(pair.second, TWO ? more[j] : 0), x[j]);
            }
    });
}

}  // namespace

void add_noise(int32_t kind, const float* p, float scale, Address at, uint64_t seed, int64_t count, float* x) {
    const NoisyRows rows{scale, at, Keys(seed), count, x};
    struct {
        float p[NOISE_PARAMETERS];
    } own = {};  // a copy that no x can overlap
    if (p != nullptr) std::memcpy(own.p, p, sizeof own.p);
    const float p0 = own.p[0], p1 = own.p[1];
    switch (kind) {
        case GAUSSIAN:
            return add_normals<false>(rows, [](float normal, uint32_t) { return normal; });
        case LAPLACE:
            return add_each<false>(rows, [](uint32_t word, uint32_t) { return laplace(word); });
        case UNIFORM:
            return add_each<false>(rows, [](uint32_t word, uint32_t) { return uniform(word); });
        case STUDENT_T:
            return add_each<true>(rows, [=](uint32_t word, uint32_t more) { return student_t(word, more, p0); });
        case EXPONENTIAL:
            return add_each<false>(rows, [](uint32_t word, uint32_t) { return exponential(word); });
        case GUMBEL:
            return add_each<false>(rows, [](uint32_t word, uint32_t) { return gumbel(word); });
        case LOGISTIC:
            return add_each<false>(rows, [](uint32_t word, uint32_t) { return logistic(word); });
        case CLIPPED_CAUCHY:
            return add_each<false>(rows, [=](uint32_t word, uint32_t) { return clipped_cauchy(word, p0, p1); });
        case MIXTURE:
            return add_normals<true>(rows, [=](float normal, uint32_t more) { return mixture(normal, more, own.p); });
    }
}

void fill_noise(const NoiseRows& rows, int64_t first, int64_t n, float* out) {
    Address at = address(uint64_t(rows.dataset), 0, uint32_t(rows.variable), FOR_NOISE);
    at.block = uint32_t(first / (BLOCK / LANES));
    constexpr int64_t PIECE = 1024;  // stays in the first cache between the two steps
    for (int64_t row = 0; row < n; row += PIECE, at.block += PIECE / (BLOCK / LANES)) {
        const int64_t count = n - row < PIECE ? n - row : PIECE;
        fill(out + row, count, 0.0f);
        add_noise(rows.kind, rows.parameters, 1.0f, at, rows.seed, count, out + row);
    }
}

}  // namespace settx::scm::SETTX_PATH
