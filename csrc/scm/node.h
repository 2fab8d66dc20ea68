// One variable in one environment, as the evaluator sees it, and the two loops that everything is made of.
#pragma once
#include "lanes.h"
#include "math.h"
#include "paths.h"

// A function that is one loop: kept apart, so that the loop gets all the registers.
#define SETTX_LOOP __attribute__((noinline, unused))

namespace settx::scm::SETTX_PATH {

// A count of floats that fills whole vector registers.
SETTX_FN int64_t padded(int64_t count) {
    return (count + LANES - 1) / LANES * LANES;
}

SETTX_FN int64_t whole_blocks(int64_t rows) {
    return (rows + BLOCK - 1) / BLOCK * BLOCK;
}

struct Node {
    float* x;                // (T,) the variable's vector in the tile
    const float* tile;       // (V, T)
    int64_t stride;          // T
    const int32_t* parents;  // (num_parents,) in topological order, and their weights
    const float* weights;
    int32_t num_parents;
    float bias, noise_scale, centre, gain;
    int32_t noise_kind;
    const float* noise_parameters;
    int64_t noise_effect, mechanism;
    const float* parameters;
    Address noise_at;  // of local row 0
    uint64_t seed;
    float* scratch;  // of a mechanism: 2 · BLOCK · max(V, widest layer) floats
};

// One environment of one dataset, evaluated with the noise of `purpose`.
struct Model {
    const Tables& t;
    const Parents& parents;
    int64_t dataset, environment;  // numbers in the batch and in the dataset
    uint64_t seed;
    uint32_t purpose;
    float *tile, *scratch;  // (V, stride); of a mechanism
    int64_t stride;
    int32_t attempt = 0;

    int64_t at(int64_t v) const { return (dataset * t.environments + environment) * t.variables + v; }
    int64_t environment_at() const { return dataset * t.environments + environment; }
    int64_t num_variables() const { return t.num_variables[dataset]; }
    Address address_of(int64_t v, uint32_t for_what) const {
        return address(uint64_t(t.index[dataset]), uint32_t(environment), uint32_t(v), for_what);
    }
    int32_t num_parents(int64_t v) const { return parents.start[v + 1] - parents.start[v]; }
};

// Weights of v's parents, in topological order.
void gather_weights(const Model&, int64_t v, float* weights);
Node node_of(const Model&, int64_t v, const float* weights);
// Rows 0 … count − 1 of the tile, count a multiple of BLOCK; local_row is the first one's number in the environment.
void evaluate_node(const Node&, int64_t count, int64_t local_row);
// All variables alike; edge_weights (num_edges,) as in Parents.
void evaluate_variables(const Model&, const float* edge_weights, int64_t count, int64_t local_row);

// Rows of a tile: how many, the first one's number in its environment, and in the output.
struct TileRows {
    int64_t count, local, row;
};

// Adds the error of measurement and makes levels of numbers.
void measure(const Model&, int64_t v, uint32_t purpose, int64_t count, int64_t local_row);
// From the values of all variables to what is seen of them; spare (V, BLOCK).
void observe_tile(const Model&, const Rows&, const float* edge_weights, float* spare, const TileRows&);
// out (count,): the exogenous noise of v.
void fill_noise_of_rows(const Model&, const Rows&, int64_t v, const TileRows&, float* out);

SETTX_LOOP static void fill(float* __restrict x, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i) x[i] = value;
}

SETTX_LOOP static void add_scaled(float* __restrict x, const float* __restrict z, int64_t count, float weight) {
    for (int64_t i = 0; i < count; ++i) x[i] = fma(weight, z[i], x[i]);
}

SETTX_LOOP static void rescale(float* __restrict x, int64_t count, float centre, float gain) {
    for (int64_t i = 0; i < count; ++i) x[i] = (x[i] - centre) * gain;
}

}  // namespace settx::scm::SETTX_PATH
