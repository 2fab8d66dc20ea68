// From tables to rows: tiles that stay in cache, one contiguous vector per variable, variables in topological order.
#include "lanes.h"
#include "mechanism.h"
#include "node.h"
#include "noise.h"
#include "observe.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

// ---- One variable in one environment --------------------------------------------------------------------------------

// Multiplicative and heteroscedastic noise, for rows of the tile from `row`.
void add_modulated_noise(const Node& node, Address at, int64_t row) {
    alignas(64) float noise[BLOCK] = {}, predictor[BLOCK] = {};
    float* x = node.x + row;
    add_noise(node.noise_kind, node.noise_parameters, node.noise_scale, at, node.seed, BLOCK, noise);
    if (node.noise_effect == MULTIPLICATIVE) {
        for (int i = 0; i < BLOCK; ++i) x[i] = fma(x[i], noise[i], x[i]);
        return;
    }
    for (int32_t p = 0; p < node.num_parents; ++p)
        add_scaled(predictor, node.tile + node.parents[p] * node.stride + row, BLOCK, node.weights[p]);
    for (int i = 0; i < BLOCK; ++i) x[i] = fma(2.0f * sigmoid(predictor[i]), noise[i], x[i]);
}

void add_all_noise(const Node& node, int64_t count, int64_t local_row) {
    const bool additive = node.noise_effect == ADDITIVE || node.num_parents == 0;
    Address at = node.noise_at;
    at.block += uint32_t(local_row / (BLOCK / LANES));
    if (additive)
        return add_noise(node.noise_kind, node.noise_parameters, node.noise_scale, at, node.seed, count, node.x);
    for (int64_t row = 0; row < count; row += BLOCK, at.block += LANES) add_modulated_noise(node, at, row);
}

// x (count,) = start + Σ of N weighted parents from `first` on, added in order; start is the bias, or x itself.
template <int N, bool FROM_BIAS>
SETTX_LOOP void add_parents(const Node& node, int32_t first, int64_t count) {
    float* const x = node.x;
    const float* parents[N];
    float weights[N];
    for (int p = 0; p < N; ++p) {
        parents[p] = node.tile + node.parents[first + p] * node.stride;
        weights[p] = node.weights[first + p];
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
        float sum = FROM_BIAS ? node.bias : x[i];
        for (int p = 0; p < N; ++p) sum = fma(weights[p], parents[p][i], sum);
        x[i] = sum;
    }
}

template <bool FROM_BIAS>
void add_four_parents(const Node& node, int32_t first, int64_t count) {
    switch (node.num_parents - first) {
        case 1:
            return add_parents<1, FROM_BIAS>(node, first, count);
        case 2:
            return add_parents<2, FROM_BIAS>(node, first, count);
        case 3:
            return add_parents<3, FROM_BIAS>(node, first, count);
        default:
            return add_parents<4, FROM_BIAS>(node, first, count);
    }
}

// x = bias + Σ of all weighted parents.
void sum_parents(const Node& node, int64_t count) {
    if (node.num_parents == 0) return fill(node.x, count, node.bias);
    add_four_parents<true>(node, 0, count);
    for (int32_t p = 4; p < node.num_parents; p += 4) add_four_parents<false>(node, p, count);
}

}  // namespace

void evaluate_node(const Node& node, int64_t count, int64_t local_row) {
    const bool post_nonlinear = node.mechanism == POST_NONLINEAR && node.num_parents > 0;
    const bool has_levels = node.mechanism == CATEGORIES;
    if (node.mechanism == LINEAR || node.num_parents == 0 || post_nonlinear || has_levels) {
        sum_parents(node, count);
    } else {
        fill(node.x, count, node.bias);
        for (int64_t row = 0; row < count; row += BLOCK) add_mechanism(node, row);
    }
    if (node.noise_scale != 0.0f) add_all_noise(node, count, local_row);
    if (post_nonlinear) transform(node, count);
    if (has_levels) categorise(node, count);
    if (node.gain != 1.0f || node.centre != 0.0f) rescale(node.x, count, node.centre, node.gain);
}

void gather_weights(const Model& m, int64_t v, float* weights) {
    const int64_t V = m.t.variables, bk = m.dataset * m.t.environments + m.environment;
    const int32_t* parents = m.parents.parents + m.parents.start[v];
    for (int32_t p = 0; p < m.num_parents(v); ++p) weights[p] = m.t.weights[(bk * V + parents[p]) * V + v];
}

