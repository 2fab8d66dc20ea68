// From tables to rows, a few rows at a time: what one thread of a GPU does, with nothing of CUDA in it, so that a CPU
// can run it too. Operations and their order are those of evaluate.cpp.
#pragma once
#include "evaluate_row_mechanism.h"
#include "lane_rows.h"
#include "noise.h"

namespace settx::scm {

// An edge in the list of a dataset.
SETTX_FN int32_t listed_edge(int32_t parent, int32_t child) {
    return parent | child << 16;
}

SETTX_FN int32_t parent_of(int32_t edge) {
    return edge & 0xFFFF;
}

SETTX_FN int32_t child_of(int32_t edge) {
    return edge >> 16;
}

// One variable in one environment, as a lane sees it.
struct Variable {
    const int32_t* edges;  // (num_parents,) in topological order
    const float* weights;  // of parent p: weights[p · weight_stride]
    int32_t num_parents, weight_stride;
    float bias, noise_scale, centre, gain;
    int32_t noise_kind, noise_effect, mechanism;
    const float *noise_parameters, *parameters;

    SETTX_METHOD int32_t parent(int32_t i) const { return parent_of(edges[i]); }
    SETTX_METHOD float weight(int32_t i) const { return weights[int64_t(parent(i)) * weight_stride]; }
};

// ---- Noise ----------------------------------------------------------------------------------------------------------

SETTX_FN Quad normals_of(const Words& w) {
    const Pair low = gaussian_pair(w.w0, w.w1), high = gaussian_pair(w.w2, w.w3);
    return {low.first, low.second, high.first, high.second};
}

SETTX_FN Quad draw_normals(Address at, uint64_t seed) {
    return normals_of(philox(at, seed));
}

SETTX_FN Quad draw_noise(int32_t kind, const float* p, Address at, uint64_t seed) {
    const Words w = philox(at, seed);
    const uint32_t word[QUAD] = {w.w0, w.w1, w.w2, w.w3};
    uint32_t more[QUAD] = {};
    if (kind == STUDENT_T || kind == MIXTURE) {
        at = second_words(at);
        const Words second = philox(at, seed);
        more[0] = second.w0, more[1] = second.w1, more[2] = second.w2, more[3] = second.w3;
    }
    Quad normals{};
    if (kind == GAUSSIAN || kind == MIXTURE) normals = normals_of(w);
    switch (kind) {
        case LAPLACE:
            return each_row([&](int r) { return laplace(word[r]); });
        case UNIFORM:
            return each_row([&](int r) { return uniform(word[r]); });
        case STUDENT_T:
            return each_row([&](int r) { return student_t(word[r], more[r], p[0]); });
        case EXPONENTIAL:
            return each_row([&](int r) { return exponential(word[r]); });
        case GUMBEL:
            return each_row([&](int r) { return gumbel(word[r]); });
        case LOGISTIC:
            return each_row([&](int r) { return logistic(word[r]); });
        case CLIPPED_CAUCHY:
            return each_row([&](int r) { return clipped_cauchy(word[r], p[0], p[1]); });
        case MIXTURE:
            return each_row([&](int r) { return mixture(normals.row[r], more[r], p); });
        default:
            return normals;
    }
}

template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_noise(RowsOf<N> x, const Which& v, const Memory& values, RowsOf<N> noise) {
    if (v.noise_effect == ADDITIVE || v.num_parents == 0) return add_scaled(x, noise, v.noise_scale);
    const RowsOf<N> scaled = add_scaled(all_rows<N>(0.0f), noise, v.noise_scale);
    if (v.noise_effect == MULTIPLICATIVE)
        return each_row<N>([&](int r) { return fma(x.row[r], scaled.row[r], x.row[r]); });
    const RowsOf<N> predictor = add_parents(all_rows<N>(0.0f), v, values);
    return each_row<N>([&](int r) { return fma(2.0f * sigmoid(predictor.row[r]), scaled.row[r], x.row[r]); });
}

// ---- The whole variable ---------------------------------------------------------------------------------------------

// The variable's value in some rows; noise(): what is drawn for them. PRODUCTS: it may be a product, whose factors are
// all mechanisms once more, for which kernels that can do without have no registers.
template <int N, bool PRODUCTS, class Which, class Memory, class Hidden, class Noise>
SETTX_FN RowsOf<N> evaluate_variable(const Which& v, const Memory& values, const Hidden& hidden, const Noise& noise) {
    RowsOf<N> x = all_rows<N>(v.bias);
    if (PRODUCTS && v.mechanism == FACTORS && v.num_parents > 0)
        x = multiply_factors<N>(v, values, hidden);
    else if (v.num_parents > 0)
        x = add_effect(x, v, values, hidden);
    if (v.noise_scale != 0.0f) x = add_noise(x, v, values, noise());
    if (v.mechanism == POST_NONLINEAR && v.num_parents > 0)
        with_function(v.parameters[0], [&](auto g) { x = each_row<N>([&](int r) { return g(x.row[r]); }); });
    if (v.mechanism == CATEGORIES) x = categorised(x, v);
    if (v.gain != 1.0f || v.centre != 0.0f) x = each_row<N>([&](int r) { return (x.row[r] - v.centre) * v.gain; });
    return x;
}

}  // namespace settx::scm
