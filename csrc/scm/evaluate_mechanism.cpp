// Mechanisms that are not linear, for BLOCK rows at a time.
#include "mechanism.h"
#include "node.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

// z (num_parents, BLOCK): the weighted parents in rows of the tile from `row`.
void weigh_parents(const Node& node, int64_t row, float* z) {
    for (int32_t p = 0; p < node.num_parents; ++p) {
        fill(z + p * BLOCK, BLOCK, 0.0f);
        add_scaled(z + p * BLOCK, node.tile + node.parents[p] * node.stride + row, BLOCK, node.weights[p]);
    }
}

// ---- Networks -------------------------------------------------------------------------------------------------------

// in (num_inputs, BLOCK); parameters W (num_units, num_inputs), b, and c after them.
struct Layer {
    const float *W, *b, *in;
    int32_t num_inputs, num_units;
};

// unit (BLOCK,) = g(W in + b) for unit j.
template <class G>
SETTX_FN void evaluate_unit(const Layer& layer, G g, int32_t j, float* __restrict unit) {
    const float* __restrict W = layer.W + int64_t(j) * layer.num_inputs;
    for (int i = 0; i < BLOCK; ++i) unit[i] = layer.b[j];
    for (int32_t p = 0; p < layer.num_inputs; ++p) {
        const float* __restrict in = layer.in + p * BLOCK;
        for (int i = 0; i < BLOCK; ++i) unit[i] = fma(W[p], in[i], unit[i]);
    }
    for (int i = 0; i < BLOCK; ++i) unit[i] = g(unit[i]);
}

template <class G>
SETTX_LOOP void hidden_layer(const Layer& layer, G g, float* __restrict out) {
    for (int32_t j = 0; j < layer.num_units; ++j) evaluate_unit(layer, g, j, out + j * BLOCK);
}

// x (BLOCK,) += Σ c_j · unit j.
template <class G>
SETTX_LOOP void last_layer(const Layer& layer, G g, float* __restrict x) {
    const float* c = layer.b + layer.num_units;
    alignas(64) float unit[BLOCK], sum[BLOCK] = {};
    for (int32_t j = 0; j < layer.num_units; ++j) {
        evaluate_unit(layer, g, j, unit);
        for (int i = 0; i < BLOCK; ++i) sum[i] = fma(c[j], unit[i], sum[i]);
    }
    for (int i = 0; i < BLOCK; ++i) x[i] += sum[i];
}

template <class G>
void add_network(const Node& node, G g, int64_t row, float* x) {
    const int32_t hidden = int32_t(node.parameters[0]), layers = int32_t(node.parameters[1]);
    const int64_t width = hidden > node.num_parents ? hidden : node.num_parents;
    float *in = node.scratch, *out = node.scratch + width * BLOCK;
    weigh_parents(node, row, in);
    const float* W = node.parameters + MLP_HEADER;
    int32_t num_inputs = node.num_parents;
    for (int32_t left = layers; left > 1; --left, num_inputs = hidden) {
        const float* b = W + int64_t(hidden) * num_inputs;
        hidden_layer({W, b, in, num_inputs, hidden}, g, out);
        W = b + hidden;
        float* swap = in;
        in = out;
        out = swap;
    }
    last_layer({W, W + int64_t(hidden) * num_inputs, in, num_inputs, hidden}, g, x);
}

// ---- Parent by parent -----------------------------------------------------------------------------------------------

template <class G>
void add_sum(const Node& node, G g, int64_t row, float* x) {
    float* z = node.scratch;
    weigh_parents(node, row, z);
    for (int32_t p = 0; p < node.num_parents; ++p)
        for (int i = 0; i < BLOCK; ++i) x[i] += g(z[p * BLOCK + i]);
}

template <class G>
void add_product(const Node& node, G g, int64_t row, float* x) {
    float* z = node.scratch;
    alignas(64) float product[BLOCK];
    weigh_parents(node, row, z);
    fill(product, BLOCK, 1.0f);
    for (int32_t p = 0; p < node.num_parents; ++p)
        for (int i = 0; i < BLOCK; ++i) product[i] *= g(z[p * BLOCK + i]);
    for (int i = 0; i < BLOCK; ++i) x[i] += product[i];
}

// Σ_p z_p (1 + Σ_{q ≥ p} c_pq z_q)
void add_quadratic(const Node& node, int64_t row, float* x) {
    float* z = node.scratch;
    const float* c = node.parameters;
    alignas(64) float slope[BLOCK];
    weigh_parents(node, row, z);
    for (int32_t p = 0; p < node.num_parents; ++p) {
        fill(slope, BLOCK, 1.0f);
        for (int32_t q = p; q < node.num_parents; ++q) add_scaled(slope, z + q * BLOCK, BLOCK, *c++);
        for (int i = 0; i < BLOCK; ++i) x[i] = fma(slope[i], z[p * BLOCK + i], x[i]);
    }
}

// ---- Trees ----------------------------------------------------------------------------------------------------------

SETTX_LOOP void add_tree(const float* __restrict z, const float* tree, int32_t depth, float* __restrict x) {
    alignas(64) int32_t leaf[BLOCK] = {};
    for (int32_t level = 0; level < depth; ++level) {
        const float* __restrict parent = z + int32_t(tree[2 * level]) * BLOCK;
        const float threshold = tree[2 * level + 1];
        for (int i = 0; i < BLOCK; ++i) leaf[i] = 2 * leaf[i] + (parent[i] > threshold ? 1 : 0);
    }
    const float* __restrict leaves = tree + 2 * depth;
    for (int i = 0; i < BLOCK; ++i) x[i] += leaves[leaf[i]];
}