Node node_of(const Model& m, int64_t v, const float* weights) {
    const Tables& t = m.t;
    const int64_t bv = m.dataset * t.variables + v, bkv = m.at(v);
    const bool hard = t.hard[bkv];
    const Address noise_at = at_attempt(m.address_of(v, m.purpose), m.attempt);
    return {m.tile + v * m.stride,
            m.tile,
            m.stride,
            m.parents.parents + m.parents.start[v],
            weights,
            hard ? 0 : m.num_parents(v),
            t.bias[bkv],
            t.noise_scale[bkv],
            hard ? 0.0f : t.centre[bv],
            hard ? 1.0f : t.gain[bv],
            int32_t(t.noise_kind[bv]),
            t.noise_parameters + NOISE_PARAMETERS * bv,
            t.noise_effect[bv],
            hard ? int64_t(LINEAR) : t.mechanism[bv],
            t.parameters + t.mechanism_offset[bkv],
            noise_at,
            m.seed,
            m.scratch};
}

void evaluate_variables(const Model& m, const float* edge_weights, int64_t count, int64_t local_row) {
    for (int64_t position = 0; position < m.num_variables(); ++position) {
        const int64_t v = m.t.order[m.dataset * m.t.variables + position];
        evaluate_node(node_of(m, v, edge_weights + m.parents.start[v]), count, local_row);
    }
}

namespace {

// ---- Tiles ----------------------------------------------------------------------------------------------------------

constexpr int64_t FIRST_CACHE = 32 << 10, SECOND_CACHE = 256 << 10, ENOUGH_ROWS = 256, MOST_ROWS = 1024;

// T: a tile of (V, T) floats fits the first cache, or the second where that leaves too few rows for a call to pay.
int64_t tile_rows(int64_t V) {
    const int64_t row = V * int64_t(sizeof(float)), first = FIRST_CACHE / row, second = SECOND_CACHE / row;
    const int64_t enough = second < ENOUGH_ROWS ? second : ENOUGH_ROWS, most = first < MOST_ROWS ? first : MOST_ROWS;
    const int64_t rows = enough > most ? enough : most;
    return rows < BLOCK ? BLOCK : rows / BLOCK * BLOCK;
}

// Fetches lines while arithmetic runs, which a burst of stores would wait for.
SETTX_FN void prefetch_for_write(const float* first, const float* last) {
    for (; first < last; first += 16) __builtin_prefetch(first, 1, 3);
}

typedef float Eight __attribute__((vector_size(32)));
typedef int EightInts __attribute__((vector_size(32)));

SETTX_FN void load_eight(const float* from, Eight* eight) {  // every NaN canonical
    EightInts bits;
    std::memcpy(eight, from, sizeof *eight);
    std::memcpy(&bits, from, sizeof bits);
    const EightInts is_nan = *eight != *eight;
    bits = (bits & ~is_nan) | (is_nan & int(NAN_BITS));
    std::memcpy(eight, &bits, sizeof *eight);
}

// Four numbers of row r, and four of row r + 4.
SETTX_FN void store_halves(float* row, float* fourth_row, const Eight& eight) {
    std::memcpy(row, &eight, sizeof eight / 2);
    std::memcpy(fourth_row, reinterpret_cast<const float*>(&eight) + 4, sizeof eight / 2);
}

// out (8, V) = four variables of the tile (V, T) transposed.
SETTX_FN void transpose(const float* tile, int64_t T, int64_t V, float* out) {
    Eight a, b, c, d;
    load_eight(tile, &a);
    load_eight(tile + T, &b);
    load_eight(tile + 2 * T, &c);
    load_eight(tile + 3 * T, &d);
    const Eight ab_low = __builtin_shuffle(a, b, EightInts{0, 8, 1, 9, 4, 12, 5, 13});
    const Eight ab_high = __builtin_shuffle(a, b, EightInts{2, 10, 3, 11, 6, 14, 7, 15});
    const Eight cd_low = __builtin_shuffle(c, d, EightInts{0, 8, 1, 9, 4, 12, 5, 13});
    const Eight cd_high = __builtin_shuffle(c, d, EightInts{2, 10, 3, 11, 6, 14, 7, 15});
    constexpr EightInts FIRST = {0, 1, 8, 9, 4, 5, 12, 13}, SECOND = {2, 3, 10, 11, 6, 7, 14, 15};
    store_halves(out, out + 4 * V, __builtin_shuffle(ab_low, cd_low, FIRST));
    store_halves(out + V, out + 5 * V, __builtin_shuffle(ab_low, cd_low, SECOND));
    store_halves(out + 2 * V, out + 6 * V, __builtin_shuffle(ab_high, cd_high, FIRST));
    store_halves(out + 3 * V, out + 7 * V, __builtin_shuffle(ab_high, cd_high, SECOND));
}

// out (rows, V) = tile (V, T) transposed.
SETTX_LOOP void write_rows(const float* __restrict tile, int64_t T, int64_t V, int64_t rows, float* __restrict out) {
    const int64_t whole_rows = rows / 8 * 8, whole_variables = V / 4 * 4;
    for (int64_t r = 0; r < whole_rows; r += 8)
        for (int64_t v = 0; v < whole_variables; v += 4) transpose(tile + v * T + r, T, V, out + r * V + v);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t v = r < whole_rows ? whole_variables : 0; v < V; ++v) out[r * V + v] = canonical(tile[v * T + r]);
}

