// From tables to rows, a few rows at a time: what one thread of a GPU does, with nothing of CUDA in it, so that a CPU
// can run it too. Operations and their order are those of evaluate.cpp and evaluate_mechanism.cpp.
#pragma once
#include "lanes.h"
#include "mechanism.h"
#include "observe.h"

namespace settx::scm {

// A lane's rows: l, 16 + l, 32 + l and 48 + l of a block of 64, which share a Philox counter.
constexpr int QUAD = BLOCK / LANES;

template <int N>
struct RowsOf {
    float row[N];
};
using Quad = RowsOf<QUAD>;

template <int N = QUAD, class Value>
SETTX_FN RowsOf<N> each_row(const Value& value) {
    RowsOf<N> x;
    for (int r = 0; r < N; ++r) x.row[r] = value(r);
    return x;
}

template <int N = QUAD>
SETTX_FN RowsOf<N> all_rows(float value) {
    return each_row<N>([&](int) { return value; });
}

// x + weight · z
template <int N>
SETTX_FN RowsOf<N> add_scaled(RowsOf<N> x, RowsOf<N> z, float weight) {
    return each_row<N>([&](int r) { return fma(weight, z.row[r], x.row[r]); });
}

// Some of a lane's rows: bit r for row r.
using RowSet = uint32_t;
constexpr RowSet ALL_ROWS = (1u << QUAD) - 1;

SETTX_FN bool has_row(RowSet rows, int r) {
    return rows >> r & 1u;
}

template <class Holds>
SETTX_FN RowSet rows_where(const Holds& holds) {
    RowSet rows = 0;
    for (int r = 0; r < QUAD; ++r) rows |= RowSet(holds(r) ? 1 : 0) << r;
    return rows;
}

// Row r of number i lies at first[i · stride + r · row_stride].
struct LaneMemory {
    float* first;
    int64_t stride, row_stride;
    RowSet rows = ALL_ROWS;  // that there are

    SETTX_METHOD Quad load(int64_t i) const {
        return each_row([&](int r) { return has_row(rows, r) ? first[i * stride + r * row_stride] : 0.0f; });
    }

