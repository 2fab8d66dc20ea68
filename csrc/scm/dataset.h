// One dataset while it is drawn.
#pragma once
#include "path_functions.h"
#include "random.h"

namespace settx::scm::SETTX_PATH {

// Views into the tables for dataset b.
struct Dataset {
    const Prior& prior;
    const Tables& t;
    uint64_t seed;
    int64_t b, index;
    int32_t n;
    const Graph* graph;
    Team team;

    SETTX_METHOD int64_t V() const { return t.variables; }
    SETTX_METHOD const bool* edges_from(int32_t p) const { return t.adjacency + (b * V() + p) * V(); }
    SETTX_METHOD bool edge(int32_t p, int32_t v) const { return edges_from(p)[v]; }
    SETTX_METHOD float& weight(int64_t k, int32_t p, int32_t v) const {
        return t.weights[((b * t.environments + k) * V() + p) * V() + v];
    }
    SETTX_METHOD float& label_slope(int64_t k) const {
        return t.accept_slope[(b * t.environments + k) * ACCEPTANCES + 1];
    }
    SETTX_METHOD int64_t at(int64_t k, int32_t v) const { return (b * t.environments + k) * V() + v; }
    SETTX_CALL Words words(uint32_t environment, int32_t v, uint32_t purpose, uint32_t block = 0) const {
        Address a = address(index, environment, v, purpose);
        a.block = block;
        return words_at(a, seed);
    }
    // What has one outcome needs no random words.
    SETTX_CALL float number(const Distribution& distribution, uint32_t environment, int32_t v, uint32_t purpose,
                            uint32_t block = 0) const {
        if (distribution.kind == CONSTANT && !distribution.is_signed) return distribution.low;
        return draw_number(distribution, words(environment, v, purpose, block));
    }
    SETTX_CALL int32_t choice(int32_t count, int32_t v, uint32_t purpose) const {
        return count == 1 ? 0 : pick(words(0, v, purpose).w0, count);
    }
};

SETTX_CALL static inline const Distribution& weight_distribution(const Dataset& d, int32_t p, int32_t v) {
    if (d.graph->kind == USER_GRAPH)
        for (int32_t e = 0; e < d.graph->num_edges; ++e)
            if (d.graph->edges[2 * e] == p && d.graph->edges[2 * e + 1] == v) return d.graph->edge_weights[e];
    return d.prior.weight;
}

// Of environment k; version 0 is the dataset's own, k + 1 a redraw.
SETTX_CALL static inline void draw_weight(const Dataset& d, int64_t k, int32_t p, int32_t v, uint32_t version) {
    d.weight(k, p, v) = d.number(weight_distribution(d, p, v), version, v, FOR_WEIGHT, p);
}

SETTX_CALL static inline void draw_noise_scale(const Dataset& d, int64_t k, int32_t v, uint32_t version) {
    const Distribution& scale = d.prior.noise_scale[d.prior.noise_scale_per_variable ? v : 0];
    d.t.noise_scale[d.at(k, v)] = d.number(scale, version, v, FOR_NOISE_SCALE);
}

// do(v = value) in environment k.
SETTX_CALL static inline void fix_value(const Dataset& d, int64_t k, int32_t v, float value) {
    const int64_t at = d.at(k, v);
    d.t.hard[at] = true;
    d.t.bias[at] = value;
    d.t.noise_scale[at] = 0.0f;
    if (v == d.t.target_index[d.b]) d.label_slope(k) = 0.0f;  // one value has no distribution to shift
    for (int32_t p = 0; p < d.n; ++p) d.weight(k, p, v) = 0.0f;
}

}  // namespace settx::scm::SETTX_PATH