// tile: (V, T), with zeros for the variables that the dataset lacks.
void write_noise(const Model& m, const Rows& rows, float* tile, const TileRows& tile_rows) {
    const int64_t V = m.t.variables;
    for (int64_t v = m.num_variables(); v < V; ++v) fill(tile + v * m.stride, tile_rows.count, 0.0f);
    for (int64_t v = 0; v < m.num_variables(); ++v) fill_noise_of_rows(m, rows, v, tile_rows, tile + v * m.stride);
    write_rows(tile, m.stride, V, tile_rows.count, rows.noise + tile_rows.row * V);
}

// Floats that the nodes of all variables take.
int64_t node_floats(int64_t V) {
    return padded(V * int64_t(sizeof(Node) / sizeof(float)));
}

// The nodes of one environment in topological order.
const Node* make_nodes(const Model& m, const float* edge_weights, float* memory) {
    Node* const nodes = reinterpret_cast<Node*>(memory);
    for (int64_t position = 0; position < m.num_variables(); ++position) {
        const int64_t v = m.t.order[m.dataset * m.t.variables + position];
        nodes[position] = node_of(m, v, edge_weights + m.parents.start[v]);
    }
    return nodes;
}

}  // namespace

// All nodes; weights of all edges; the tile; another tile for what is asked beside the values; the input and output of
// an MLP layer.
int64_t scratch_floats(int64_t V, int64_t num_edges, int64_t max_hidden) {
    return node_floats(V) + padded(num_edges) + 2 * V * tile_rows(V) + 2 * BLOCK * (max_hidden > V ? max_hidden : V);
}

void evaluate_segment(const Tables& t, const Rows& rows, const Segment& segment, const Parents& parents,
                      float* scratch) {
    const int64_t V = t.variables, b = segment.dataset, k = segment.environment, T = tile_rows(V);
    const int64_t n = t.num_variables[b];
    float* edge_weights = scratch + node_floats(V);
    float *tile = edge_weights + padded(parents.start[n]), *spare = tile + V * T;
    const Model model{t, parents, b, k, rows.seed, FOR_NOISE, tile, spare + V * T, T};
    for (int64_t v = 0; v < n; ++v) gather_weights(model, v, edge_weights + parents.start[v]);
    const Node* const nodes = make_nodes(model, edge_weights, scratch);
    for (int64_t i = n * T; i < V * T; ++i) tile[i] = 0.0f;

    const int64_t first_row = rows.row_offset[b * (t.environments + 1) + k];
    for (int64_t local = segment.first; local < segment.last; local += T) {
        const int64_t count = segment.last - local < T ? segment.last - local : T;
        const int64_t row = b * rows.rows + first_row + local;
        float *out = rows.values + row * V, *const end = out + count * V;
        const int64_t share = (count * V + n - 1) / n;
        for (int64_t position = 0; position < n; ++position) {
            float* const fetched = out + position * share;
            prefetch_for_write(fetched, end - fetched < share ? end : fetched + share);
            evaluate_node(nodes[position], whole_blocks(count), local);
        }
        const TileRows tile_rows{count, local, row};
        if (rows.is_observed) observe_tile(model, rows, edge_weights, spare, tile_rows);
        write_rows(tile, T, V, count, out);
        if (rows.noise != nullptr) write_noise(model, rows, spare, tile_rows);
        for (int64_t i = 0; i < count; ++i) rows.environment[row + i] = k;
    }
}

}  // namespace settx::scm::SETTX_PATH
