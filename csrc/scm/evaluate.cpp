// From tables to rows: tiles that stay in cache, one contiguous vector per variable, variables in topological order.
#include "lanes.h"
#include "mechanism.h"
#include "noise.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

// ---- Noise ----------------------------------------------------------------------------------------------------------

// out (BLOCK,): standardised noise of the rows whose counters start at `at`.
void noise_block(int32_t kind, float parameter, Address at, uint64_t seed, float* __restrict out) {
    alignas(64) uint32_t words[BLOCK], more[BLOCK];
    philox_lanes(at, seed, words);
    switch (kind) {
        case GAUSSIAN:
            for (int half = 0; half < BLOCK; half += 2 * LANES)
                for (int i = half; i < half + LANES; ++i) {
                    const Pair pair = gaussian_pair(words[i], words[i + LANES]);
                    out[i] = pair.first;
                    out[i + LANES] = pair.second;
                }
            break;
        case LAPLACE:
            for (int i = 0; i < BLOCK; ++i) out[i] = laplace(words[i]);
            break;
        case UNIFORM:
            for (int i = 0; i < BLOCK; ++i) out[i] = uniform(words[i]);
            break;
        case STUDENT_T:
            at.variable_purpose += 1u << 24;
            philox_lanes(at, seed, more);
            for (int i = 0; i < BLOCK; ++i) out[i] = student_t(words[i], more[i], parameter);
            break;
    }
}

// ---- One variable in one environment --------------------------------------------------------------------------------

struct Node {
    float* x;                // (T,) the variable's vector in the tile
    const float* tile;       // (V, T)
    int64_t stride;          // T
    const int32_t* parents;  // (num_parents,) in topological order, and their weights
    const float* weights;
    int32_t num_parents;
    float bias, noise_scale;
    int32_t noise_kind;
    float noise_parameter;
    int64_t mechanism;
    const float* parameters;
    Address noise_at;  // of local row 0
    uint64_t seed;
    float* scratch;
};

// sum (BLOCK,) += Σ weights · parents, for rows of the tile from `row`.
SETTX_FN void add_linear(const Node& node, int64_t row, float* __restrict sum) {
    for (int32_t p = 0; p < node.num_parents; ++p) {
        const float* __restrict z = node.tile + node.parents[p] * node.stride + row;
        const float weight = node.weights[p];
        for (int i = 0; i < BLOCK; ++i) sum[i] = fma(weight, z[i], sum[i]);
    }
}

// out (num_units, BLOCK) = activation(W in + b), in (num_inputs, BLOCK).
template <int32_t activation>
SETTX_FN void dense_layer(const float* __restrict W, const float* __restrict b, const float* __restrict in,
                          int32_t num_inputs, int32_t num_units, float* __restrict out) {
    for (int32_t j = 0; j < num_units; ++j) {
        float* __restrict unit = out + j * BLOCK;
        for (int i = 0; i < BLOCK; ++i) unit[i] = b[j];
        for (int32_t p = 0; p < num_inputs; ++p)
            for (int i = 0; i < BLOCK; ++i) unit[i] = fma(W[j * num_inputs + p], in[p * BLOCK + i], unit[i]);
        for (int i = 0; i < BLOCK; ++i) unit[i] = activate<activation>(unit[i]);
    }
}

template <int32_t activation>
void add_mlp(const Node& node, int64_t row, float* __restrict sum) {
    const int32_t hidden = int32_t(node.parameters[0]), layers = int32_t(node.parameters[1]);
    const int64_t width = hidden > node.num_parents ? hidden : node.num_parents;
    float *in = node.scratch, *out = node.scratch + width * BLOCK;
    for (int32_t p = 0; p < node.num_parents; ++p) {
        const float* z = node.tile + node.parents[p] * node.stride + row;
        for (int i = 0; i < BLOCK; ++i) in[p * BLOCK + i] = node.weights[p] * z[i];
    }
    const float* W = node.parameters + MlpShape::HEADER;
    for (int32_t layer = 0, num_inputs = node.num_parents; layer < layers; ++layer, num_inputs = hidden) {
        const float* b = W + int64_t(hidden) * num_inputs;
        dense_layer<activation>(W, b, in, num_inputs, hidden, out);
        W = b + hidden;
        float* swap = in;
        in = out;
        out = swap;
    }
    alignas(64) float f[BLOCK] = {};
    for (int32_t j = 0; j < hidden; ++j)
        for (int i = 0; i < BLOCK; ++i) f[i] = fma(W[j], in[j * BLOCK + i], f[i]);
    for (int i = 0; i < BLOCK; ++i) sum[i] += f[i];
}

void add_mechanism(const Node& node, int64_t row, float* sum) {
    if (node.num_parents == 0) return;
    if (node.mechanism == LINEAR) return add_linear(node, row, sum);
    switch (int32_t(node.parameters[2])) {
        case TANH:
            return add_mlp<TANH>(node, row, sum);
        case RELU:
            return add_mlp<RELU>(node, row, sum);
        case LEAKY_RELU:
            return add_mlp<LEAKY_RELU>(node, row, sum);
        case SIGMOID:
            return add_mlp<SIGMOID>(node, row, sum);
        case SINE:
            return add_mlp<SINE>(node, row, sum);
    }
}

