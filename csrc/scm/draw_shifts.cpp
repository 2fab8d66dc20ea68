// Shifts: which mechanisms move between environments, how strongly, and where to.
#include "dataset.h"
#include "lanes.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

constexpr float MOST_LOG_SCALE = 2.0f;  // a noise grows or shrinks by a factor of e² at most

struct Moves {
    bool intercept, slopes, noise;
    float strength[3];  // of these
};

// What is drawn once for the dataset.
struct ShiftDraw {
    const Dataset& d;
    float odds[NUM_SHIFT_ODDS], target_severity;
};

SETTX_CALL Moves draw_moves(const ShiftDraw& s, uint32_t version, int32_t v) {
    const Dataset& d = s.d;
    const Words w = d.words(version, v, FOR_MUTABLE);
    const bool is_target = v == d.t.target_index[d.b];
    if (!is_target && !(unit(w.w0) < s.odds[IS_MUTABLE])) return {};
    const int32_t whose = is_target ? OF_TARGET : 0;
    Moves moves{unit(w.w1) < s.odds[MOVES_INTERCEPT + whose],
                unit(w.w2) < s.odds[MOVES_SLOPES + whose],
                unit(w.w3) < s.odds[MOVES_NOISE + whose],
                {}};
    const Distribution& strength = is_target ? d.prior.shifts.target_strength : d.prior.shifts.strength;
    for (int part = 0; part < 3; ++part)
        moves.strength[part] = d.number(strength, version, v, FOR_MUTABLE, uint32_t(part) + 1);
    return moves;
}

SETTX_CALL void move_weights(const Dataset& d, int64_t k, int32_t v, float strength) {
    for (int32_t p = 0; p < d.n; ++p)
        if (d.edge(p, v))
            d.weight(k, p, v) += strength * d.number(d.prior.shifts.slope, uint32_t(k) + 1, v, FOR_MOVED_WEIGHT, p);
}

SETTX_CALL void move(const ShiftDraw& s, int64_t k, int32_t v, const Moves& moves, float severity) {
    const Dataset& d = s.d;
    const Shifts& shifts = d.prior.shifts;
    const uint32_t environment = uint32_t(k) + 1;
    const int64_t at = d.at(k, v);
    const Words w = d.words(environment, v, FOR_MOVE);
    if (moves.intercept) {
        const float by = severity * moves.strength[0] * d.number(shifts.intercept, environment, v, FOR_MOVE, 1);
        d.t.bias[at] += by;
        if (v != d.t.target_index[d.b] && unit(w.w0) < s.odds[IS_SET]) {
            d.t.intervention[at] = HARD;
            return fix_value(d, k, v, d.t.bias[at]);
        }
    }
    if (moves.slopes && unit(w.w1) < s.odds[IS_REDRAWN]) {
        for (int32_t p = 0; p < d.n; ++p)
            if (d.edge(p, v)) draw_weight(d, k, p, v, environment);
    } else if (moves.slopes) {
        move_weights(d, k, v, severity * moves.strength[1]);
    }
    if (moves.noise) {
        const float by = severity * moves.strength[2] * d.number(shifts.noise, environment, v, FOR_MOVE, 2);
        d.t.noise_scale[at] *= exp(clamp(by, -MOST_LOG_SCALE, MOST_LOG_SCALE));
    }
    if (moves.intercept || moves.slopes || moves.noise) d.t.intervention[at] = MOVED;
}

}  // namespace

SETTX_CALL void move_mechanisms(const Dataset& d, int64_t sources, int64_t environments) {
    const Shifts& shifts = d.prior.shifts;
    ShiftDraw s{d, {}, d.number(shifts.target_severity, 0, 0, FOR_SHIFTS, NUM_SHIFT_ODDS)};
    for (int32_t i = 0; i < NUM_SHIFT_ODDS; ++i) s.odds[i] = d.number(shifts.odds[i], 0, 0, FOR_SHIFTS, uint32_t(i));
    for (int32_t v = d.team.number; v < d.n; v += d.team.size)
        for (int64_t k = 0; k < environments; ++k) {
            const Moves moves = draw_moves(s, shifts.recur ? 0 : uint32_t(k) + 1, v);
            move(s, k, v, moves, k < sources ? 1.0f : s.target_severity);
        }
}

}  // namespace settx::scm::SETTX_PATH
