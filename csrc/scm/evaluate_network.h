// Networks with several hidden layers, by all threads of a block. The units of a layer lie in shared memory, (units,
// rows). A thread computes 8 units of 8 rows over inputs in order, from weights that the block lays out in chunks,
// (inputs, units), and writes them where its inputs were once all have read these.
#pragma once
#include "evaluate_phases.h"

namespace settx::scm {

constexpr int32_t DEEP_TILE = 8;
constexpr int32_t DEEP_GROUPS = DEEP_ROWS / DEEP_TILE;  // of 8 rows: 4 and 4 that lie half the rows further on

struct HiddenUnits {
    float* units;    // (width, DEEP_ROWS)
    float* weights;  // (DEEP_CHUNK, DEEP_UNITS)
};

// W (num_units, num_inputs), b (num_units), and what is made of their sums.
struct Layer {
    const float* W;
    int32_t num_inputs, num_units;
    float function;  // its header

    SETTX_METHOD const float* biases() const { return W + num_inputs * num_units; }
    SETTX_METHOD Layer next() const { return {biases() + num_units, num_units, num_units, function}; }
    // Past the last unit it is repeated.
    SETTX_METHOD int32_t unit(int32_t j) const { return j < num_units ? j : num_units - 1; }
};

struct EightRows {
    Pack<4> low, high;

    SETTX_METHOD float row(int r) const { return r < 4 ? low.row[r] : high.row[r - 4]; }
};

SETTX_FN EightRows load_eight(const float* low, const float* high) {
    return {*reinterpret_cast<const Pack<4>*>(low), *reinterpret_cast<const Pack<4>*>(high)};
}

// The part of a chunk of weights that a thread brings from far memory.
struct WeightsOnTheWay {
    static constexpr int COUNT = DEEP_CHUNK * DEEP_UNITS / DEEP_THREADS;
    float weight[COUNT];

    SETTX_METHOD void fetch(const Layer& layer, int32_t from, int32_t thread) {
        const float* row = layer.W + layer.unit(thread / 2) * layer.num_inputs;
        for (int j = 0; j < COUNT; ++j) {
            const int32_t input = from + thread % 2 * COUNT + j;
            weight[j] = row[input < layer.num_inputs ? input : layer.num_inputs - 1];
        }
    }
    SETTX_METHOD void put(float* weights, int32_t thread) const {
        for (int j = 0; j < COUNT; ++j) weights[(thread % 2 * COUNT + j) * DEEP_UNITS + thread / 2] = weight[j];
    }
};

struct Sums8x8 {
    float sum[DEEP_TILE][DEEP_TILE];  // (unit, row)

