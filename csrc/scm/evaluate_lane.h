// What a lane does with its rows of an item: draws them, again where they are rejected, and makes of them what is seen.
// Operations and their order are those of evaluate.cpp and evaluate_observation.cpp.
#pragma once
#include "evaluate_item.h"
#include "observe.h"

namespace settx::scm {

// A lane at work on an item.
struct Lane {
    const Tables& t;
    const Rows& rows;
    const Item& item;
    EdgeList list;
    int32_t number;
    LaneMemory hidden;  // of networks

    SETTX_METHOD int64_t num_variables() const { return t.num_variables[item.dataset]; }
    SETTX_METHOD int64_t environment_at() const { return int64_t(item.dataset) * t.environments + item.environment; }
    // Where the random words of a purpose lie.
    SETTX_METHOD Address address_of(int64_t v, uint32_t purpose) const {
        Address at = address(uint64_t(t.index[item.dataset]), uint32_t(item.environment), uint32_t(v), purpose);
        at.block = uint32_t(item.first / QUAD + number);
        return at;
    }
    // Among all rows of the batch.
    SETTX_METHOD int64_t row(int r) const { return first_row(t, rows, item) + row_of_lane(number, r); }
};

// Draws all variables of some rows. PRODUCTS: some may be products.
template <bool PRODUCTS, class Memory>
SETTX_FN void draw_rows(const Lane& lane, const Memory& values, int32_t attempt, RowSet which) {
    for (int64_t position = 0; position < lane.num_variables(); ++position) {
        const int64_t v = lane.t.order[lane.item.dataset * lane.t.variables + position];
        const Address at = at_attempt(lane.address_of(v, FOR_NOISE), attempt);
        const Variable variable = variable_of(lane.t, lane.item, lane.list, position);
        const auto noise = [&] {
            return draw_noise(variable.noise_kind, variable.noise_parameters, at, lane.rows.seed);
        };
        values.store(v, evaluate_variable<QUAD, PRODUCTS>(variable, values, lane.hidden, noise), which);
    }
}

SETTX_FN bool is_selective(const Lane& lane) {
    const float* slope = lane.t.accept_slope + lane.environment_at() * ACCEPTANCES;
    return lane.rows.is_observed && lane.rows.attempt != nullptr && (slope[0] != 0.0f || slope[1] != 0.0f);
}

template <class Memory>
SETTX_FN RowSet accepted_rows(const Lane& lane, const Memory& values, int32_t attempt) {
    const Words words = philox(at_attempt(lane.address_of(0, FOR_ACCEPTANCE), attempt), lane.rows.seed);
    const uint32_t word[QUAD] = {words.w0, words.w1, words.w2, words.w3};
    Quad chance = all_rows(1.0f);
    for (int64_t a = lane.environment_at() * ACCEPTANCES, end = a + ACCEPTANCES; a < end; ++a) {
        const float slope = lane.t.accept_slope[a], intercept = lane.t.accept_intercept[a];
        if (slope == 0.0f) continue;
        const Quad x = values.load(lane.t.accept_variable[a]);
        chance = each_row([&](int r) { return chance.row[r] * probability(x.row[r], slope, intercept); });
    }
    return rows_where([&](int r) { return happens(chance.row[r], word[r]); });
}

SETTX_FN RowSet rows_of_attempt(const Lane& lane, RowSet pending, int32_t attempt) {
    return rows_where([&](int r) {
        return has_row(pending, r) && (attempt == MOST_ATTEMPTS || lane.rows.attempt[lane.row(r)] == attempt);
    });
}

// Draws rows; where they are selected, until each is accepted or is of the attempt that is given.
template <bool PRODUCTS, class Memory>
SETTX_FN void draw_all_rows(const Lane& lane, const Memory& values) {
    const bool selective = is_selective(lane), given = selective && lane.rows.attempt_given;
    RowSet pending = rows_of_lane(lane.item, lane.number);
    for (int32_t attempt = 0; pending != 0; ++attempt) {
        RowSet taken = given ? rows_of_attempt(lane, pending, attempt) : pending;
        if (taken == 0) continue;
        draw_rows<PRODUCTS>(lane, values, attempt, taken);
        if (selective && !given && attempt < MOST_ATTEMPTS) taken &= accepted_rows(lane, values, attempt);
        for (int r = 0; r < QUAD && selective; ++r)
            if (has_row(taken, r)) lane.rows.attempt[lane.row(r)] = int16_t(attempt);
        pending &= ~taken;
    }
}

// Adds errors of measurement, makes levels of numbers, and takes away what is lost.
template <class Memory>
SETTX_FN void observe_rows(const Lane& lane, const Memory& values) {
    const Tables& t = lane.t;
    const int64_t first = lane.item.dataset * t.variables, last = first + lane.num_variables(), L = t.levels;
    for (int64_t bv = first; bv < last; ++bv) {
        if (t.error_scale[bv] == 0.0f && t.num_levels[bv] == 0) continue;
        Quad x = values.load(bv - first);
        if (t.error_scale[bv] > 0.0f)
            x = add_scaled(x, draw_normals(lane.address_of(bv - first, FOR_ERROR), lane.rows.seed), t.error_scale[bv]);
        if (t.num_levels[bv] > 0)
            x = each_row(
                [&](int r) { return level_of(x.row[r], t.thresholds + bv * L, t.codes + bv * L, t.num_levels[bv]); });
        values.store(bv - first, x);
    }
    if (lane.rows.is_missing == nullptr) return;
    const RowSet there = rows_of_lane(lane.item, lane.number);
    for (int64_t bv = first; bv < last; ++bv) {
        if (!(t.loss_rate[bv] > 0.0f)) continue;
        const Words words = philox(lane.address_of(bv - first, FOR_LOSS), lane.rows.seed);
        const uint32_t word[QUAD] = {words.w0, words.w1, words.w2, words.w3};
        const Quad cause = values.load(t.loss_cause[bv]);
        const RowSet lost =
            there & rows_where([&](int r) {
                return happens(probability(cause.row[r], t.loss_slope[bv], t.loss_intercept[bv]), word[r]);
            });
        values.store(bv - first, all_rows(from_bits(NAN_BITS)), lost);
        for (int r = 0; r < QUAD; ++r)
            if (has_row(lost, r)) lane.rows.is_missing[lane.row(r) * t.variables + bv - first] = true;
    }
}

// All that is seen of the lane's rows, into `values`. hidden: of its block.
template <bool PRODUCTS, class Memory>
SETTX_FN void evaluate_lane(const Tables& t, const Rows& rows, const EdgeList& list, const Plan& plan, const Item& item,
                            int32_t number, const Memory& values, float* hidden) {
    if (row_of_lane(number, 0) >= item.count) return;
    const Lane lane{t, rows, item, list, number, {hidden + number, plan.rows, plan.threads}};
    draw_all_rows<PRODUCTS>(lane, values);
    if (rows.is_observed) observe_rows(lane, values);
}

// The exogenous noise of the lane's rows, each of the attempt that was accepted.
SETTX_FN void write_noise(const Tables& t, const Rows& rows, const Item& item, int32_t number) {
    const Lane lane{t, rows, item, {}, number, {}};
    const int64_t V = t.variables, first = item.dataset * V;
    const auto attempt_of = [&](int r) { return rows.attempt == nullptr ? 0 : rows.attempt[lane.row(r)]; };
    for (int64_t v = 0; v < V; ++v)
        for (RowSet pending = rows_of_lane(item, number); pending != 0;) {
            int32_t attempt = INT32_MAX;  // the least of those that are left
            for (int r = 0; r < QUAD; ++r)
                if (has_row(pending, r) && attempt_of(r) < attempt) attempt = attempt_of(r);
            const RowSet taken = rows_where([&](int r) { return has_row(pending, r) && attempt_of(r) <= attempt; });
            Quad noise = all_rows(0.0f);
            if (v < lane.num_variables())
                noise = add_scaled(
                    noise,
                    draw_noise(int32_t(t.noise_kind[first + v]), t.noise_parameters + NOISE_PARAMETERS * (first + v),
                               at_attempt(lane.address_of(v, FOR_NOISE), attempt), rows.seed),
                    1.0f);
            for (int r = 0; r < QUAD; ++r)
                if (has_row(taken, r)) rows.noise[lane.row(r) * V + v] = canonical(noise.row[r]);
            pending &= ~taken;
        }
}

}  // namespace settx::scm
