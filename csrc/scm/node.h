// One variable in one environment, as the evaluator sees it, and the two loops that everything is made of.
#pragma once
#include "lanes.h"
#include "math.h"
#include "scm.h"

// A function that is one loop: kept apart, so that the loop gets all the registers.
#define SETTX_LOOP __attribute__((noinline))

namespace settx::scm::SETTX_PATH {

struct Node {
    float* x;                // (T,) the variable's vector in the tile
    const float* tile;       // (V, T)
    int64_t stride;          // T
    const int32_t* parents;  // (num_parents,) in topological order, and their weights
    const float* weights;
    int32_t num_parents;
    float bias, noise_scale;
    int32_t noise_kind;
    const float* noise_parameters;
    int64_t noise_effect, mechanism;
    const float* parameters;
    Address noise_at;  // of local row 0
    uint64_t seed;
    float* scratch;
};

SETTX_LOOP static void fill(float* __restrict x, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i) x[i] = value;
}

SETTX_LOOP static void add_scaled(float* __restrict x, const float* __restrict z, int64_t count, float weight) {
    for (int64_t i = 0; i < count; ++i) x[i] = fma(weight, z[i], x[i]);
}

}  // namespace settx::scm::SETTX_PATH
