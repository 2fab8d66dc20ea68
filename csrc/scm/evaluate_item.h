// How rows are shared out on a GPU, with nothing of CUDA in it: a thread block takes items of rows, each of its lanes
// four rows of a block of 64. Values lie in a tile of shared memory, or in the output itself where V is too large.
#pragma once
#include "device.h"
#include "evaluate_row.h"

namespace settx::scm {

// The shape of a launch, from sizes alone: nothing that was drawn is needed on the host.
struct Plan {
    int32_t lanes;   // of a thread block; an item has QUAD · lanes rows at most
    bool in_place;   // no tile
    int64_t items;   // of every dataset, some of them empty
    int64_t blocks;  // in flight: block i takes items i, i + blocks, … of all datasets
    int64_t hidden;  // numbers that a row needs for the hidden layers of its networks

    SETTX_METHOD int64_t rows_per_item() const { return QUAD * int64_t(lanes); }
    SETTX_METHOD int64_t stride() const { return rows_per_item() + 1; }  // of the tile: odd, against bank conflicts
    SETTX_METHOD int64_t hidden_per_block() const { return hidden * rows_per_item(); }
};

constexpr int32_t MOST_LANES = 128, FEWEST_LANES = 32;
constexpr int64_t HIDDEN_FLOATS = 1 << 26;  // of all blocks in flight

inline int64_t tile_bytes(const Tables& t, const Plan& plan) {
    return plan.in_place ? 0 : t.variables * plan.stride() * int64_t(sizeof(float));
}

// Four tiles at least to a processor, and items no longer than environments are on average.
// deep_width: units of the widest network that has more than one hidden layer, 0 without one.
inline Plan make_plan(const Tables& t, int64_t rows, int64_t deep_width, const DeviceLimits& limits) {
    const int64_t K = t.environments;
    Plan plan{MOST_LANES, false, 0, 0, 2 * deep_width};
    while (plan.lanes > FEWEST_LANES &&
           (4 * tile_bytes(t, plan) > limits.shared_per_processor || plan.rows_per_item() > rows / K))
        plan.lanes /= 2;
    plan.in_place = tile_bytes(t, plan) > limits.shared_per_block;
    plan.items = rows / plan.rows_per_item() + (K < rows ? K : rows);
    plan.blocks = t.datasets * plan.items;
    const int64_t fitting = deep_width > 0 ? HIDDEN_FLOATS / plan.hidden_per_block() : plan.blocks;
    if (fitting < plan.blocks) plan.blocks = fitting > 0 ? fitting : 1;
    return plan;
}

// Rows first … first + count − 1 of one environment.
struct Item {
    int32_t dataset, environment, count;
    int64_t first;
};

// False: there is no such item.
SETTX_FN bool find_item(const Tables& t, const Rows& rows, const Plan& plan, int64_t number, Item* item) {
    const int64_t b = number / plan.items, *offset = rows.row_offset + b * (t.environments + 1);
    int64_t left = number % plan.items;
    for (int32_t k = 0; k < t.environments; ++k) {
        const int64_t n = offset[k + 1] - offset[k], first = left * plan.rows_per_item(), rest = n - first;
        if (rest > 0) {
            *item = {int32_t(b), k, int32_t(rest < plan.rows_per_item() ? rest : plan.rows_per_item()), first};
            return true;
        }
        left -= (n + plan.rows_per_item() - 1) / plan.rows_per_item();
    }
    return false;
}

// parents (B, V, V + 1): for every variable the number of its parents, and these in topological order.
SETTX_FN void list_parents(const Tables& t, int64_t b, int64_t v, int32_t* parents) {
    const int64_t V = t.variables;
    int32_t* list = parents + (b * V + v) * (V + 1);
    list[0] = 0;
    if (v >= t.num_variables[b]) return;
    for (int64_t position = 0; position < t.num_variables[b]; ++position) {
        const int64_t p = t.order[b * V + position];
        if (t.adjacency[(b * V + p) * V + v]) list[++list[0]] = int32_t(p);
    }
}

// Number of the item's first row in `values`.
SETTX_FN int64_t first_row(const Tables& t, const Rows& rows, const Item& item) {
    const int64_t bk = item.dataset * (t.environments + 1) + item.environment;
    return item.dataset * rows.rows + rows.row_offset[bk] + item.first;
}

// ---- What a lane does -----------------------------------------------------------------------------------------------

// Row of the item that is the lane's row r, and where the tile has it.
SETTX_FN int32_t row_of_lane(int32_t lane, int r) {
    return lane / LANES * BLOCK + r * LANES + lane % LANES;
}

SETTX_FN int32_t place_in_tile(int32_t row, int32_t lanes) {
    return row % BLOCK / LANES * lanes + row / BLOCK * LANES + row % LANES;
}

SETTX_FN RowSet rows_of_lane(const Item& item, int32_t lane) {
    return rows_where([&](int r) { return row_of_lane(lane, r) < item.count; });
}

SETTX_FN LaneMemory tile_of_lane(float* tile, const Plan& plan, int32_t lane) {
    return {tile + lane, plan.stride(), plan.lanes};
}

SETTX_FN LaneMemory output_of_lane(const Tables& t, const Rows& rows, const Item& item, int32_t lane) {
    const int64_t V = t.variables, row = first_row(t, rows, item) + row_of_lane(lane, 0);
    return {rows.values + row * V, 1, LANES * V, rows_of_lane(item, lane)};
}

SETTX_FN Variable variable_of(const Tables& t, const Item& item, const int32_t* parents, int64_t v) {
    const int64_t V = t.variables, bv = item.dataset * V + v;
    const int64_t bk = item.dataset * t.environments + item.environment, bkv = bk * V + v;
    const int32_t* list = parents + bv * (V + 1);
    return {list + 1,
            t.weights + bk * V * V + v,
            t.hard[bkv] ? 0 : list[0],
            int32_t(V),
            t.bias[bkv],
            t.noise_scale[bkv],
            t.hard[bkv] ? 0.0f : t.centre[bv],
            t.hard[bkv] ? 1.0f : t.gain[bv],
            int32_t(t.noise_kind[bv]),
            int32_t(t.noise_effect[bv]),
            int32_t(t.mechanism[bv]),
            t.noise_parameters + NOISE_PARAMETERS * bv,
            t.parameters + t.mechanism_offset[bkv]};
}

// ---- What the lanes of a block write together -----------------------------------------------------------------------

SETTX_FN void write_environment(const Tables& t, const Rows& rows, const Item& item, int32_t lane, int32_t lanes) {
    const int64_t first = first_row(t, rows, item);
    for (int32_t row = lane; row < item.count; row += lanes) rows.environment[first + row] = item.environment;
}

// values (count, V) = tile (V, rows) transposed, variables that the dataset lacks 0. Lanes step through it side by
// side.
SETTX_FN void write_tile(const Tables& t, const Rows& rows, const Plan& plan, const Item& item, int32_t lane,
                         const float* tile) {
    float* out = rows.values + first_row(t, rows, item) * t.variables;
    const int32_t V = int32_t(t.variables), n = int32_t(t.num_variables[item.dataset]);
    const int32_t down = plan.lanes / V, right = plan.lanes % V, count = item.count;
    const int32_t stride = int32_t(plan.stride());
    int32_t row = lane / V, v = lane % V;
    for (int32_t i = lane; row < count; i += plan.lanes) {
        out[i] = v < n ? tile[v * stride + place_in_tile(row, plan.lanes)] : 0.0f;
        row += down;
        v += right;
        if (v >= V) v -= V, ++row;
    }
}

// In place, only what the dataset lacks is left to write.
SETTX_FN void write_missing_variables(const Tables& t, const Item& item, const LaneMemory& values) {
    for (int64_t v = t.num_variables[item.dataset]; v < t.variables; ++v) values.store(v, all_rows(0.0f));
}

}  // namespace settx::scm
