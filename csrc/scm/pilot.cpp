#include "pilot.h"

#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

constexpr int64_t PILOT_BLOCKS = 4;     // in all, as many from every source environment, one at least
constexpr float CONSTANT_RTOL = 1e-6f;  // a deviation below this share of the mean is rounding

int64_t blocks_per_source(int64_t sources) {
    return sources < PILOT_BLOCKS ? PILOT_BLOCKS / sources : 1;
}

void evaluate_column(const Pilot& pilot, int64_t v) {
    for (int64_t k = 0; k < pilot.sources; ++k) {
        const Model model = pilot.model(k);
        gather_weights(model, v, pilot.weights);
        evaluate_node(node_of(model, v, pilot.weights), pilot.rows, 0);
    }
}

// ---- Mean and standard deviation ------------------------------------------------------------------------------------

template <class Used>
Spread spread_over(const Pilot& pilot, int64_t v, Used used) {
    int64_t count = 0;
    for (int64_t k = 0; k < pilot.sources; ++k) count += used(k) * pilot.rows;
    if (count == 0) return {0.0f, 0.0f};
    const float mean = sum_over_rows(pilot, v, used, [](float x) { return x; }) / float(count);
    const auto square = [&](float x) { return (x - mean) * (x - mean); };
    const float deviation = sqrt(sum_over_rows(pilot, v, used, square) / float(count));
    if (!(abs(mean) < 3e38f && deviation < 3e38f)) return {0.0f, 0.0f};
    return {mean, deviation > CONSTANT_RTOL * abs(mean) ? deviation : 0.0f};
}

// By the environments where v is not fixed.
void standardise(const Pilot& pilot, int64_t v) {
    const auto is_free = [&](int64_t k) { return pilot.is_free(v, k); };
    const Spread spread = spread_over(pilot, v, is_free);
    const float gain = spread.deviation > 0.0f ? 1.0f / spread.deviation : 1.0f;
    pilot.t.centre[pilot.at(v)] = spread.mean;
    pilot.t.gain[pilot.at(v)] = gain;
    for (int64_t k = 0; k < pilot.sources; ++k)
        if (is_free(k)) rescale(pilot.column(v) + k * pilot.rows, pilot.rows, spread.mean, gain);
}

}  // namespace

Spread spread_of(const Pilot& pilot, int64_t v) {
    return spread_over(pilot, v, [](int64_t) { return true; });
}

int64_t pilot_floats(int64_t V, int64_t K, int64_t max_hidden) {
    const int64_t rows = BLOCK * (K > PILOT_BLOCKS ? K : PILOT_BLOCKS);
    return padded(V) + V * rows + 2 * BLOCK * (max_hidden > V ? max_hidden : V);
}

void run_pilot(const Prior& prior, uint64_t seed, const Tables& t, int64_t b, const Parents& parents, float* scratch) {
    const int64_t V = t.variables, K = t.environments;
    int64_t sources = 0;
    while (sources < t.num_environments[b] && !t.is_target[b * K + sources]) ++sources;
    const int64_t rows = BLOCK * blocks_per_source(sources);
    float* tile = scratch + padded(V);
    const Pilot pilot{t, parents, b, sources, rows, seed, scratch, tile, tile + V * sources * rows};
    for (int64_t position = 0; position < t.num_variables[b]; ++position) {
        const int64_t v = t.order[b * V + position];
        evaluate_column(pilot, v);
        if (prior.standardisation == INTERNAL) standardise(pilot, v);
    }
    draw_observation(prior, pilot);
}

}  // namespace settx::scm::SETTX_PATH
