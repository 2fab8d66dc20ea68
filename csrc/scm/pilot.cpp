// Pilot rows: a few hundred rows of the source environments, with an address range of their own, that show a dataset's
// scales before any row is drawn.
#include "node.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

constexpr int64_t PILOT_BLOCKS = 8;     // in all, as many from every source environment, one at least
constexpr float CONSTANT_RTOL = 1e-6f;  // a deviation below this share of the mean is rounding

int64_t blocks_per_source(int64_t sources) {
    return sources < PILOT_BLOCKS ? PILOT_BLOCKS / sources : 1;
}

struct Pilot {
    const Tables& t;
    const Parents& parents;
    int64_t b, sources, rows;  // rows of each source environment
    uint64_t seed;
    float *weights, *tile, *scratch;  // (V,), (V, sources · rows), of a mechanism

    Model model(int64_t k) const {
        return {t, parents, b, k, seed, FOR_PILOT, tile + k * rows, scratch, sources * rows};
    }
    float* column(int64_t v, int64_t k) const { return tile + v * sources * rows + k * rows; }
    bool is_free(int64_t v, int64_t k) const { return !t.hard[model(k).at(v)]; }
};

void evaluate_column(const Pilot& pilot, int64_t v) {
    for (int64_t k = 0; k < pilot.sources; ++k) {
        const Model model = pilot.model(k);
        gather_weights(model, v, pilot.weights);
        evaluate_node(node_of(model, v, pilot.weights), pilot.rows, 0);
    }
}

// ---- Mean and standard deviation ------------------------------------------------------------------------------------

// Sum of term(x) over the rows where v is free: lane by lane in the order of the rows, then halves onto each other.
template <class Term>
float sum_over_rows(const Pilot& pilot, int64_t v, Term term) {
    alignas(64) float lanes[BLOCK] = {};
    for (int64_t k = 0; k < pilot.sources; ++k) {
        if (!pilot.is_free(v, k)) continue;
        for (int64_t row = 0; row < pilot.rows; row += BLOCK)
            for (int i = 0; i < BLOCK; ++i) lanes[i] += term(pilot.column(v, k)[row + i]);
    }
    for (int half = BLOCK / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

struct Spread {
    float mean, deviation;
};

// Of a variable that is fixed everywhere, or exploded, no mean; of a constant, no deviation.
Spread spread_of(const Pilot& pilot, int64_t v) {
    int64_t count = 0;
    for (int64_t k = 0; k < pilot.sources; ++k) count += pilot.is_free(v, k) * pilot.rows;
    if (count == 0) return {0.0f, 0.0f};
    const float mean = sum_over_rows(pilot, v, [](float x) { return x; }) / float(count);
    const float square = sum_over_rows(pilot, v, [&](float x) { return (x - mean) * (x - mean); }) / float(count);
    const float deviation = sqrt(square);
    if (!(abs(mean) < 3e38f && deviation < 3e38f)) return {0.0f, 0.0f};
    return {mean, deviation > CONSTANT_RTOL * abs(mean) ? deviation : 0.0f};
}

void standardise(const Pilot& pilot, int64_t v) {
    const Spread spread = spread_of(pilot, v);
    const float gain = spread.deviation > 0.0f ? 1.0f / spread.deviation : 1.0f;
    pilot.t.centre[pilot.b * pilot.t.variables + v] = spread.mean;
    pilot.t.gain[pilot.b * pilot.t.variables + v] = gain;
    for (int64_t k = 0; k < pilot.sources; ++k)
        if (pilot.is_free(v, k)) rescale(pilot.column(v, k), pilot.rows, spread.mean, gain);
}

}  // namespace

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
}

}  // namespace settx::scm::SETTX_PATH
