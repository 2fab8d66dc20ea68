// From (prior, seed, index) to the tables of one dataset. Every number has an address of its own in the stream, so that
// no draw depends on how many came before it; only choices without replacement read words in order.
#include "lanes.h"
#include "mechanism.h"
#include "path_functions.h"
#include "random.h"

namespace settx::scm::SETTX_PATH {
namespace {

struct Sizes {
    int32_t variables, sources, targets;
    const Graph* graph;
};

Sizes draw_sizes(const Prior& prior, uint64_t seed, int64_t index) {
    const Words w = philox(address(index, 0, 0, FOR_SIZES), seed);
    return {pick(w.w0, prior.num_variables), pick(w.w1, prior.source_environments),
            pick(w.w2, prior.target_environments), prior.graphs + pick(w.w3, prior.num_graphs)};
}

int32_t count_parents(const bool* adjacency, int64_t V, int32_t n, int32_t v) {
    int32_t count = 0;
    for (int32_t p = 0; p < n; ++p) count += adjacency[p * V + v];
    return count;
}

// ---- One dataset ----------------------------------------------------------------------------------------------------

// Views into the tables for dataset b.
struct Dataset {
    const Prior& prior;
    const Tables& t;
    uint64_t seed;
    int64_t b, index;
    int32_t n;
    const Graph* graph;

