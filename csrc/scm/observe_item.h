// What is seen of a lane's four rows: operations and their order are those of evaluate_observation.cpp.
#pragma once
#include "evaluate_item.h"
#include "observe.h"

namespace settx::scm {

// Everything that a lane of a block works with.
template <class Memory>
struct Lane {
    const Tables& t;
    const Rows& rows;
    const int32_t* parents;
    const Plan& plan;
    const Item& item;
    int32_t lane;
    const Memory& values;
    float* hidden;

    SETTX_METHOD int64_t at(int64_t v) const { return item.dataset * t.variables + v; }
    SETTX_METHOD int64_t environment_at() const { return item.dataset * t.environments + item.environment; }
    SETTX_METHOD int64_t num_variables() const { return t.num_variables[item.dataset]; }
    SETTX_METHOD bool has_row(int r) const { return row_of_lane(lane, r) < item.count; }
    SETTX_METHOD int64_t row(int r) const { return first_row(t, rows, item) + row_of_lane(lane, r); }
    SETTX_METHOD Address address_of(int64_t v, uint32_t purpose, int32_t attempt) const {
        const uint64_t index = uint64_t(t.index[item.dataset]);
        Address at = address(index, uint32_t(item.environment), uint32_t(v), purpose);
        at.block = uint32_t(item.first / QUAD + lane);
        return at_attempt(at, attempt);
    }
    SETTX_METHOD Quad evaluate(int64_t v, int32_t attempt) const {
        return evaluate_variable(variable_of(t, item, parents, v), values,
                                 LaneMemory{hidden + lane, plan.rows_per_item(), plan.lanes, QUAD},
                                 address_of(v, FOR_NOISE, attempt), rows.seed);
    }
};

struct Attempts {
    int32_t row[QUAD];
};

SETTX_FN bool happens_in_row(float chance, Words w, int r) {
    const uint32_t words[QUAD] = {w.w0, w.w1, w.w2, w.w3};
    return happens(chance, words[r]);
}

// ---- Rows that are drawn until they are accepted --------------------------------------------------------------------

template <class Memory>
SETTX_FN bool is_selective(const Lane<Memory>& l) {
    const float* slope = l.t.accept_slope + l.environment_at() * ACCEPTANCES;
    return slope[0] != 0.0f || slope[1] != 0.0f;
}

template <class Memory>
SETTX_FN Quad chance_of_acceptance(const Lane<Memory>& l) {
    Quad chance = all_rows(1.0f);
    for (int64_t a = l.environment_at() * ACCEPTANCES, end = a + ACCEPTANCES; a < end; ++a) {
        const float slope = l.t.accept_slope[a], intercept = l.t.accept_intercept[a];
        if (slope == 0.0f) continue;
        const Quad x = l.values.load(l.t.accept_variable[a]);
        chance = each_row([&](int r) { return chance.row[r] * probability(x.row[r], slope, intercept); });
    }
    return chance;
}

// The first attempt of every row that is accepted; `values` hold attempt 0 before, and any after.
template <class Memory>
SETTX_FN Attempts find_attempts(const Lane<Memory>& l) {
    Attempts found{};
    if (l.rows.attempt_given) {
        for (int r = 0; r < QUAD; ++r) found.row[r] = l.has_row(r) ? l.rows.attempt[l.row(r)] : 0;
        return found;
    }
    bool pending[QUAD];
    for (int r = 0; r < QUAD; ++r) pending[r] = l.has_row(r);
    for (int32_t attempt = 0;; ++attempt) {
        if (attempt > 0)
            for (int64_t position = 0; position < l.num_variables(); ++position) {
                const int64_t v = l.t.order[l.item.dataset * l.t.variables + position];
                l.values.store(v, l.evaluate(v, attempt));
            }
        const Quad chance = chance_of_acceptance(l);
        const Words words = philox(l.address_of(0, FOR_ACCEPTANCE, attempt), l.rows.seed);
        bool left = false;
        for (int r = 0; r < QUAD; ++r) {
            if (!pending[r]) continue;
            found.row[r] = attempt;
            pending[r] = !happens_in_row(chance.row[r], words, r) && attempt < MOST_ATTEMPTS;
            left |= pending[r];
        }
        if (!left) return found;
    }
}

// f(attempt) for every row's attempt.
template <class Of>
SETTX_FN Quad each_attempt(const Attempts& attempts, const Of& of) {
    Quad result = of(attempts.row[0]);
    for (int r = 1; r < QUAD; ++r)
        if (attempts.row[r] != attempts.row[0]) result.row[r] = of(attempts.row[r]).row[r];
    return result;
}

template <class Memory>
SETTX_FN Attempts accept_rows(const Lane<Memory>& l) {
    if (!is_selective(l)) return {};
    const Attempts attempts = find_attempts(l);
    for (int64_t position = 0; position < l.num_variables(); ++position) {
        const int64_t v = l.t.order[l.item.dataset * l.t.variables + position];
        l.values.store(v, each_attempt(attempts, [&](int32_t attempt) { return l.evaluate(v, attempt); }));
    }
    for (int r = 0; r < QUAD; ++r)
        if (l.has_row(r)) l.rows.attempt[l.row(r)] = int16_t(attempts.row[r]);
    return attempts;
}

// ---- Errors, levels, losses, noise ----------------------------------------------------------------------------------

template <class Memory>
SETTX_FN void measure(const Lane<Memory>& l, int64_t v) {
    const int64_t bv = l.at(v), L = l.t.levels, levels = l.t.num_levels[bv];
    const float scale = l.t.error_scale[bv];
    Quad x = l.values.load(v);
    if (scale > 0.0f)
        x = add_scaled(x, draw_noise(GAUSSIAN, nullptr, l.address_of(v, FOR_ERROR, 0), l.rows.seed), scale);
    const float *thresholds = l.t.thresholds + bv * L, *codes = l.t.codes + bv * L;
    if (levels > 0) x = each_row([&](int r) { return level_of(x.row[r], thresholds, codes, levels); });
    if (scale > 0.0f || levels > 0) l.values.store(v, x);
}

template <class Memory>
SETTX_FN void lose(const Lane<Memory>& l, int64_t v) {
    const int64_t bv = l.at(v);
    if (l.t.loss_rate[bv] == 0.0f) return;
    const Quad cause = l.values.load(l.t.loss_cause[bv]);
    const Words words = philox(l.address_of(v, FOR_LOSS, 0), l.rows.seed);
    Quad x = l.values.load(v);
    for (int r = 0; r < QUAD; ++r) {
        const float chance = probability(cause.row[r], l.t.loss_slope[bv], l.t.loss_intercept[bv]);
        if (!l.has_row(r) || !happens_in_row(chance, words, r)) continue;
        x.row[r] = from_bits(0x7FC00000u);
        l.rows.is_missing[l.row(r) * l.t.variables + v] = true;
    }
    l.values.store(v, x);
}

template <class Memory>
SETTX_FN void write_noise(const Lane<Memory>& l, const Attempts& attempts) {
    for (int64_t v = 0; v < l.t.variables; ++v) {
        Quad noise = all_rows(0.0f);
        if (v < l.num_variables())
            noise = each_attempt(attempts, [&](int32_t attempt) {
                return draw_noise(int32_t(l.t.noise_kind[l.at(v)]), l.t.noise_parameters + NOISE_PARAMETERS * l.at(v),
                                  l.address_of(v, FOR_NOISE, attempt), l.rows.seed);
            });
        for (int r = 0; r < QUAD; ++r)
            if (l.has_row(r)) l.rows.noise[l.row(r) * l.t.variables + v] = canonical(noise.row[r]);
    }
}

// From the values of all variables to what is seen of them, and the noise if it is wanted.
template <class Memory>
SETTX_FN void observe_lane(const Lane<Memory>& l) {
    if (!l.has_row(0)) return;
    const bool selects = l.rows.is_observed && l.rows.attempt != nullptr;
    const Attempts attempts = selects ? accept_rows(l) : Attempts{};
    if (l.rows.is_observed)
        for (int64_t v = 0; v < l.num_variables(); ++v) measure(l, v);
    if (l.rows.is_observed && l.rows.is_missing != nullptr)
        for (int64_t v = 0; v < l.num_variables(); ++v) lose(l, v);
    if (l.rows.noise != nullptr) write_noise(l, attempts);
}

// Whether there is anything for it to do.
SETTX_FN bool needs_observation(const Rows& rows) {
    return rows.is_observed || rows.noise != nullptr;
}

}  // namespace settx::scm
