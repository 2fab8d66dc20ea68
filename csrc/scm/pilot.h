// Pilot rows: a few hundred rows of the source environments, with an address range of their own, that show a dataset's
// scales before any row is drawn.
#pragma once
#include "node.h"

namespace settx::scm::SETTX_PATH {

struct Pilot {
    const Tables& t;
    const Parents& parents;
    int64_t b, sources, rows;  // rows of each source environment
    uint64_t seed;
    float *weights, *tile, *scratch;  // (V,), (V, sources · rows), of a mechanism

    Model model(int64_t k) const {
        return {t, parents, b, k, seed, FOR_PILOT, tile + k * rows, scratch, sources * rows};
    }
    int64_t at(int64_t v) const { return b * t.variables + v; }
    int64_t count() const { return sources * rows; }
    float* column(int64_t v) const { return tile + v * count(); }
    bool is_free(int64_t v, int64_t k) const { return !t.hard[model(k).at(v)]; }
};

// Sum of term(x) over the environments that are used(k): lane by lane in the order of the rows, then halves onto each
// other.
template <class Used, class Term>
float sum_over_rows(const Pilot& pilot, int64_t v, Used used, Term term) {
    alignas(64) float lanes[BLOCK] = {};
    for (int64_t k = 0; k < pilot.sources; ++k) {
        if (!used(k)) continue;
        const float* x = pilot.column(v) + k * pilot.rows;
        for (int64_t row = 0; row < pilot.rows; row += BLOCK)
            for (int i = 0; i < BLOCK; ++i) lanes[i] += term(x[row + i]);
    }
    for (int half = BLOCK / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

struct Spread {
    float mean, deviation;
};

// Of a column that exploded no mean, of a constant no deviation.
Spread spread_of(const Pilot&, int64_t v);

// Draws what is to be seen of the dataset, in units of the pilot's columns, which become what is seen of them.
void draw_observation(const Prior&, const Pilot&);

}  // namespace settx::scm::SETTX_PATH
