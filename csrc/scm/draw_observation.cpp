// What is to be seen of a dataset. Of several entries of a kind that fall on one variable the last one holds.
#include "observe.h"
#include "pilot.h"
#include "random.h"
#include "variables.h"

namespace settx::scm::SETTX_PATH {
namespace {

struct ObservationDraw {
    const Prior& prior;
    const Pilot& pilot;
    const Tables& t;
    int32_t n, target;

    int64_t at(int32_t v) const { return pilot.at(v); }
    const Observation& entry(int32_t i) const { return prior.observations[i]; }
    Words words(int32_t i, int32_t v, uint32_t block) const {
        Address a = address(uint64_t(t.index[pilot.b]), uint32_t(i), uint32_t(v), FOR_OBSERVATION);
        a.block = block;
        return philox(a, pilot.seed);
    }
    float number(int32_t i, const Distribution& distribution, int32_t v, uint32_t block) const {
        return draw_number(distribution, words(i, v, block));
    }
};

// Blocks of random words: of a variable; of the whole dataset, at variable 0.
enum Block : uint32_t { CHOICE = 0, FIRST = 1, SECOND = 2, ORDERS = 8, WHOLE = 64 };

// ---- Which variables ------------------------------------------------------------------------------------------------

bool may_fall_on(const ObservationDraw& d, const Observation& entry, int32_t v) {
    if (d.t.is_hidden[d.at(v)] && entry.kind != SELECT) return false;
    if (entry.variables == nullptr) return entry.on_target || v != d.target;
    for (int32_t i = 0; i < entry.num_variables; ++i)
        if (is_named(d.t, d.pilot.b, entry.variables[i], v)) return true;
    return false;
}

bool falls_on(const ObservationDraw& d, int32_t i, int32_t v) {
    if (!may_fall_on(d, d.entry(i), v)) return false;
    return unit(d.words(i, v, CHOICE).w0) < d.number(i, d.entry(i).probability, 0, WHOLE);
}

// The last entry of a kind that falls on v, or −1.
int32_t last_entry(const ObservationDraw& d, ObservationKind kind, int32_t v) {
    int32_t last = -1;
    for (int32_t i = 0; i < d.prior.num_observations; ++i)
        if (d.entry(i).kind == kind && falls_on(d, i, v)) last = i;
    return last;
}

int32_t count_children(const ObservationDraw& d, int32_t v) {
    int32_t count = 0;
    for (int32_t u = 0; u < d.n; ++u) count += has_edge(d.t, d.pilot.b, v, u);
    return count;
}

// The variable to hide next: a common cause if there is one, else any, never the target; −1: one feature is left.
int32_t next_to_hide(const ObservationDraw& d, int32_t i) {
    int32_t features = 0, chosen = -1;
    uint64_t least = ~uint64_t(0);
    for (int32_t v = 0; v < d.n; ++v) {
        if (v == d.target || d.t.is_hidden[d.at(v)]) continue;
        ++features;
        if (!may_fall_on(d, d.entry(i), v)) continue;
        const uint64_t rank = uint64_t(count_children(d, v) < 2) << 32 | d.words(i, v, CHOICE).w1;
        if (rank < least) least = rank, chosen = v;
    }
    return features > 1 ? chosen : -1;
}

void hide(const ObservationDraw& d, int32_t i) {
    int32_t count = pick(d.words(i, 0, WHOLE + 1).w0, d.entry(i).number);
    if (d.entry(i).option == 1) {
        count = 0;
        for (int32_t v = 0; v < d.n; ++v) count += v != d.target && falls_on(d, i, v);
    }
    for (int32_t v; count > 0 && (v = next_to_hide(d, i)) >= 0; --count) d.t.is_hidden[d.at(v)] = true;
}

// ---- What the pilot shows of a column -------------------------------------------------------------------------------

// Numbers in the order of the floats.
float float_of(int32_t key) {
    return from_bits(uint32_t(key >= 0 ? key : key ^ 0x7FFFFFFF));
}

// The least number that more than `share` of the column does not exceed.
float quantile(const Pilot& pilot, int64_t v, float share) {
    const int32_t rank = int32_t(share * float(pilot.count())), last = int32_t(pilot.count()) - 1;
    const float* x = pilot.column(v);
    int64_t low = int32_t(0x80800000), high = 0x7F7FFFFF;  // the ends of the finite numbers
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const float candidate = float_of(int32_t(middle));
        int32_t below = 0;
        for (int64_t i = 0; i < pilot.count(); ++i) below += x[i] <= candidate;
        if (below > (rank < last ? rank : last))
            high = middle;
        else
            low = middle + 1;
    }
    return float_of(int32_t(low));
}

float logit(float p) {
    return log(p / (1.0f - p));
}

// The intercept with which the logistic probability of the column is `rate` on average, by bisection.
float intercept_for(const Pilot& pilot, int64_t v, float slope, float rate, const Spread& spread) {
    const float middle = logit(rate) - slope * spread.mean, reach = 6.0f * abs(slope) * spread.deviation;
    float low = middle - reach, high = middle + reach;
    for (int step = 0; step < 16; ++step) {
        const float intercept = 0.5f * (low + high);
        const auto everywhere = [](int64_t) { return true; };
        const auto term = [&](float x) { return probability(x, slope, intercept); };
        const bool too_often = sum_over_rows(pilot, v, everywhere, term) > rate * float(pilot.count());
        (too_often ? high : low) = intercept;
    }
    return 0.5f * (low + high);
}

// ---- Which rows -----------------------------------------------------------------------------------------------------

void accept(const ObservationDraw& d, int64_t k, int64_t slot, int32_t v, float slope, float threshold) {
    const int64_t a = (d.pilot.b * d.t.environments + k) * ACCEPTANCES + slot;
    d.t.accept_variable[a] = v;
    d.t.accept_slope[a] = slope;
    d.t.accept_intercept[a] = -(slope * threshold);
}

void select(const ObservationDraw& d, int32_t i) {
    const Observation& entry = d.entry(i);
    int32_t eligible = 0, chosen = -1;
    for (int32_t v = 0; v < d.n; ++v) eligible += may_fall_on(d, entry, v);
    if (eligible == 0) return;
    for (int32_t left = pick(d.words(i, 0, WHOLE + 1).w0, eligible); left >= 0;)
        left -= may_fall_on(d, entry, ++chosen);
    const Spread spread = spread_of(d.pilot, chosen);
    if (spread.deviation == 0.0f) return;
    const float slope = d.number(i, entry.values[0], 0, WHOLE + 2) / spread.deviation;
    const float threshold = quantile(d.pilot, chosen, d.number(i, entry.values[1], 0, WHOLE + 3));
    for (int64_t k = 0; k < d.t.num_environments[d.pilot.b]; ++k)
        if (entry.option & (k < d.pilot.sources ? 1 : 2)) accept(d, k, 0, chosen, slope, threshold);
}

// Interventions wrote slopes in units of the target's deviation.
void scale_label_shifts(const ObservationDraw& d) {
    const Spread spread = spread_of(d.pilot, d.target);
    for (int64_t k = 0; k < d.t.num_environments[d.pilot.b]; ++k) {
        const float slope = d.t.accept_slope[(d.pilot.b * d.t.environments + k) * ACCEPTANCES + 1];
        if (slope == 0.0f) continue;
        accept(d, k, 1, d.target, spread.deviation > 0.0f ? slope / spread.deviation : 0.0f, spread.mean);
    }
}

// ---- Which numbers --------------------------------------------------------------------------------------------------

void blur(const ObservationDraw& d, int32_t v) {
    const int32_t i = last_entry(d, MEASURE, v);
    if (i < 0) return;
    d.t.error_scale[d.at(v)] = d.number(i, d.entry(i).values[0], v, FIRST) * spread_of(d.pilot, v).deviation;
    for (int64_t k = 0; k < d.pilot.sources; ++k) measure(d.pilot.model(k), v, FOR_PILOT_ERROR, d.pilot.rows, 0);
}

void shuffle(float* out, int32_t n, Stream* stream) {
    for (int32_t i = 0; i < n; ++i) out[i] = float(i);
    for (int32_t i = n - 1; i > 0; --i) {
        const int32_t j = pick(stream->next(), i + 1);
        const float other = out[j];
        out[j] = out[i];
        out[i] = other;
    }
}

// Shares fall evenly on a logarithmic scale, to 1 / imbalance of the largest, in random order.
void level(const ObservationDraw& d, int32_t v) {
    const int32_t i = last_entry(d, LEVELS, v);
    if (i < 0) return;
    const int32_t levels = pick(d.words(i, v, FIRST).w0, d.entry(i).number);
    const float fall = -log(d.number(i, d.entry(i).values[0], v, SECOND)) / float(levels - 1);
    float *thresholds = d.t.thresholds + d.at(v) * d.t.levels, *codes = d.t.codes + d.at(v) * d.t.levels;
    Address at = address(uint64_t(d.t.index[d.pilot.b]), uint32_t(i), uint32_t(v), FOR_OBSERVATION);
    at.block = ORDERS;
    Stream stream(at, d.pilot.seed);
    shuffle(codes, levels, &stream);  // for now the rank of every level's share
    float total = 0.0f, below = 0.0f;
    for (int32_t j = 0; j < levels; ++j) total += exp(fall * codes[j]);
    for (int32_t j = 0; j < levels - 1; ++j)
        thresholds[j] = quantile(d.pilot, v, (below += exp(fall * codes[j])) / total);
    shuffle(codes, levels, &stream);
    for (int32_t j = 0; j < levels && d.entry(i).option == 1; ++j) codes[j] = float(j);
    d.t.num_levels[d.at(v)] = levels;
    float* x = d.pilot.column(v);
    for (int64_t row = 0; row < d.pilot.count(); ++row) x[row] = level_of(x[row], thresholds, codes, levels);
}

// A feature that is always seen, and decides what is lost at random; −1 if there is none or nobody asks.
int32_t draw_witness(const ObservationDraw& d) {
    for (int32_t i = 0; i < d.prior.num_observations; ++i) {
        if (d.entry(i).kind != LOSE || d.entry(i).option != AT_RANDOM) continue;
        int32_t features = 0, witness = -1;
        for (int32_t v = 0; v < d.n; ++v) features += v != d.target && !d.t.is_hidden[d.at(v)];
        if (features == 0) return -1;
        for (int32_t left = pick(d.words(i, 0, WHOLE + 1).w0, features); left >= 0;)
            ++witness, left -= witness != d.target && !d.t.is_hidden[d.at(witness)];
        return witness;
    }
    return -1;
}

void lose(const ObservationDraw& d, int32_t v, int32_t witness) {
    const int32_t i = v == witness ? -1 : last_entry(d, LOSE, v);
    if (i < 0) return;
    const Observation& entry = d.entry(i);
    const float rate = d.number(i, entry.values[0], v, FIRST);
    if (rate == 0.0f) return;
    const int32_t cause = entry.option == AT_RANDOM && witness >= 0 ? witness : v;
    const Spread spread = spread_of(d.pilot, cause);
    const bool depends = spread.deviation > 0.0f && entry.option != AT_RANDOM_COMPLETELY &&
                         (entry.option == NOT_AT_RANDOM || cause == witness);
    const float slope = depends ? d.number(i, entry.values[1], v, SECOND) / spread.deviation : 0.0f;
    d.t.loss_rate[d.at(v)] = rate;
    d.t.loss_cause[d.at(v)] = cause;
    d.t.loss_slope[d.at(v)] = slope;
    d.t.loss_intercept[d.at(v)] = intercept_for(d.pilot, cause, slope, rate, spread);
}

}  // namespace

void draw_observation(const Prior& prior, const Pilot& pilot) {
    const Tables& t = pilot.t;
    const ObservationDraw d{prior, pilot, t, int32_t(t.num_variables[pilot.b]), int32_t(t.target_index[pilot.b])};
    scale_label_shifts(d);
    for (int32_t i = 0; i < prior.num_observations; ++i)
        if (d.entry(i).kind == HIDE) hide(d, i);
    for (int32_t i = 0; i < prior.num_observations; ++i)
        if (d.entry(i).kind == SELECT) select(d, i);
    for (int32_t v = 0; v < d.n; ++v) blur(d, v);
    for (int32_t v = 0; v < d.n; ++v) level(d, v);
    const int32_t witness = draw_witness(d);
    for (int32_t v = 0; v < d.n; ++v) lose(d, v, witness);
}

}  // namespace settx::scm::SETTX_PATH