    SETTX_METHOD void store(int64_t i, Quad x, RowSet which = ALL_ROWS) const {
        for (int r = 0; r < QUAD; ++r)
            if (has_row(rows & which, r)) first[i * stride + r * row_stride] = canonical(x.row[r]);
    }
};

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

// Which: a Variable, or whatever else names its parents as `values` is asked for them.
template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> weighted_parent(const Which& v, const Memory& values, int32_t i) {
    return add_scaled(all_rows<N>(0.0f), values.load(v.parent(i)), v.weight(i));
}

template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_parents(RowsOf<N> x, const Which& v, const Memory& values) {
    for (int32_t i = 0; i < v.num_parents; ++i) x = add_scaled(x, values.load(v.parent(i)), v.weight(i));
    return x;
}

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

// ---- Mechanisms -----------------------------------------------------------------------------------------------------

// Of a layer, computed together: each input is read once for all of them, as far as registers go.
template <int N>
constexpr int UNITS = N < QUAD ? 8 : 4;

template <int N>
struct Units {
    RowsOf<N> unit[UNITS<N>];
};

// Units from j on, before the activation; past the last one they repeat it. W (num_units, num_inputs), b (num_units).
template <int N, class Input>
SETTX_FN Units<N> add_inputs(const float* W, int32_t num_inputs, int32_t num_units, int32_t j, const Input& input) {
    Units<N> units;
    const float* b = W + num_units * num_inputs;
    int32_t row[UNITS<N>];
    for (int u = 0; u < UNITS<N>; ++u) {
        const int32_t unit = j + u < num_units ? j + u : num_units - 1;
        row[u] = unit * num_inputs;
        units.unit[u] = all_rows<N>(b[unit]);
    }
    for (int32_t i = 0; i < num_inputs; ++i) {
        const RowsOf<N> z = input(i);
        for (int u = 0; u < UNITS<N>; ++u) units.unit[u] = add_scaled(units.unit[u], z, W[row[u] + i]);
    }
    return units;
}

// hidden: two layers of the widest network with more than one, if there is such a network.
template <int N, class Which, class Memory, class Hidden>
SETTX_FN RowsOf<N> add_network(RowsOf<N> x, const Which& v, const Memory& values, const Hidden& hidden) {
    const int32_t num_units = int32_t(v.parameters[0]), layers = int32_t(v.parameters[1]);
    const float function = v.parameters[2];
    const float* W = v.parameters + MLP_HEADER;
    int32_t num_inputs = v.num_parents;
    RowsOf<N> sum = all_rows<N>(0.0f);
    for (int32_t layer = 0; layer < layers; ++layer, num_inputs = num_units) {
        const float* c = W + num_units * (num_inputs + 1);  // or the next layer
        const int32_t in = (layer - 1) % 2 * num_units, out = layer % 2 * num_units;
        for (int32_t j = 0; j < num_units; j += UNITS<N>) {
            Units<N> units = add_inputs<N>(W, num_inputs, num_units, j, [&](int32_t i) {
                return layer == 0 ? weighted_parent<N>(v, values, i) : hidden.load(in + i);
            });
            with_function(function, [&](auto g) {
                for (int u = 0; u < UNITS<N>; ++u)
                    units.unit[u] = each_row<N>([&](int r) { return g(units.unit[u].row[r]); });
            });
            for (int u = 0; u < UNITS<N>; ++u) {
                if (j + u >= num_units) break;
                if (layer == layers - 1)
                    sum = add_scaled(sum, units.unit[u], c[j + u]);
                else
                    hidden.store(out + j + u, units.unit[u]);
            }
        }
        W = c;
    }
    return each_row<N>([&](int r) { return x.row[r] + sum.row[r]; });
}

// Σ g(z_p) or Π g(z_p)
template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_elementwise(RowsOf<N> x, const Which& v, const Memory& values) {
    RowsOf<N> product = all_rows<N>(1.0f);
    for (int32_t i = 0; i < v.num_parents; ++i) {
        RowsOf<N> z = weighted_parent<N>(v, values, i);
        with_function(v.parameters[0], [&](auto g) { z = each_row<N>([&](int r) { return g(z.row[r]); }); });
        if (v.mechanism == ADDITIVE_SUM)
            x = each_row<N>([&](int r) { return x.row[r] + z.row[r]; });
        else
            product = each_row<N>([&](int r) { return product.row[r] * z.row[r]; });
    }
    return v.mechanism == ADDITIVE_SUM ? x : each_row<N>([&](int r) { return x.row[r] + product.row[r]; });
}

// Σ_p z_p (1 + Σ_{q ≥ p} c_pq z_q)
template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_quadratic(RowsOf<N> x, const Which& v, const Memory& values) {
    const float* c = v.parameters;
    for (int32_t i = 0; i < v.num_parents; ++i) {
        RowsOf<N> slope = all_rows<N>(1.0f);
        for (int32_t j = i; j < v.num_parents; ++j) slope = add_scaled(slope, weighted_parent<N>(v, values, j), *c++);
        const RowsOf<N> z = weighted_parent<N>(v, values, i);
        x = each_row<N>([&](int r) { return fma(slope.row[r], z.row[r], x.row[r]); });
    }
    return x;
}

template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_trees(RowsOf<N> x, const Which& v, const Memory& values) {
    const int32_t trees = int32_t(v.parameters[0]), depth = int32_t(v.parameters[1]);
    const float* tree = v.parameters + TREES_HEADER;
    for (int32_t t = 0; t < trees; ++t, tree += tree_size(depth)) {
        int32_t leaf[N] = {};
        for (int32_t level = 0; level < depth; ++level) {
            const RowsOf<N> z = weighted_parent<N>(v, values, int32_t(tree[2 * level]));
            for (int r = 0; r < N; ++r) leaf[r] = 2 * leaf[r] + (z.row[r] > tree[2 * level + 1] ? 1 : 0);
        }
        x = each_row<N>([&](int r) { return x.row[r] + tree[2 * depth + leaf[r]]; });
    }
    return x;
}

template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> score_cluster(const Which& v, const Memory& values, const Clusters& clusters, int32_t k) {
    const float* centre = clusters.centres + k * v.num_parents;
    RowsOf<N> distance = all_rows<N>(0.0f);
#ifdef __CUDACC__
#pragma unroll 1
#endif
    for (int32_t i = 0; i < v.num_parents; ++i) {
        const RowsOf<N> z = weighted_parent<N>(v, values, i);
        distance = each_row<N>([&](int r) {
            const float apart = z.row[r] - centre[i];
            return fma(apart, apart, distance.row[r]);
        });
    }
    return each_row<N>([&](int r) { return clusters.score(k, distance.row[r]); });
}

// Scores are computed once for the best of them and once more for what is made of them: there is nowhere to keep them.
template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_clusters(RowsOf<N> x, const Which& v, const Memory& values) {
    const Clusters clusters(v.parameters);
    RowsOf<N> best = all_rows<N>(0.0f), total = best, sum = best;
#ifdef __CUDACC__
#pragma unroll 1
#endif
    for (int32_t step = 0; step < 2 * clusters.number; ++step) {
        const bool is_best_known = step >= clusters.number;
        const int32_t k = is_best_known ? step - clusters.number : step;
        const RowsOf<N> score = score_cluster<N>(v, values, clusters, k);
        if (!is_best_known) {
            best = each_row<N>(
                [&](int r) { return step > 0 && !(score.row[r] > best.row[r]) ? best.row[r] : score.row[r]; });
            continue;
        }
        const RowsOf<N> likely = each_row<N>([&](int r) { return exp(score.row[r] - best.row[r]); });
        total = each_row<N>([&](int r) { return total.row[r] + likely.row[r]; });
        sum = add_scaled(sum, likely, clusters.values[k]);
    }
    return each_row<N>([&](int r) { return x.row[r] + sum.row[r] / total.row[r]; });
}

// The value of the level that x falls into.
template <int N, class Which>
SETTX_FN RowsOf<N> categorised(RowsOf<N> x, const Which& v) {
    const int32_t cuts = int32_t(v.parameters[0]) - 1;
    int32_t level[N] = {};
    for (int32_t j = 1; j <= cuts; ++j)
        for (int r = 0; r < N; ++r) level[r] += x.row[r] > v.parameters[j] ? 1 : 0;
    return each_row<N>([&](int r) { return v.parameters[1 + cuts + level[r]]; });
}

// x + f(z), f no product
template <int N, class Which, class Memory, class Hidden>
SETTX_FN RowsOf<N> add_effect(RowsOf<N> x, const Which& v, const Memory& values, const Hidden& hidden) {
    switch (v.mechanism) {
        case MLP:
        case FOURIER:
            return add_network(x, v, values, hidden);
        case ADDITIVE_SUM:
        case PRODUCT:
            return add_elementwise(x, v, values);
        case QUADRATIC:
            return add_quadratic(x, v, values);
        case TREES:
            return add_trees(x, v, values);
        case CLUSTERS:
            return add_clusters(x, v, values);
        default:
            return add_parents(x, v, values);
    }
}

// bias + Π of the factors
template <int N, class Which, class Memory, class Hidden>
SETTX_FN RowsOf<N> multiply_factors(const Which& v, const Memory& values, const Hidden& hidden) {
    RowsOf<N> product = all_rows<N>(1.0f);
    Which part = v;
    for (const float* at = v.parameters;; at = next_factor(at)) {
        part.mechanism = factor_kind(at);
        part.parameters = at + FACTOR_HEADER;
        const RowsOf<N> factor = add_effect(all_rows<N>(0.0f), part, values, hidden);
        product = each_row<N>([&](int r) { return product.row[r] * factor.row[r]; });
        if (is_last_factor(at)) break;
    }
    return each_row<N>([&](int r) { return v.bias + product.row[r]; });
}

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
