// How a thread block evaluates rows where none is rejected: the model is laid out, the noise of all variables is drawn
// into the tile at once by whichever thread comes next, every thread turns the noise of its own rows into values,
// variable after variable, and the tile is written out. A barrier ends each phase. Operations and their order per value
// are those of a lane.
#pragma once
#include "evaluate_lane.h"
#include "evaluate_model.h"

namespace settx::scm {

constexpr int32_t COUNTERS = 32;  // of a warp: it draws noise for QUAD · COUNTERS rows at once
constexpr int32_t GROUP_ROWS = QUAD * COUNTERS;

SETTX_FN uint64_t seed_of(const Keys& keys) {
    return uint64_t(keys.second[0]) << 32 | keys.first[0];
}

// ---- Noise ----------------------------------------------------------------------------------------------------------

// How warps share out the noise of a tile: each takes a group of rows, or several, and of it every so many variables.
template <int ROWS>
struct NoiseShare {
    static constexpr int32_t GROUPS = ROWS / GROUP_ROWS;
    int32_t first_group, groups_on, first_position, positions_on;

    SETTX_METHOD NoiseShare(int32_t warp, int32_t warps)  // a power of two
        : first_group(warp % GROUPS),
          groups_on(warps),
          first_position(warp / GROUPS),
          positions_on(warps > GROUPS ? warps / GROUPS : 1) {}
};

// The address of the noise of the first variable in the rows of a counter. part: the rows that the tile is for.
template <int ROWS>
SETTX_FN Address address_of_noise(const Model<ROWS>& m, const Item& part, int32_t counter) {
    Address at = address(uint64_t(m.t.index[m.dataset]), uint32_t(m.environment), 0, FOR_NOISE);
    at.block = uint32_t(part.first / QUAD) + uint32_t(counter);
    return at;
}

SETTX_FN Address of_variable(Address at, int32_t v) {
    at.variable_purpose += uint32_t(v);
    return at;
}

// Where all noise is Gaussian. Two counters at a time: the chains of one fill the gaps of the other.
template <int ROWS>
SETTX_FN void draw_normals_of_tile(const Model<ROWS>& m, const Item& part, const Keys& keys, int32_t thread,
                                   int32_t threads, float* tile) {
    const NoiseShare<ROWS> share(thread / COUNTERS, threads / COUNTERS);
    for (int32_t group = share.first_group; group * GROUP_ROWS < part.count; group += share.groups_on) {
        const int32_t counter = group * COUNTERS + thread % COUNTERS, on = share.positions_on;
        const Address at = address_of_noise(m, part, counter);
        const CounterRows<ROWS> rows{tile, counter, m.exchange_shift};
        for (int32_t position = share.first_position; position < m.n; position += 2 * on) {
            const Step &one = m.steps[position], &other = m.steps[position + on < m.n ? position + on : position];
            const Words words = philox(of_variable(at, m.variable(one)), keys);
            const Words other_words = philox(of_variable(at, m.variable(other)), keys);
            rows.put(one.place(), normals_of(words));
            rows.put(other.place(), normals_of(other_words));
        }
    }
}

template <int ROWS>
SETTX_FN void draw_noise_of_tile(const Model<ROWS>& m, const Item& part, uint64_t seed, int32_t thread, int32_t threads,
                                 float* tile) {
    const NoiseShare<ROWS> share(thread / COUNTERS, threads / COUNTERS);
    for (int32_t group = share.first_group; group * GROUP_ROWS < part.count; group += share.groups_on) {
        const int32_t counter = group * COUNTERS + thread % COUNTERS;
        const Address at = address_of_noise(m, part, counter);
        const CounterRows<ROWS> rows{tile, counter, m.exchange_shift};
        for (int32_t position = share.first_position; position < m.n; position += share.positions_on) {
            const Step& step = m.steps[position];
            const int32_t v = m.variable(step);
            const float* parameters = m.t.noise_parameters + NOISE_PARAMETERS * (m.first_variable() + v);
            rows.put(step.place(), draw_noise(step.noise_kind(), parameters, of_variable(at, v), seed));
        }
    }
}

// Variables that the dataset lacks are 0.
template <int ROWS>
SETTX_FN void blank_missing_variables(const Model<ROWS>& m, int32_t thread, int32_t threads, float* tile) {
    for (int32_t v = m.n; v < int32_t(m.t.variables); ++v)
        for (int32_t row = thread; row < ROWS; row += threads)
            *in_tile(tile, place_of<ROWS>(v, m.exchange_shift) ^ uint32_t(row * 4)) = 0.0f;
}

// ---- Values ---------------------------------------------------------------------------------------------------------

// Adds all parents but the first `done`.
template <int N, class Edges>
SETTX_FN RowsOf<N> add_edges(RowsOf<N> x, const TileRows<N>& values, const Edges& edges, const Step& step,
                             int32_t done = 0) {
    Edges next = edges.from(step.first() + done);
#ifdef __CUDACC__
#pragma unroll 1  // most variables have few parents
#endif
    for (int32_t left = step.num_parents() - done; left > 0; --left) {
        const Edge edge = next.take();
        x = add_scaled(x, values.load(edge.place), edge.weight);
    }
    return x;
}

// From a variable's rows without noise, whatever its noise does, and its last step.
template <int ROWS, int N, class Edges>
SETTX_FN RowsOf<N> finish_step(const Model<ROWS>& m, RowsOf<N> x, RowsOf<N> noise, const Step& step,
                               const TileRows<N>& values, const Edges& edges) {
    const RowsOf<N> scaled = add_scaled(all_rows<N>(0.0f), noise, step.noise_scale);
    if (step.noise_scale == 0.0f) {
    } else if (step.noise_effect() == ADDITIVE || step.num_parents() == 0) {
        x = add_scaled(x, noise, step.noise_scale);
    } else if (step.noise_effect() == MULTIPLICATIVE) {
        x = each_row<N>([&](int r) { return fma(x.row[r], scaled.row[r], x.row[r]); });
    } else {
        const RowsOf<N> predictor = add_edges(all_rows<N>(0.0f), values, edges, step);
        x = each_row<N>([&](int r) { return fma(2.0f * sigmoid(predictor.row[r]), scaled.row[r], x.row[r]); });
    }
    if (!step.has_last_step()) return x;
    const int64_t bv = m.first_variable() + m.variable(step);
    const float centre = m.t.centre[bv], gain = m.t.gain[bv];
    return each_row<N>([&](int r) { return (x.row[r] - centre) * gain; });
}

// All that comes from the tile is asked for at once: one variable waits for another.
template <int ROWS, int N, class Edges>
SETTX_FN void evaluate_linear_step(const Model<ROWS>& m, const Step& step, const Edges& edges,
                                   const TileRows<N>& values) {
    const RowsOf<N> one = values.load(step.one.place), other = values.load(step.other.place);
    const RowsOf<N> noise = values.load(step.place());
    const int32_t parents = step.num_parents();
    RowsOf<N> x = all_rows<N>(step.bias);
    if (parents > 0) x = add_scaled(x, one, step.one.weight);
    if (parents > 1) x = add_scaled(x, other, step.other.weight);
    if (parents > 2) x = add_edges(x, values, edges, step, 2);
    if (step.is_plain())
        x = add_scaled(x, noise, step.noise_scale);
    else
        x = finish_step(m, x, noise, step, values, edges);
    values.store(step.place(), x);
}

// Where all variables are linear. The next step is read before this one's values are, into registers of its own: a copy
// from there would wait for it.
template <int ROWS, int N, class Edges>
SETTX_FN void evaluate_linear(const Model<ROWS>& m, const Edges& edges, const TileRows<N>& values) {
    Step even = m.steps[0];
#ifdef __CUDACC__
#pragma unroll 1
#endif
    for (int32_t position = 0; position < m.n; position += 2) {
        const Step odd = m.steps[position + 1];
        evaluate_linear_step(m, even, edges, values);
        if (position + 1 == m.n) break;
        even = m.steps[position + 2];
        evaluate_linear_step(m, odd, edges, values);
    }
}

// A step as a Variable, whose parents are named by their places.
template <class Model>
struct StepOf {
    const Model& model;
    int32_t first, num_parents;
    float bias, noise_scale, centre, gain;
    int32_t noise_effect, mechanism;
    const float* parameters;