    SETTX_METHOD void add(const EightRows& input, const float* weights) {
        const Pack<4> w[2] = {*reinterpret_cast<const Pack<4>*>(weights),
                              *reinterpret_cast<const Pack<4>*>(weights + 4)};
        for (int u = 0; u < DEEP_TILE; ++u)
            for (int r = 0; r < DEEP_TILE; ++r) sum[u][r] = fma(w[u / 4].row[u % 4], input.row(r), sum[u][r]);
    }
};

// To the sums that a thread has written, one after the other: such functions need the registers that sums would lie in.
SETTX_FN void apply_heavy_function(float header, float* units, int32_t count) {
    with_heavy_function(header, [&](auto g) {
#ifdef __CUDACC__
#pragma unroll 1
#endif
        for (int32_t i = 0; i < DEEP_TILE * DEEP_TILE; ++i) {
            const int32_t u = i / DEEP_TILE, row = i % DEEP_TILE;
            if (u >= count) break;
            float* const at = units + u * DEEP_ROWS + row % 4 + row / 4 * (DEEP_ROWS / 2);
            *at = g(*at);
        }
    });
}

// input(i, group): eight rows of input i.
template <class Input>
SETTX_THREAD void evaluate_layer(const Layer& layer, const Input& input, const HiddenUnits& hidden, int32_t thread) {
    const int32_t group = thread % DEEP_GROUPS, first = thread / DEEP_GROUPS * DEEP_TILE;
    const bool is_idle = first >= layer.num_units;
    Sums8x8 sums;
    for (int u = 0; u < DEEP_TILE; ++u)
        for (int r = 0; r < DEEP_TILE; ++r) sums.sum[u][r] = layer.biases()[layer.unit(first + u)];
    WeightsOnTheWay next;
    next.fetch(layer, 0, thread);
    for (int32_t from = 0; from < layer.num_inputs; from += DEEP_CHUNK) {
        next.put(hidden.weights, thread);
        wait_for_block();
        if (from + DEEP_CHUNK < layer.num_inputs) next.fetch(layer, from + DEEP_CHUNK, thread);
        const int32_t left = layer.num_inputs - from, count = left < DEEP_CHUNK ? left : DEEP_CHUNK;
#ifdef __CUDACC__
#pragma unroll 2
#endif
        for (int32_t i = 0; i < count && !is_idle; ++i)
            sums.add(input(from + i, group), hidden.weights + i * DEEP_UNITS + first);
        wait_for_block();
    }
    const bool is_applied_later = is_heavy(layer.function);
    float* const units = hidden.units + first * DEEP_ROWS + 4 * group;
    if (!is_idle)
        with_light_function(is_applied_later ? float(IDENTITY) : layer.function, [&](auto g) {
            for (int u = 0; u < DEEP_TILE && first + u < layer.num_units; ++u) {
                EightRows out;
                for (int r = 0; r < 4; ++r) out.low.row[r] = g(sums.sum[u][r]), out.high.row[r] = g(sums.sum[u][4 + r]);
                float* const at = units + u * DEEP_ROWS;
                *reinterpret_cast<Pack<4>*>(at) = out.low;
                *reinterpret_cast<Pack<4>*>(at + DEEP_ROWS / 2) = out.high;
            }
        });
    if (!is_idle && is_applied_later) apply_heavy_function(layer.function, units, layer.num_units - first);
    wait_for_block();
}

// As add_network; the sum is that of the thread's row, thread mod DEEP_ROWS.
template <class Which>
SETTX_THREAD float sum_of_network(const Which& v, float* tile, const HiddenUnits& hidden, int32_t thread) {
    const int32_t num_units = int32_t(v.parameters[0]), layers = int32_t(v.parameters[1]);
    Layer layer{v.parameters + MLP_HEADER, v.num_parents, num_units, v.parameters[2]};
    const auto weighted = [&](int32_t i, int32_t group) {
        const Edge edge = v.edge(i);
        const uint32_t low = edge.place ^ uint32_t(16 * group);
        EightRows x = load_eight(in_tile(tile, low), in_tile(tile, low + DEEP_ROWS / 2 * 4));
        for (int r = 0; r < 4; ++r)
            x.low.row[r] = fma(edge.weight, x.low.row[r], 0.0f), x.high.row[r] = fma(edge.weight, x.high.row[r], 0.0f);
        return x;
    };
    const auto unit = [&](int32_t i, int32_t group) {
        const float* low = hidden.units + i * DEEP_ROWS + 4 * group;
        return load_eight(low, low + DEEP_ROWS / 2);
    };
    evaluate_layer(layer, weighted, hidden, thread);
    for (int32_t i = 1; i < layers; ++i) {
        layer = layer.next();
        evaluate_layer(layer, unit, hidden, thread);
    }
    const float *c = layer.next().W, *unit_of_row = hidden.units + thread % DEEP_ROWS;
    const int32_t count = thread < DEEP_ROWS ? num_units : 0;
    float sum = 0.0f;
    for (int32_t j = 0; j < count; ++j, unit_of_row += DEEP_ROWS) sum = fma(c[j], *unit_of_row, sum);
    return sum;
}

template <class Which>
SETTX_FN bool is_deep(const Which& v) {
    return v.mechanism == MLP && v.num_parents > 0 && v.parameters[1] > 1.0f;
}

// The rest of such a variable. Its step is read anew: all registers were the network's.
SETTX_FN void finish_deep_step(const Model<DEEP_ROWS>& m, int32_t position, float sum, const TileRows<1>& values) {
    const auto v = step_of(m, position);
    const uint32_t place = m.steps[position].place();
    RowsOf<1> x{{v.bias + sum}};
    if (v.noise_scale != 0.0f) x = add_noise<1>(x, v, values, values.load(place));
    if (v.gain != 1.0f || v.centre != 0.0f) x.row[0] = (x.row[0] - v.centre) * v.gain;
    values.store(place, x);
}

// All variables of a model, whatever their mechanisms are; a thread below DEEP_ROWS has a row.
SETTX_THREAD void evaluate_deep(const Model<DEEP_ROWS>& m, float* tile, const HiddenUnits& hidden, int32_t thread) {
    const TileRows<1> values{tile, uint32_t(thread % DEEP_ROWS * 4)};
    for (int32_t position = 0; position < m.n; ++position) {
        if (is_deep(step_of(m, position))) {
            const float sum = sum_of_network(step_of(m, position), tile, hidden, thread);
            if (thread < DEEP_ROWS) finish_deep_step(m, position, sum, values);
        } else if (thread < DEEP_ROWS) {
            evaluate_step<1>(m, position, values);
        }
        wait_for_block();
    }
}

}  // namespace settx::scm
