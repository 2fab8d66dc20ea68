// How rows are shared out on a GPU, with nothing of CUDA in it: a thread block takes items of rows, each of its lanes
// four rows of a block of 64. Values lie in a tile of shared memory, or in the output itself where V is too large.
#pragma once
#include "evaluate_model.h"
#include "launch_plan.h"

namespace settx::scm {

// Rows first … first + count − 1 of one environment.
struct Item {
    int32_t dataset, environment, count;
    int64_t first;
};

// The items that fall to a block: of those of all datasets every num_blocks-th. One division for all of them.
struct ItemWalk {
    int64_t dataset;
    uint32_t number, items;  // among those of the dataset, and how many there are
    uint32_t datasets_on, items_on;

    SETTX_METHOD ItemWalk(const Plan& plan, uint32_t block, uint32_t num_blocks)
        : dataset(block / uint32_t(plan.items)),
          number(block % uint32_t(plan.items)),
          items(uint32_t(plan.items)),
          datasets_on(num_blocks / items),
          items_on(num_blocks % items) {}

    SETTX_METHOD void go_on() {
        dataset += datasets_on;
        number += items_on;
        if (number >= items) number -= items, ++dataset;
    }
};

// False: there is no such item.
SETTX_FN bool find_item(const Tables& t, const Rows& rows, int32_t rows_per_item, int64_t dataset, uint32_t number,
                        Item* item) {
    const int64_t* offset = rows.row_offset + dataset * (t.environments + 1);
    int64_t first = int64_t(number) * rows_per_item;
    for (int32_t k = 0; k < int32_t(t.environments); ++k) {
        const int64_t n = offset[k + 1] - offset[k], rest = n - first;
        if (rest > 0) {
            *item = {int32_t(dataset), k, int32_t(rest < rows_per_item ? rest : rows_per_item), first};
            return true;
        }
        const int64_t in_whole_items = (n + rows_per_item - 1) & -int64_t(rows_per_item);  // a power of two
        first -= in_whole_items;
    }
    return false;
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
    return {tile + lane, plan.stride(), plan.threads};
}

SETTX_FN LaneMemory output_of_lane(const Tables& t, const Rows& rows, const Item& item, int32_t lane) {
    const int64_t V = t.variables, row = first_row(t, rows, item) + row_of_lane(lane, 0);
    return {rows.values + row * V, 1, LANES * V, rows_of_lane(item, lane)};
}

SETTX_FN Variable variable_of(const Tables& t, const Item& item, const EdgeList& list, int64_t position) {
    const int64_t V = t.variables, v = t.order[item.dataset * V + position], bv = item.dataset * V + v;
    const int64_t bk = item.dataset * t.environments + item.environment, bkv = bk * V + v;
    const int32_t first = list.starts[position];
    return {list.edges + first,
            t.weights + bk * V * V + v,
            t.hard[bkv] ? 0 : list.starts[position + 1] - first,
            int32_t(V),
            t.bias[bkv],
            t.noise_scale[bkv],
            t.hard[bkv] ? 0.0f : t.centre[bv],
            t.hard[bkv] ? 1.0f : t.gain[bv],
            int32_t(t.noise_kind[bv]),
            int32_t(t.noise_effect[bv]),
            t.hard[bkv] ? int32_t(LINEAR) : int32_t(t.mechanism[bv]),
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
    const int32_t down = plan.threads / V, right = plan.threads % V, count = item.count;
    const int32_t stride = int32_t(plan.stride());
    int32_t row = lane / V, v = lane % V;
    for (int32_t i = lane; row < count; i += plan.threads) {
        out[i] = v < n ? tile[v * stride + place_in_tile(row, plan.threads)] : 0.0f;
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
