// What a variable makes of its parents, and where the parameters lie.
#pragma once
#include "math.h"

namespace settx::scm {

// z are the weighted parents, in topological order; f is added to the bias, except where it says otherwise.
enum MechanismKind : int64_t {
    LINEAR = 0,          // Σ z
    MLP = 1,             // a random network
    FOURIER = 2,         // random Fourier features: an MLP of one layer of sines
    ADDITIVE_SUM = 3,    // Σ g(z_p)
    PRODUCT = 4,         // Π g(z_p)
    QUADRATIC = 5,       // Σ z + Σ_{p ≤ q} c_pq z_p z_q
    TREES = 6,           // Σ over trees of the leaf that z falls into
    POST_NONLINEAR = 7,  // x = g(bias + Σ z + noise)
    CATEGORIES = 8,      // x = the value of the level that bias + Σ z + noise falls into, without parents too
    CLUSTERS = 9,        // Σ over clusters of how likely z is theirs, times a value of theirs
    FACTORS = 10         // Π of several of the above
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
    LOG = 9,   // ±log(1 + |x|)
    SIGN = 10,
    STEP = 11,      // x > 0
    SAWTOOTH = 12,  // x less the nearest whole number
    POWER = 13,     // ±|x|^p
    WARP = 14,      // 1 − (1 − s^p)^q of s = sigmoid x: Kumaraswamy's distribution function
};

// Whether a function has numbers of its own, which are drawn with it.
SETTX_FN bool is_drawn(int32_t function) {
    return function == POWER || function == WARP;
}

constexpr float LARGEST_FLOAT = 3.40282347e38f, LEAST_SHARE = 1e-30f;

// x^p, x a positive normal number.
SETTX_FN float power(float x, float p) {
    return exp(p * log(x));
}

// 4^(2u − 1): from ¼ to 4.
SETTX_FN float exponent_of(float u) {
    return exp(fma(2.77258872f, u, -1.38629436f));
}

// x less the nearest whole number; 0 beyond ±2²².
SETTX_FN float sawtooth(float x) {
    const float clamped = clamp(x, -4194304.0f, 4194304.0f);
    return clamped - ((clamped + 12582912.0f) - 12582912.0f);
}

// NaN stays, infinities too.
SETTX_FN float signed_power(float x, float p) {
    const float size = abs(x);
    const float raised = size < 1.17549435e-38f ? 0.0f : with_sign(power(size, p), to_bits(x));
    return size <= LARGEST_FLOAT ? raised : x;
}

SETTX_FN float signed_log(float x) {
    const float size = abs(x);
    return size <= LARGEST_FLOAT ? with_sign(log(1.0f + size), to_bits(x)) : x;
}

SETTX_FN float warp(float x, float p, float q) {
    const float rest = 1.0f - power(clamp(sigmoid(x), LEAST_SHARE, 1.0f), p);
    const float warped = 1.0f - power(clamp(rest, LEAST_SHARE, 1.0f), q);
    return x == x ? warped : x;
}

template <int32_t function>
struct FunctionOf {
    float p = 0.0f, q = 0.0f;

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
        if constexpr (function == LOG) return signed_log(x);
        if constexpr (function == SIGN) return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f);
        if constexpr (function == STEP) return x > 0.0f ? 1.0f : 0.0f;
        if constexpr (function == SAWTOOTH) return sawtooth(x);
        if constexpr (function == POWER) return signed_power(x, p);
        if constexpr (function == WARP) return warp(x, p, q);
    }
};

// What follows names a function by its header: its code, and as a fraction of 16 bits what was drawn for it, 8 bits for
// each of two numbers. use(function) is called with the function as a type of its own.

// Too heavy to be applied where sums fill a thread's registers, or among such: see evaluate_network.h.
SETTX_FN bool is_heavy(float header) {
    return header >= float(LOG);
}

template <class Use>
SETTX_FN void with_light_function(float header, const Use& use) {
    switch (int32_t(header)) {
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

template <class Use>
SETTX_FN void with_heavy_function(float header, const Use& use) {
    const int32_t code = int32_t(header);
    const float drawn = header - float(code);
    switch (code) {
        case LOG:
            return use(FunctionOf<LOG>{});
        case SIGN:
            return use(FunctionOf<SIGN>{});
        case STEP:
            return use(FunctionOf<STEP>{});
        case SAWTOOTH:
            return use(FunctionOf<SAWTOOTH>{});
        case POWER:
            return use(FunctionOf<POWER>{exponent_of(drawn)});
        case WARP: {
            const float first = float(int32_t(drawn * 256.0f));
            return use(FunctionOf<WARP>{exponent_of(first / 256.0f), exponent_of(drawn * 256.0f - first)});
        }
    }
}

template <class Use>
SETTX_FN void with_function(float header, const Use& use) {
    if (is_heavy(header))
        with_heavy_function(header, use);
    else
        with_light_function(header, use);
}

// MLP, FOURIER: hidden, layers, function (its header); W₁ (hidden, parents), b₁ (hidden); for every further layer W
// (hidden, hidden), b (hidden); c (hidden).
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

// CATEGORIES: levels; a threshold for all but one, in any order; the value of every level. Which one x falls into: how
// many thresholds lie below.
SETTX_FN int64_t categories_size(int64_t levels) {
    return 2 * levels;
}

// CLUSTERS: how many; log s, ½/s² and the value of every one; centres (clusters, parents).
SETTX_FN int64_t clusters_size(int64_t parents, int64_t clusters) {
    return 1 + clusters * (3 + parents);
}

struct Clusters {
    int32_t number;
    const float *log_widths, *precisions, *values, *centres;

    SETTX_METHOD explicit Clusters(const float* parameters)
        : number(int32_t(parameters[0])),
          log_widths(parameters + 1),
          precisions(log_widths + number),
          values(precisions + number),
          centres(values + number) {}
    // Of cluster k, from how far z is from its centre: log of how likely it is, but for what all clusters share.
    SETTX_METHOD float score(int32_t k, float squared_distance) const {
        return fma(-precisions[k], squared_distance, -log_widths[k]);
    }
};

constexpr int32_t MOST_CLUSTERS = 64;

// FACTORS: of every one its kind, how many parameters it has, −1 for the last, and these.
constexpr int FACTOR_HEADER = 2;

SETTX_FN int32_t factor_kind(const float* factor) {
    return int32_t(factor[0]);
}

SETTX_FN bool is_last_factor(const float* factor) {
    return factor[1] < 0.0f;
}

SETTX_FN const float* next_factor(const float* factor) {
    return factor + FACTOR_HEADER + int32_t(factor[1]);
}

}  // namespace settx::scm