    int64_t V() const { return t.variables; }
    bool edge(int32_t p, int32_t v) const { return t.adjacency[(b * V() + p) * V() + v]; }
    float& weight(int64_t k, int32_t p, int32_t v) const {
        return t.weights[((b * t.environments + k) * V() + p) * V() + v];
    }
    int64_t at(int64_t k, int32_t v) const { return (b * t.environments + k) * V() + v; }
    Words words(uint32_t environment, int32_t v, uint32_t purpose, uint32_t block = 0) const {
        Address a = address(index, environment, v, purpose);
        a.block = block;
        return philox(a, seed);
    }
};

const Distribution& weight_distribution(const Dataset& d, int32_t p, int32_t v) {
    if (d.graph->kind == USER_GRAPH)
        for (int32_t e = 0; e < d.graph->num_edges; ++e)
            if (d.graph->edges[2 * e] == p && d.graph->edges[2 * e + 1] == v) return d.graph->edge_weights[e];
    return d.prior.weight;
}

// Weights into v and its noise scale, for environment k; version 0 is the dataset's own, k + 1 a redraw.
void draw_mechanism_strengths(const Dataset& d, int64_t k, int32_t v, uint32_t version) {
    for (int32_t p = 0; p < d.n; ++p)
        if (d.edge(p, v))
            d.weight(k, p, v) = draw_number(weight_distribution(d, p, v), d.words(version, v, FOR_WEIGHT, p));
    const Distribution& scale = d.prior.noise_scale[d.prior.noise_scale_per_variable ? v : 0];
    d.t.noise_scale[d.at(k, v)] = draw_number(scale, d.words(version, v, FOR_NOISE_SCALE));
}

void draw_variable(const Dataset& d, int32_t v, int64_t* parameter_offset) {
    const int64_t bv = d.b * d.V() + v;
    draw_mechanism_strengths(d, 0, v, 0);
    d.t.bias[d.at(0, v)] = draw_number(d.prior.bias[d.prior.bias_per_variable ? v : 0], d.words(0, v, FOR_BIAS));

    const Noise& noise = d.prior.noises[pick(d.words(0, v, FOR_NOISE_KIND).w0, d.prior.num_noises)];
    d.t.noise_kind[bv] = noise.kind;
    float given[NOISE_INPUTS];
    for (int i = 0; i < NOISE_INPUTS; ++i)
        given[i] = draw_number(noise.parameters[i], d.words(0, v, FOR_NOISE_KIND, uint32_t(1 + i)));
    prepare_noise(noise.kind, given, d.t.noise_parameters + NOISE_PARAMETERS * bv);
    const uint32_t word = d.words(0, v, FOR_NOISE_EFFECT).w0;
    d.t.noise_effect[bv] = d.prior.noise_effects[pick(word, d.prior.num_noise_effects)];

    const int32_t parents = count_parents(d.t.adjacency + d.b * d.V() * d.V(), d.V(), d.n, v);
    const MechanismDraw m = draw_mechanism(d.prior, d.seed, d.index, v, parents);
    d.t.mechanism[bv] = m.mechanism->kind;
    d.t.mechanism_offset[d.at(0, v)] = *parameter_offset;
    draw_parameters(m, d.seed, address(d.index, 0, v, FOR_PARAMETERS), d.t.parameters + *parameter_offset);
    *parameter_offset += num_parameters(m);
}

void copy_environment(const Dataset& d, int64_t k) {
    for (int32_t v = 0; v < d.n; ++v) {
        const int64_t from = d.at(0, v), to = d.at(k, v);
        d.t.bias[to] = d.t.bias[from];
        d.t.noise_scale[to] = d.t.noise_scale[from];
        d.t.mechanism_offset[to] = d.t.mechanism_offset[from];
        for (int32_t p = 0; p < d.n; ++p) d.weight(k, p, v) = d.weight(0, p, v);
    }
}

// ---- The target variable --------------------------------------------------------------------------------------------

// 2: has parents and children, 1: has parents, 0: neither is asked.
bool is_inner(const Dataset& d, int32_t v, int demand) {
    bool parent = demand < 1, child = demand < 2;
    for (int32_t u = 0; u < d.n; ++u) {
        parent |= d.edge(u, v);
        child |= d.edge(v, u);
    }
    return parent && child;
}

int32_t draw_target(const Dataset& d) {
    if (d.prior.target >= 0) return d.prior.target;
    const uint32_t word = d.words(0, 0, FOR_TARGET).w0;
    for (int demand = d.prior.target == TARGET_INNER ? 2 : 0;; --demand) {
        int32_t eligible = 0;
        for (int32_t v = 0; v < d.n; ++v) eligible += is_inner(d, v, demand);
        if (eligible == 0) continue;  // never at demand 0
        int32_t left = pick(word, eligible);
        for (int32_t v = 0; v < d.n; ++v)
            if (is_inner(d, v, demand) && left-- == 0) return v;
    }
}

// ---- Interventions --------------------------------------------------------------------------------------------------

// A variable under do() in this environment stays as it is, whatever else is asked.
void intervene(const Dataset& d, int64_t k, int32_t v, const Intervention& what, Words words) {
    const int64_t at = d.at(k, v);
    if (d.t.hard[at]) return;
    const float value = draw_number(what.value, words);
    d.t.intervention[at] = what.kind;
    if (what.kind == SHIFT) d.t.bias[at] += value;
    if (what.kind == SCALE) d.t.noise_scale[at] *= value;
    if (what.kind == SET_NOISE) d.t.noise_scale[at] = value;
    if (what.kind == REDRAW) draw_mechanism_strengths(d, k, v, uint32_t(k) + 1);
    if (what.kind != HARD) return;
    d.t.hard[at] = true;
    d.t.bias[at] = value;
    d.t.noise_scale[at] = 0.0f;
    for (int32_t p = 0; p < d.n; ++p) d.weight(k, p, v) = 0.0f;
}

void intervene_at_random(const Dataset& d, int64_t k, const Intervention& what, Stream stream, int32_t* candidates) {
    int32_t available = 0;
    for (int32_t v = 0; v < d.n; ++v)
        if (what.on_target || v != d.t.target_index[d.b]) candidates[available++] = v;
    for (int32_t left = pick(stream.next(), what.number); left > 0 && available > 0; --left, --available) {
        const int32_t chosen = pick(stream.next(), available);
        intervene(d, k, candidates[chosen], what, stream.block());
        candidates[chosen] = candidates[available - 1];
    }
}

void intervene_in_environment(const Dataset& d, int64_t k, const Intervention* list, int32_t count,
                              int32_t* candidates) {
    for (int32_t i = 0; i < count; ++i) {
        Stream stream(address(d.index, uint32_t(k), i, FOR_INTERVENTION), d.seed);
        if (list[i].variables == nullptr) {
            intervene_at_random(d, k, list[i], stream, candidates);
            continue;
        }
        for (int32_t j = 0; j < list[i].num_variables; ++j)
            intervene(d, k, list[i].variables[j], list[i], stream.block());
    }
}

}  // namespace

int64_t draw_graph(const Prior& prior, uint64_t seed, int64_t index, int64_t V, bool* adjacency, int64_t* order,
                   int32_t* scratch) {
    const Sizes sizes = draw_sizes(prior, seed, index);
    draw_structure(*sizes.graph, seed, index, sizes.variables, V, adjacency, order, scratch);
    int64_t count = 0;
    for (int32_t v = 0; v < sizes.variables; ++v) {
        const int32_t parents = count_parents(adjacency, V, sizes.variables, v);
        count += num_parameters(draw_mechanism(prior, seed, index, v, parents));
    }
    return count;
}

void draw_dataset(const Prior& prior, uint64_t seed, int64_t parameter_offset, const Tables& t, int64_t b,
                  int32_t* scratch) {
    const int64_t V = t.variables, index = t.index[b];
    const Sizes sizes = draw_sizes(prior, seed, index);
    const Dataset d{prior, t, seed, b, index, sizes.variables, sizes.graph};
    t.num_variables[b] = sizes.variables;
    t.num_environments[b] = sizes.sources + sizes.targets;
    draw_structure(*sizes.graph, seed, index, sizes.variables, V, t.adjacency + b * V * V, t.order + b * V, scratch);
    t.target_index[b] = draw_target(d);
    for (int32_t v = 0; v < d.n; ++v) draw_variable(d, v, &parameter_offset);
    for (int64_t k = 1; k < sizes.sources + sizes.targets; ++k) copy_environment(d, k);
    for (int64_t k = 0; k < sizes.sources + sizes.targets; ++k) {
        const bool is_target = k >= sizes.sources;
        t.is_target[b * t.environments + k] = is_target;
        if (is_target)
            intervene_in_environment(d, k, prior.target_interventions, prior.num_target_interventions, scratch);
        else
            intervene_in_environment(d, k, prior.source_interventions, prior.num_source_interventions, scratch);
    }
}

}  // namespace settx::scm::SETTX_PATH
