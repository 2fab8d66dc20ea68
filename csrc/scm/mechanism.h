// What a variable makes of its parents, and where the parameters lie.
#pragma once
#include "math.h"

namespace settx::scm {

// z are the weighted parents, in topological order; f is added to the bias, except where it says otherwise.
enum MechanismKind : int64_t {
    LINEAR = 0,         // Σ z
    MLP = 1,            // a random network
    FOURIER = 2,        // random Fourier features: an MLP of one layer of sines
    ADDITIVE_SUM = 3,   // Σ g(z_p)
    PRODUCT = 4,        // Π g(z_p)
    QUADRATIC = 5,      // Σ z + Σ_{p ≤ q} c_pq z_p z_q
    TREES = 6,          // Σ over trees of the leaf that z falls into
    POST_NONLINEAR = 7  // x = g(bias + Σ z + noise)
};

enum Function : int32_t {
    TANH = 0,
    RELU = 1,
    LEAKY_RELU = 2,
    SIGMOID = 3,
    SINE = 4,
    IDENTITY = 5,
    SQUARE = 6,
    ABSOLUTE = 7,
    BUMP = 8,  // exp(−x²)
};

template <int32_t function>
struct FunctionOf {
    SETTX_METHOD float operator()(float x) const {
        if constexpr (function == TANH) return tanh(x);
        if constexpr (function == RELU) return x > 0.0f ? x : 0.0f;
        if constexpr (function == LEAKY_RELU) return x > 0.0f ? x : 0.01f * x;
        if constexpr (function == SIGMOID) return sigmoid(x);
        if constexpr (function == SINE) return sin(x);
        if constexpr (function == IDENTITY) return x;
        if constexpr (function == SQUARE) return x * x;
        if constexpr (function == ABSOLUTE) return abs(x);
        if constexpr (function == BUMP) return exp(-(x * x));
    }
};

// Calls use(function) with the function of that code as a type of its own.
template <class Use>
SETTX_FN void with_function(int32_t code, const Use& use) {
    switch (code) {
        case TANH:
            return use(FunctionOf<TANH>{});
        case RELU:
            return use(FunctionOf<RELU>{});
        case LEAKY_RELU:
            return use(FunctionOf<LEAKY_RELU>{});
        case SIGMOID:
            return use(FunctionOf<SIGMOID>{});
        case SINE:
            return use(FunctionOf<SINE>{});
        case IDENTITY:
            return use(FunctionOf<IDENTITY>{});
        case SQUARE:
            return use(FunctionOf<SQUARE>{});
        case ABSOLUTE:
            return use(FunctionOf<ABSOLUTE>{});
        case BUMP:
            return use(FunctionOf<BUMP>{});
    }
}

// MLP, FOURIER: hidden, layers, function; W₁ (hidden, parents), b₁ (hidden); for every further layer W (hidden,
// hidden), b (hidden); c (hidden).
constexpr int MLP_HEADER = 3;

SETTX_FN int64_t mlp_size(int64_t parents, int64_t hidden, int64_t layers) {
    return MLP_HEADER + hidden * parents + hidden + (layers - 1) * (hidden * hidden + hidden) + hidden;
}

// QUADRATIC: c (parents · (parents + 1) / 2), row by row of the upper triangle.
SETTX_FN int64_t quadratic_size(int64_t parents) {
    return parents * (parents + 1) / 2;
}

// TREES: trees, depth; for every tree (parent, threshold) of every level, then 2^depth leaves.
constexpr int TREES_HEADER = 2;

SETTX_FN int64_t tree_size(int64_t depth) {
    return 2 * depth + (int64_t(1) << depth);
}

}  // namespace settx::scm
