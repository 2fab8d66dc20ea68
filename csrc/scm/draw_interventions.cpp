// Interventions: what they do to the variables of an environment.
#include "dataset.h"
#include "path_functions.h"
#include "random.h"
#include "variables.h"

namespace settx::scm::SETTX_PATH {
namespace {

// One environment of a dataset, and where its new mechanisms may write their parameters.
struct Environment {
    const Dataset& d;
    int64_t k, number;          // of `number` environments
    int64_t copy_distance;      // how far from the dataset's own parameters this environment's copy lies
    const int64_t* own_offset;  // (n,)
    int32_t* candidates;        // (n,)
};

SETTX_CALL void redraw_strengths(const Dataset& d, int64_t k, int32_t v) {
    for (int32_t p = 0; p < d.n; ++p)
        if (d.edge(p, v)) draw_weight(d, k, p, v, uint32_t(k) + 1);
    draw_noise_scale(d, k, v, uint32_t(k) + 1);
}

SETTX_CALL void remove_edges(const Dataset& d, int64_t k, int32_t v, float probability, uint32_t block) {
    for (int32_t p = 0; p < d.n; ++p) {
        const float u = unit(d.words(uint32_t(k) + 1, v, FOR_REMOVAL, uint32_t(p) + block * uint32_t(d.n)).w0);
        if (d.edge(p, v) && u < probability) d.weight(k, p, v) = 0.0f;
    }
}

// Notes where the parameters will lie; `draw_parameters_of` draws them.
SETTX_CALL void renew_mechanism(const Environment& e, int32_t v) {
    e.d.t.mechanism_offset[e.d.at(e.k, v)] = e.own_offset[v] + e.copy_distance;
    redraw_strengths(e.d, e.k, v);
}

// A variable under do() in this environment stays as it is, whatever else is asked.
SETTX_CALL void intervene(const Environment& e, int32_t v, const Intervention& what, uint32_t which, Words words) {
    const Dataset& d = e.d;
    const int64_t at = d.at(e.k, v);
    if (d.t.hard[at]) return;
    const float value = draw_number(what.value, words);
    d.t.intervention[at] = what.kind;
    switch (what.kind) {
        case SHIFT:
            d.t.bias[at] += value;
            break;
        case SCALE:
            d.t.noise_scale[at] *= value;
            break;
        case SET_NOISE:
            d.t.noise_scale[at] = value;
            break;
        case HARD:
            fix_value(d, e.k, v, value);
            break;
        case REDRAW:
            redraw_strengths(d, e.k, v);
            break;
        case REMOVE_EDGES:
            remove_edges(d, e.k, v, value, which);
            break;
        case NEW_MECHANISM:
            renew_mechanism(e, v);
            break;
        case DRIFT:
            d.t.bias[at] += value * (float(e.k) / float(e.number > 1 ? e.number - 1 : 1));
            break;
        case LABEL_SHIFT:
            d.label_slope(e.k) = value;  // in units of the target's deviation, until the pilot shows it
            break;
    }
}

SETTX_CALL void intervene_at_random(const Environment& e, const Intervention& what, uint32_t which, Stream stream) {
    const Dataset& d = e.d;
    int32_t *candidates = e.candidates, available = 0;
    for (int32_t v = 0; v < d.n; ++v)
        if (what.on_target || v != d.t.target_index[d.b]) candidates[available++] = v;
    for (int32_t left = pick(stream.next(), what.number); left > 0 && available > 0; --left, --available) {
        const int32_t chosen = pick(stream.next(), available);
        intervene(e, candidates[chosen], what, which, stream.block());
        candidates[chosen] = candidates[available - 1];
    }
}

SETTX_CALL void intervene_in_environment(const Environment& e, const Intervention* list, int32_t count) {
    const Dataset& d = e.d;
    for (int32_t i = 0; i < count; ++i) {
        // A drift is one draw for all environments, which then go different lengths along it.
        const uint32_t environment = list[i].kind == DRIFT ? EVERY_ENVIRONMENT : uint32_t(e.k);
        Stream stream(address(d.index, environment, i, FOR_INTERVENTION), d.seed);
        if (list[i].variables == nullptr) {
            intervene_at_random(e, list[i], uint32_t(i), stream);
            continue;
        }
        for (int32_t j = 0; j < list[i].num_variables; ++j)
            for (int32_t v = 0; v < d.n; ++v)
                if (is_named(d.t, d.b, list[i].variables[j], v)) intervene(e, v, list[i], uint32_t(i), stream.block());
    }
}

SETTX_CALL bool renews_mechanisms(const Intervention* list, int32_t count) {
    for (int32_t i = 0; i < count; ++i)
        if (list[i].kind == NEW_MECHANISM) return true;
    return false;
}

}  // namespace

SETTX_CALL int64_t copies_up_to(const Prior& prior, int64_t sources, int64_t k) {
    const int64_t in_sources = k + 1 < sources ? k + 1 : sources;
    int64_t copies = 0;
    if (renews_mechanisms(prior.source_interventions, prior.num_source_interventions)) copies += in_sources;
    if (renews_mechanisms(prior.target_interventions, prior.num_target_interventions)) copies += k + 1 - in_sources;
    return copies;
}

SETTX_CALL void intervene_everywhere(const Dataset& d, int64_t sources, int64_t environments, int64_t own_parameters,
                                     const DrawScratch& scratch) {
    const Prior& prior = d.prior;
    for (int64_t k = d.team.number; k < environments; k += d.team.size) {
        const bool is_target = k >= sources;
        const Intervention* list = is_target ? prior.target_interventions : prior.source_interventions;
        const int32_t count = is_target ? prior.num_target_interventions : prior.num_source_interventions;
        const int64_t distance = copies_up_to(prior, sources, k) * own_parameters;
        d.t.is_target[d.b * d.t.environments + k] = is_target;
        intervene_in_environment(
            {d, k, environments, distance, scratch.own_offset, scratch.work + d.team.number * d.V()}, list, count);
    }
}

}  // namespace settx::scm::SETTX_PATH