// Rows [row, row + count) of the tile, count a multiple of BLOCK; local_row is the first one's number in the
// environment.
void evaluate_node(const Node& node, int64_t count, int64_t local_row) {
    for (int64_t row = 0; row < count; row += BLOCK) {
        alignas(64) float sum[BLOCK], noise[BLOCK];
        for (int i = 0; i < BLOCK; ++i) sum[i] = node.bias;
        add_mechanism(node, row, sum);
        if (node.noise_scale != 0.0f) {
            Address at = node.noise_at;
            at.block += uint32_t((local_row + row) / (BLOCK / LANES));
            noise_block(node.noise_kind, node.noise_parameter, at, node.seed, noise);
            for (int i = 0; i < BLOCK; ++i) sum[i] = fma(node.noise_scale, noise[i], sum[i]);
        }
        for (int i = 0; i < BLOCK; ++i) node.x[row + i] = sum[i];
    }
}

// ---- Tiles ----------------------------------------------------------------------------------------------------------

// T: a tile of (V, T) floats in 32 KB where V allows it.
int64_t tile_rows(int64_t V) {
    const int64_t fitting = 8192 / V / BLOCK * BLOCK;
    return fitting < BLOCK ? BLOCK : (fitting > 1024 ? 1024 : fitting);
}

typedef float Four __attribute__((vector_size(16)));
typedef int FourInts __attribute__((vector_size(16)));

SETTX_FN Four load_four(const float* from) {
    Four four;
    std::memcpy(&four, from, sizeof four);
    return four;
}

SETTX_FN void store_four(float* to, Four four) {
    std::memcpy(to, &four, sizeof four);
}

// out (rows, V) = tile (V, T) transposed, four by four.
void write_rows(const float* __restrict tile, int64_t T, int64_t V, int64_t rows, float* __restrict out) {
    const int64_t whole_rows = rows / 4 * 4, whole_variables = V / 4 * 4;
    for (int64_t r = 0; r < whole_rows; r += 4)
        for (int64_t v = 0; v < whole_variables; v += 4) {
            const float* from = tile + v * T + r;
            const Four a = load_four(from), b = load_four(from + T);
            const Four c = load_four(from + 2 * T), d = load_four(from + 3 * T);
            const Four ab_low = __builtin_shuffle(a, b, FourInts{0, 4, 1, 5});
            const Four ab_high = __builtin_shuffle(a, b, FourInts{2, 6, 3, 7});
            const Four cd_low = __builtin_shuffle(c, d, FourInts{0, 4, 1, 5});
            const Four cd_high = __builtin_shuffle(c, d, FourInts{2, 6, 3, 7});
            float* to = out + r * V + v;
            store_four(to, __builtin_shuffle(ab_low, cd_low, FourInts{0, 1, 4, 5}));
            store_four(to + V, __builtin_shuffle(ab_low, cd_low, FourInts{2, 3, 6, 7}));
            store_four(to + 2 * V, __builtin_shuffle(ab_high, cd_high, FourInts{0, 1, 4, 5}));
            store_four(to + 3 * V, __builtin_shuffle(ab_high, cd_high, FourInts{2, 3, 6, 7}));
        }
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t v = r < whole_rows ? whole_variables : 0; v < V; ++v) out[r * V + v] = tile[v * T + r];
}

int64_t padded(int64_t count) {
    return (count + LANES - 1) / LANES * LANES;
}

}  // namespace

// Weights of all edges; the tile; the input and output of an MLP layer.
int64_t scratch_floats(int64_t V, int64_t num_edges, int64_t max_hidden) {
    return padded(num_edges) + V * tile_rows(V) + 2 * BLOCK * (max_hidden > V ? max_hidden : V);
}

void fill_noise(int32_t kind, float parameter, uint64_t seed, int64_t dataset, int32_t variable, int64_t n,
                float* out) {
    Address at = address(uint64_t(dataset), 0, uint32_t(variable), FOR_NOISE);
    for (int64_t row = 0; row < n; row += BLOCK, at.block += LANES) noise_block(kind, parameter, at, seed, out + row);
}

void evaluate_segment(const Tables& t, const Rows& rows, const Segment& segment, const Parents& parents,
                      float* scratch) {
    const int64_t V = t.variables, b = segment.dataset, k = segment.environment, T = tile_rows(V);
    const int64_t n = t.num_variables[b], bk = b * t.environments + k;
    float* edge_weights = scratch;
    float* tile = scratch + padded(parents.start[n]);
    for (int64_t v = 0; v < n; ++v)
        for (int32_t e = parents.start[v]; e < parents.start[v + 1]; ++e)
            edge_weights[e] = t.weights[(bk * V + parents.parents[e]) * V + v];
    for (int64_t i = n * T; i < V * T; ++i) tile[i] = 0.0f;

    const int64_t first_row = rows.row_offset[b * (t.environments + 1) + k];
    for (int64_t local = segment.first; local < segment.last; local += T) {
        const int64_t count = segment.last - local < T ? segment.last - local : T;
        for (int64_t position = 0; position < n; ++position) {
            const int64_t v = t.order[b * V + position], bv = b * V + v, bkv = bk * V + v;
            const int32_t first_parent = parents.start[v];
            evaluate_node({tile + v * T, tile, T, parents.parents + first_parent, edge_weights + first_parent,
                           t.hard[bkv] ? 0 : parents.start[v + 1] - first_parent, t.bias[bkv], t.noise_scale[bkv],
                           int32_t(t.noise_kind[bv]), t.noise_parameters[2 * bv], t.mechanism[bv],
                           t.parameters + t.mechanism_offset[bkv],
                           address(uint64_t(t.index[b]), uint32_t(k), uint32_t(v), FOR_NOISE), rows.seed, tile + V * T},
                          (count + BLOCK - 1) / BLOCK * BLOCK, local);
        }
        const int64_t row = b * rows.rows + first_row + local;
        write_rows(tile, T, V, count, rows.values + row * V);
        for (int64_t i = 0; i < count; ++i) rows.environment[row + i] = k;
    }
}

}  // namespace settx::scm::SETTX_PATH
