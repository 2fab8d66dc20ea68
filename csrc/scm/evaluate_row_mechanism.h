// What a variable makes of its parents, a few rows at a time. Operations and their order are those of
// evaluate_mechanism.cpp.
#pragma once
#include "lane_rows.h"
#include "mechanism.h"

namespace settx::scm {

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

template <int N>
SETTX_FN void apply_function(float header, Units<N>* units) {
    with_function(header, [&](auto g) {
        for (int u = 0; u < UNITS<N>; ++u)
            units->unit[u] = each_row<N>([&](int r) { return g(units->unit[u].row[r]); });
    });
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
            apply_function(function, &units);
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

// In place of memory for hidden layers, where networks have one, which needs none.
struct OneLayer {};

// As above. The first two inputs, which most variables have no more than, stay in registers from units to units.
template <int N, class Which, class Memory>
SETTX_FN RowsOf<N> add_network(RowsOf<N> x, const Which& v, const Memory& values, OneLayer) {
    const float *const p = v.parameters, function = p[2];
    const int32_t num_units = int32_t(p[0]), num_inputs = v.num_parents;
    const int32_t biases = MLP_HEADER + num_units * num_inputs;  // where they begin
    const RowsOf<N> one = weighted_parent<N>(v, values, 0), other = weighted_parent<N>(v, values, num_inputs > 1);
    RowsOf<N> sum = all_rows<N>(0.0f);
    for (int32_t j = 0; j < num_units; j += UNITS<N>) {
        Units<N> units;
        int32_t weights[UNITS<N>];
        for (int u = 0; u < UNITS<N>; ++u) {
            const int32_t unit = j + u < num_units ? j + u : num_units - 1;
            weights[u] = MLP_HEADER + unit * num_inputs;
            units.unit[u] = add_scaled(all_rows<N>(p[biases + unit]), one, p[weights[u]]);
        }
        if (num_inputs > 1)
            for (int u = 0; u < UNITS<N>; ++u) units.unit[u] = add_scaled(units.unit[u], other, p[weights[u] + 1]);
        for (int32_t i = 2; i < num_inputs; ++i) {
            const RowsOf<N> z = weighted_parent<N>(v, values, i);
            for (int u = 0; u < UNITS<N>; ++u) units.unit[u] = add_scaled(units.unit[u], z, p[weights[u] + i]);
        }
        apply_function(function, &units);
        for (int u = 0; u < UNITS<N>; ++u) {
            if (j + u >= num_units) break;
            sum = add_scaled(sum, units.unit[u], p[biases + num_units + j + u]);
        }
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

}  // namespace settx::scm
