// From (prior, seed, index) to the tables of one dataset. Every number has an address of its own in the stream, so that
// no draw depends on how many came before it; only choices without replacement read words in order.
#include "dataset.h"
#ifdef SETTX_KERNEL
#include "evaluate_model.h"
#endif
#include "mechanism.h"
#include "path_functions.h"
#include "random.h"
#include "variables.h"

namespace settx::scm::SETTX_PATH {
namespace {

struct Sizes {
    int32_t variables, sources, targets;
    const Graph* graph;
};

SETTX_CALL Sizes draw_sizes(const Prior& prior, uint64_t seed, int64_t index) {
    const Words w = words_at(address(index, 0, 0, FOR_SIZES), seed);
    return {pick(w.w0, prior.num_variables), pick(w.w1, prior.source_environments),
            pick(w.w2, prior.target_environments), prior.graphs + pick(w.w3, prior.num_graphs)};
}

// ---- One dataset ----------------------------------------------------------------------------------------------------

// The weights of all edges, and num_parents (n,).
#ifdef SETTX_KERNEL
// Edges are listed first, so that no member draws more of them than the others.
SETTX_CALL void draw_weights(const Dataset& d, int32_t* num_parents, const DrawScratch& scratch) {
    const Team& team = d.team;
    const EdgeList list = edge_list(d.t, 0, scratch.edges);
    count_edges(d.t, d.b, team.number, team.size, num_parents);
    team.meet();
    list_edges(d.t, d.b, team.number, team.size, num_parents, list);
    team.meet();
    for (int32_t e = team.number; e < list.starts[d.n]; e += team.size)
        draw_weight(d, 0, parent_of(list.edges[e]), child_of(list.edges[e]), 0);
}
#else
SETTX_CALL void draw_weights(const Dataset& d, int32_t* num_parents, const DrawScratch&) {
    for (int32_t p = 0; p < d.n; ++p)
        for_each_true(d.edges_from(p), d.n, [&](int64_t v) { draw_weight(d, 0, p, int32_t(v), 0); });
    for (int32_t v = 0; v < d.n; ++v) num_parents[v] = 0;
    count_parents(d.edges_from(0), d.V(), d.n, num_parents);
}
#endif

SETTX_CALL void draw_variable(const Dataset& d, int32_t v, const MechanismDraw& m, int64_t parameter_offset) {
    const int64_t bv = d.b * d.V() + v;
    draw_noise_scale(d, 0, v, 0);
    d.t.bias[d.at(0, v)] = d.number(d.prior.bias[d.prior.bias_per_variable ? v : 0], 0, v, FOR_BIAS);

    const Noise& noise = d.prior.noises[d.choice(d.prior.num_noises, v, FOR_NOISE_KIND)];
    d.t.noise_kind[bv] = noise.kind;
    float given[NOISE_INPUTS];
    for (int i = 0; i < NOISE_INPUTS; ++i)
        given[i] = d.number(noise.parameters[i], 0, v, FOR_NOISE_KIND, uint32_t(1 + i));
    prepare_noise(noise.kind, given, d.t.noise_parameters + NOISE_PARAMETERS * bv);
    d.t.noise_effect[bv] = d.prior.noise_effects[d.choice(d.prior.num_noise_effects, v, FOR_NOISE_EFFECT)];

    d.t.mechanism[bv] = m.mechanism->kind;
    d.t.mechanism_offset[d.at(0, v)] = parameter_offset;
    d.t.gain[bv] = d.t.column_gain[bv] = 1.0f;
}

// Notes the mechanisms and where their parameters begin. Returns how many there are of all.
SETTX_CALL int64_t draw_mechanisms(const Dataset& d, const int32_t* num_parents, int64_t parameter_offset,
                                   const DrawScratch& scratch) {
    const Team& team = d.team;
    for (int32_t v = team.number; v < d.n; v += team.size) {
        scratch.mechanisms[v] = draw_mechanism(d.prior, d.seed, d.index, v, num_parents[v]);
        scratch.own_offset[v] = d.t.num_parameters > 0 ? num_parameters(scratch.mechanisms[v], d.seed) : 0;
    }
    team.meet();
    if (d.t.num_parameters == 0) return 0;
    int64_t own_parameters = 0;
    for (int32_t v = 0; v < d.n; ++v) own_parameters += scratch.own_offset[v];
    team.meet();
    if (!team.leads()) return own_parameters;
    for (int64_t v = 0, next = parameter_offset; v < d.n; ++v) {
        const int64_t first = next;
        next += scratch.own_offset[v];
        scratch.own_offset[v] = first;
    }
    return own_parameters;
}

SETTX_CALL void copy_environment(const Dataset& d, int64_t k) {
    for (int32_t v = d.team.number; v < d.n; v += d.team.size) {
        const int64_t from = d.at(0, v), to = d.at(k, v);
        d.t.bias[to] = d.t.bias[from];
        d.t.noise_scale[to] = d.t.noise_scale[from];
        d.t.mechanism_offset[to] = d.t.mechanism_offset[from];
        for (int32_t p = 0; p < d.n; ++p) d.weight(k, p, v) = d.weight(0, p, v);
    }
}

// In proportion to imbalance to the power of a uniform number, as whole numbers, so that sums of them are exact.
SETTX_CALL void draw_row_weights(const Dataset& d) {
    const Distribution& imbalance = d.prior.environment_imbalance;
    if (imbalance.kind == CONSTANT && imbalance.low == 0.0f) return;
    const float fall = -log(d.number(imbalance, 0, 0, FOR_ROW_WEIGHT));
    for (int64_t k = 0; k < d.t.num_environments[d.b]; ++k) {
        const float share = exp(fall * unit(d.words(uint32_t(k) + 1, 0, FOR_ROW_WEIGHT).w0));
        d.t.row_weight[d.b * d.t.environments + k] = 1 + int64_t(share * 1048576.0f);
    }
}

// ---- The target variable --------------------------------------------------------------------------------------------

// 2: has parents and children, 1: has parents.
SETTX_CALL bool is_inner(const Dataset& d, int32_t v, int demand) {
    bool parent = false, child = demand < 2;
    for (int32_t u = 0; u < d.n; ++u) {
        parent |= d.edge(u, v);
        child |= d.edge(v, u);
    }
    return parent && child;
}

// inner (n,): whether a variable is.
SETTX_CALL int32_t draw_target(const Dataset& d, int32_t* inner) {
    if (d.prior.target >= 0) return d.prior.target;
    const uint32_t word = d.words(0, 0, FOR_TARGET).w0;
    for (int demand = d.prior.target == TARGET_INNER ? 2 : 0; demand > 0; --demand) {
        for (int32_t v = d.team.number; v < d.n; v += d.team.size) inner[v] = is_inner(d, v, demand);
        d.team.meet();
        int32_t eligible = 0, left = 0, chosen = 0;
        for (int32_t v = 0; v < d.n; ++v) eligible += inner[v];
        if (eligible > 0) left = pick(word, eligible);
        while (eligible > 0 && !(inner[chosen] && left-- == 0)) ++chosen;
        d.team.meet();
        if (eligible > 0) return chosen;
    }
    return pick(word, d.n);
}

}  // namespace

SETTX_CALL void draw_model(const Prior& prior, uint64_t seed, int64_t parameter_offset, const Tables& t, int64_t b,
                           const DrawScratch& scratch, const Team& team) {
    const int64_t V = t.variables, index = t.index[b];
    const Sizes sizes = draw_sizes(prior, seed, index);
    const int64_t environments = sizes.sources + sizes.targets;
    const Dataset d{prior, t, seed, b, index, sizes.variables, sizes.graph, team};
    if (team.leads()) {
        t.num_variables[b] = sizes.variables;
        t.num_environments[b] = environments;
        t.target_share[b] = d.number(prior.target_share, 0, 0, FOR_TARGET_SHARE);
        draw_row_weights(d);
    }
    draw_structure(*sizes.graph, seed, index, sizes.variables, V, t.adjacency + b * V * V, t.order + b * V,
                   scratch.work, team);
    const int32_t target = draw_target(d, scratch.work);
    if (team.leads()) t.target_index[b] = target;
    draw_weights(d, scratch.work, scratch);
    const int64_t own_parameters = draw_mechanisms(d, scratch.work, parameter_offset, scratch);
    team.meet();
    for (int32_t v = team.number; v < d.n; v += team.size)
        draw_variable(d, v, scratch.mechanisms[v], scratch.own_offset[v]);
    team.meet();
    for (int64_t k = 1; k < environments; ++k) copy_environment(d, k);
    team.meet();
    if (prior.shifts.are_asked_for) move_mechanisms(d, sizes.sources, environments);
    team.meet();
    intervene_everywhere(d, sizes.sources, environments, own_parameters, scratch);
}

// Of one variable in one version: 0 is the dataset's own, k + 1 is for environment k alone, if it has one. PRODUCTS: it
// may be a product, for which kernels that can do without have no registers.
template <bool PRODUCTS>
SETTX_CALL void draw_parameters_of(uint64_t seed, const Tables& t, int64_t b, int64_t version, int32_t v,
                                   const DrawScratch& scratch, const Team& team) {
    int64_t offset = scratch.own_offset[v];
    if (version > 0) {
        const int64_t own = offset;
        offset = t.mechanism_offset[(b * t.environments + version - 1) * t.variables + v];
        if (offset == own) return;
    }
    const MechanismDraw& m = scratch.mechanisms[v];
    const Address at = address(t.index[b], uint32_t(version), v, FOR_PARAMETERS);
    if (PRODUCTS && m.mechanism->kind == FACTORS)
        draw_factors(m, seed, at, t.parameters + offset, team);
    else
        draw_parameters(m, seed, at, t.parameters + offset, team);
}

#ifndef SETTX_KERNEL  // on a CPU alone
SETTX_CALL int64_t draw_graph(const Prior& prior, uint64_t seed, int64_t index, int64_t V, bool* adjacency,
                              int64_t* order, int32_t* scratch) {
    const Sizes sizes = draw_sizes(prior, seed, index);
    draw_structure(*sizes.graph, seed, index, sizes.variables, V, adjacency, order, scratch, {});
    for (int32_t v = 0; v < sizes.variables; ++v) scratch[v] = 0;
    count_parents(adjacency, V, sizes.variables, scratch);
    int64_t count = 0;
    for (int32_t v = 0; v < sizes.variables; ++v)
        count += num_parameters(draw_mechanism(prior, seed, index, v, scratch[v]), seed);
    // Environments that may renew mechanisms get room for all of them.
    return (1 + copies_up_to(prior, sizes.sources, sizes.sources + sizes.targets - 1)) * count;
}

SETTX_CALL void draw_dataset(const Prior& prior, uint64_t seed, int64_t parameter_offset, const Tables& t, int64_t b,
                             void* memory) {
    const DrawScratch scratch(memory, t.variables);
    draw_model(prior, seed, parameter_offset, t, b, scratch, {});
    if (t.num_parameters == 0) return;
    for (int64_t version = 0; version <= t.num_environments[b]; ++version)
        for (int32_t v = 0; v < t.num_variables[b]; ++v) draw_parameters_of<true>(seed, t, b, version, v, scratch, {});
}
#endif

}  // namespace settx::scm::SETTX_PATH
