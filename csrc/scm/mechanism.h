// What a variable makes of its parents, and where the parameters lie.
#pragma once
#include "math.h"

namespace settx::scm {

enum MechanismKind : int64_t { LINEAR = 0, MLP = 1 };

enum Activation : int32_t { TANH = 0, RELU = 1, LEAKY_RELU = 2, SIGMOID = 3, SINE = 4 };

template <int32_t activation>
SETTX_FN float activate(float x) {
    if constexpr (activation == TANH) return tanh(x);
    if constexpr (activation == RELU) return x > 0.0f ? x : 0.0f;
    if constexpr (activation == LEAKY_RELU) return x > 0.0f ? x : 0.01f * x;
    if constexpr (activation == SIGMOID) return sigmoid(x);
    if constexpr (activation == SINE) return sin(x);
}

// The parameters of one MLP, in this order: hidden, layers, activation; W₁ (hidden, parents), b₁ (hidden);
// for every further layer W (hidden, hidden), b (hidden); c (hidden).
struct MlpShape {
    int32_t parents, hidden, layers;
    static constexpr int32_t HEADER = 3;
};

SETTX_FN int64_t mlp_size(MlpShape s) {
    const int64_t h = s.hidden;
    return MlpShape::HEADER + h * s.parents + h + (s.layers - 1) * (h * h + h) + h;
}

}  // namespace settx::scm