    SETTX_METHOD Edge edge(int32_t i) const {
        return model.has_room ? model.edges[first + i] : model.read_edge(first + i);
    }
    SETTX_METHOD uint32_t parent(int32_t i) const { return edge(i).place; }
    SETTX_METHOD float weight(int32_t i) const { return edge(i).weight; }
};

template <class Model>
SETTX_FN StepOf<Model> step_of(const Model& m, int32_t position) {
    const Step step = m.steps[position];
    const int64_t v = m.variable(step), bv = m.first_variable() + v, bkv = m.environment_at() * m.t.variables + v;
    StepOf<Model> found{
        m,    step.first(), step.num_parents(),  step.bias,        step.noise_scale,
        0.0f, 1.0f,         step.noise_effect(), step.mechanism(), m.t.parameters + m.t.mechanism_offset[bkv]};
    if (step.has_last_step()) found.centre = m.t.centre[bv], found.gain = m.t.gain[bv];
    return found;
}

template <int N, class Model>
SETTX_FN void evaluate_step(const Model& m, int32_t position, const TileRows<N>& values) {
    const uint32_t place = m.steps[position].place();
    const auto noise = [&] { return values.load(place); };
    values.store(place, evaluate_variable<N, false>(step_of(m, position), values, OneLayer{}, noise));
}

// ---- What the threads of a block write together ---------------------------------------------------------------------

// to (count, V) = tile (V, ROWS) transposed: every thread takes WIDE neighbouring variables of every so many rows, so
// that neighbours write whole lines.
template <int ROWS, int WIDE>
SETTX_FN void write_packs(const Writing& writing, int32_t count, int32_t thread, float* tile, float* to) {
    const int32_t first_row = writing.row_of(thread), packs = writing.packs, down = writing.down;
    if (first_row >= down) return;
    for (int32_t pack = thread - first_row * writing.across; pack < packs; pack += writing.across) {
        const uint32_t place = place_of<ROWS>(WIDE * pack, writing.exchange_shift);
        Pack<WIDE>* out = reinterpret_cast<Pack<WIDE>*>(to) + first_row * packs + pack;
        for (int32_t row = first_row; row < count; row += down, out += down * packs) {
            const uint32_t at = place ^ uint32_t(row * 4);
            Pack<WIDE> x;
            for (int i = 0; i < WIDE; ++i) x.row[i] = *in_tile(tile, at + uint32_t(i * ROWS * 4));
            *out = x;
        }
    }
}

template <int ROWS>
SETTX_FN void write_out(const Writing& writing, int32_t count, int32_t thread, float* tile, float* to) {
    if (writing.in_fours())
        write_packs<ROWS, 4>(writing, count, thread, tile, to);
    else
        write_packs<ROWS, 1>(writing, count, thread, tile, to);
}

}  // namespace settx::scm
