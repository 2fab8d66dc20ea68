// The kernels and their launches. The device comes before this header: see sample_cuda.cu for a GPU and sample_rows.cpp
// for threads that stand in for one. It defines
//   SETTX_PATH   a namespace
//   SETTX_KERNEL, SETTX_BOUNDS(threads[, blocks]), SETTX_THREAD   what marks a kernel, and what it calls
//   SETTX_SHARED(name), block_number(), num_blocks(), thread_number(), num_threads(), wait_for_block()   for kernels
//   Device, launch(device, name, kernel, grid, arguments…)   for launches
// What a lane does is in evaluate_lane.h, how a model is drawn in draw.cpp, which is compiled here once more.
#pragma once
#include <algorithm>

#include "columns.h"
#include "draw.cpp"
#include "draw_graph.cpp"
#include "draw_mechanism.cpp"
#include "draw_shifts.cpp"
#include "evaluate_lane.h"
#include "sample_cuda.h"

namespace settx::scm {

namespace SETTX_PATH {

// x (count,) += scale · noise, all rows by one thread.
SETTX_CALL void add_noise(int32_t kind, const float* parameters, float scale, Address at, uint64_t seed, int64_t count,
                          float* x) {
    for (int64_t row = 0; row < count; row += BLOCK)
        for (int lane = 0; lane < LANES; ++lane, ++at.block) {
            const Quad noise = draw_noise(kind, parameters, at, seed);
            for (int r = 0; r < QUAD; ++r) {
                float& at_row = x[row + r * LANES + lane];
                at_row = fma(scale, noise.row[r], at_row);
            }
        }
}

}  // namespace SETTX_PATH

namespace {

SETTX_THREAD int64_t number_among_all() {
    return block_number() * num_threads() + thread_number();
}

// ---- Kernels --------------------------------------------------------------------------------------------------------

SETTX_KERNEL void draw_datasets(Prior prior, uint64_t seed, const int64_t* parameter_offset, Tables t,
                                int32_t* scratch) {
    const int64_t b = number_among_all();
    if (b < t.datasets) SETTX_PATH::draw_dataset(prior, seed, parameter_offset[b], t, b, scratch + 2 * t.variables * b);
}

SETTX_KERNEL void list_all_parents(Tables t, int32_t* parents) {
    const int64_t i = number_among_all();
    if (i < t.datasets * t.variables) list_parents(t, i / t.variables, i % t.variables, parents);
}

SETTX_KERNEL void SETTX_BOUNDS(MOST_LANES, 4)
    evaluate_in_tiles(Tables t, Rows rows, Plan plan, const int32_t* parents, float* hidden) {
    SETTX_SHARED(tile);
    const int32_t lane = thread_number();
    hidden += block_number() * plan.hidden_per_block();
    for (int64_t number = block_number(); number < t.datasets * plan.items; number += num_blocks()) {
        Item item;
        if (!find_item(t, rows, plan, number, &item)) continue;
        evaluate_lane(t, rows, parents, plan, item, lane, tile_of_lane(tile, plan, lane), hidden);
        write_environment(t, rows, item, lane, plan.lanes);
        wait_for_block();
        write_tile(t, rows, plan, item, lane, tile);
        wait_for_block();
    }
}

SETTX_KERNEL void SETTX_BOUNDS(MOST_LANES)
    evaluate_in_place(Tables t, Rows rows, Plan plan, const int32_t* parents, float* hidden) {
    const int32_t lane = thread_number();
    hidden += block_number() * plan.hidden_per_block();
    for (int64_t number = block_number(); number < t.datasets * plan.items; number += num_blocks()) {
        Item item;
        if (!find_item(t, rows, plan, number, &item)) continue;
        const LaneMemory values = output_of_lane(t, rows, item, lane);
        evaluate_lane(t, rows, parents, plan, item, lane, values, hidden);
        write_missing_variables(t, item, values);
        write_environment(t, rows, item, lane, plan.lanes);
    }
}

SETTX_KERNEL void write_noises(Tables t, Rows rows, Plan plan) {
    for (int64_t number = block_number(); number < t.datasets * plan.items; number += num_blocks()) {
        Item item;
        if (find_item(t, rows, plan, number, &item)) write_noise(t, rows, item, thread_number());
    }
}

// sums (B, chunks, V)
SETTX_KERNEL void add_columns(Tables t, Rows rows, Sums* sums) {
    const int64_t i = number_among_all(), item = i / t.variables, v = i % t.variables;
    const int64_t chunks = num_chunks(rows), b = item / chunks, last = first_row_of_chunk(rows, b, item % chunks + 1);
    if (b >= t.datasets) return;
    Sums s{};
    for (int64_t row = first_row_of_chunk(rows, b, item % chunks); row < last; ++row)
        if (is_source_row(t, rows, b, row)) s = add_value(s, rows.values[row * t.variables + v]);
    sums[i] = s;
}

SETTX_KERNEL void find_units(Tables t, Rows rows, const Sums* sums) {
    const int64_t i = number_among_all(), b = i / t.variables, v = i % t.variables;
    if (b >= t.datasets || v >= t.num_variables[b]) return;
    find_unit(t, b, v, sums + b * num_chunks(rows) * t.variables, num_chunks(rows));
}

SETTX_KERNEL void apply_units(Tables t, Rows rows) {
    const int64_t i = number_among_all(), v = i % t.variables;
    const int64_t b = i / (rows.rows * t.variables);
    const int64_t bv = b * t.variables + v;
    if (b < t.datasets && v < t.num_variables[b])
        rows.values[i] = in_unit(rows.values[i], t.column_centre[bv], t.column_gain[bv]);
}

// ---- Launches -------------------------------------------------------------------------------------------------------

constexpr int64_t THREADS = 128;

// A thread for everything that there is to do.
Grid one_thread_each(int64_t things, int64_t threads_of_block = THREADS) {
    return {(things + threads_of_block - 1) / threads_of_block, threads_of_block, 0};
}

void scale_columns_on(const Device& device, const Tables& t, const Rows& rows, Sums* sums) {
    if (rows.columns == COLUMNS_RAW) return;
    if (rows.columns == COLUMNS_STANDARDISED) {
        const int64_t columns = t.datasets * t.variables;
        launch(device, "add_columns", add_columns, one_thread_each(columns * num_chunks(rows)), t, rows, sums);
        launch(device, "find_units", find_units, one_thread_each(columns), t, rows, sums);
    }
    launch(device, "apply_units", apply_units, one_thread_each(t.datasets * rows.rows * t.variables), t, rows);
}

// scratch (B, 2·V); prior lies on the device.
void draw_on(const Device& device, const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& t,
             int32_t* scratch) {
    launch(device, "draw_datasets", draw_datasets, one_thread_each(t.datasets, 32), prior, seed, parameter_offset, t,
           scratch);
}

void evaluate_on(const Device& device, const Plan& plan, const Tables& t, const Rows& rows,
                 const EvaluationScratch& scratch) {
    launch(device, "list_all_parents", list_all_parents, one_thread_each(t.datasets * t.variables), t, scratch.parents);
    const Grid grid{std::min<int64_t>(plan.blocks, INT32_MAX), plan.lanes, tile_bytes(t, plan)};
    launch(device, "evaluate", plan.in_place ? evaluate_in_place : evaluate_in_tiles, grid, t, rows, plan,
           scratch.parents, scratch.hidden);
    if (rows.noise != nullptr)
        launch(device, "write_noises", write_noises, {grid.blocks, grid.threads, 0}, t, rows, plan);
    scale_columns_on(device, t, rows, reinterpret_cast<Sums*>(scratch.sums));
}

}  // namespace

}  // namespace settx::scm