void add_trees(const Node& node, int64_t row, float* x) {
    const int32_t trees = int32_t(node.parameters[0]), depth = int32_t(node.parameters[1]);
    weigh_parents(node, row, node.scratch);
    const float* tree = node.parameters + TREES_HEADER;
    for (int32_t t = 0; t < trees; ++t, tree += tree_size(depth)) add_tree(node.scratch, tree, depth, x);
}

// ---- Clusters -------------------------------------------------------------------------------------------------------

// scores (BLOCK,) of cluster k.
SETTX_LOOP void score_cluster(const float* __restrict z, int32_t num_parents, const Clusters& clusters, int32_t k,
                              float* __restrict scores) {
    const float* centre = clusters.centres + int64_t(k) * num_parents;
    alignas(64) float distance[BLOCK] = {};
    for (int32_t p = 0; p < num_parents; ++p)
        for (int i = 0; i < BLOCK; ++i) {
            const float apart = z[p * BLOCK + i] - centre[p];
            distance[i] = fma(apart, apart, distance[i]);
        }
    for (int i = 0; i < BLOCK; ++i) scores[i] = clusters.score(k, distance[i]);
}

// scores (clusters, BLOCK), best (BLOCK,) of them
SETTX_LOOP void add_values(const Clusters& clusters, const float* __restrict scores, const float* __restrict best,
                           float* __restrict x) {
    alignas(64) float total[BLOCK] = {}, sum[BLOCK] = {};
    for (int32_t k = 0; k < clusters.number; ++k)
        for (int i = 0; i < BLOCK; ++i) {
            const float likely = exp(scores[k * BLOCK + i] - best[i]);
            total[i] += likely;
            sum[i] = fma(clusters.values[k], likely, sum[i]);
        }
    for (int i = 0; i < BLOCK; ++i) x[i] += sum[i] / total[i];
}

void add_clusters(const Node& node, int64_t row, float* x) {
    const Clusters clusters(node.parameters);
    alignas(64) float scores[MOST_CLUSTERS * BLOCK], best[BLOCK];
    weigh_parents(node, row, node.scratch);
    for (int32_t k = 0; k < clusters.number; ++k) {
        float* const mine = scores + k * BLOCK;
        score_cluster(node.scratch, node.num_parents, clusters, k, mine);
        for (int i = 0; i < BLOCK; ++i) best[i] = k > 0 && !(mine[i] > best[i]) ? best[i] : mine[i];
    }
    add_values(clusters, scores, best, x);
}

// ---- Any of them ----------------------------------------------------------------------------------------------------

// x (BLOCK,) += f(z) in rows of the tile from `row`.
void add_effect(const Node& node, int64_t row, float* x) {
    const float* own = node.parameters;
    switch (node.mechanism) {
        case MLP:
        case FOURIER:
            return with_function(own[2], [&](auto g) { add_network(node, g, row, x); });
        case ADDITIVE_SUM:
            return with_function(own[0], [&](auto g) { add_sum(node, g, row, x); });
        case PRODUCT:
            return with_function(own[0], [&](auto g) { add_product(node, g, row, x); });
        case QUADRATIC:
            return add_quadratic(node, row, x);
        case TREES:
            return add_trees(node, row, x);
        case CLUSTERS:
            return add_clusters(node, row, x);
        case LINEAR:
            for (int32_t p = 0; p < node.num_parents; ++p)
                add_scaled(x, node.tile + node.parents[p] * node.stride + row, BLOCK, node.weights[p]);
    }
}

void add_factors(const Node& node, int64_t row, float* x) {
    alignas(64) float product[BLOCK], factor[BLOCK];
    fill(product, BLOCK, 1.0f);
    Node part = node;
    for (const float* at = node.parameters;; at = next_factor(at)) {
        part.mechanism = factor_kind(at);
        part.parameters = at + FACTOR_HEADER;
        fill(factor, BLOCK, 0.0f);
        add_effect(part, row, factor);
        for (int i = 0; i < BLOCK; ++i) product[i] *= factor[i];
        if (is_last_factor(at)) break;
    }
    for (int i = 0; i < BLOCK; ++i) x[i] += product[i];
}

}  // namespace

void add_mechanism(const Node& node, int64_t row) {
    if (node.mechanism == FACTORS) return add_factors(node, row, node.x + row);
    add_effect(node, row, node.x + row);
}

void categorise(const Node& node, int64_t count) {
    const int32_t cuts = int32_t(node.parameters[0]) - 1;
    const float* __restrict thresholds = node.parameters + 1;
    const float* __restrict values = thresholds + cuts;
    for (int64_t row = 0; row < count; row += BLOCK) {
        float* __restrict x = node.x + row;
        alignas(64) int32_t level[BLOCK] = {};
        for (int32_t j = 0; j < cuts; ++j)
            for (int i = 0; i < BLOCK; ++i) level[i] += x[i] > thresholds[j] ? 1 : 0;
        for (int i = 0; i < BLOCK; ++i) x[i] = values[level[i]];
    }
}

void transform(const Node& node, int64_t count) {
    with_function(node.parameters[0], [&](auto g) {
        for (int64_t i = 0; i < count; ++i) node.x[i] = g(node.x[i]);
    });
}

}  // namespace settx::scm::SETTX_PATH
