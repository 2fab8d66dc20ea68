// The kernels. The device comes before this header: see sample_cuda.cu for a GPU and sample_rows.cpp for threads that
// stand in for one. It defines
//   SETTX_PATH   a namespace
//   SETTX_KERNEL, SETTX_BOUNDS(threads[, blocks]), SETTX_THREAD   what marks a kernel, and what it calls
//   SETTX_GIVEN   what marks a parameter that threads read where it lies: whose address is taken is else copied by each
//   SETTX_SHARED(name), block_number(), num_blocks(), thread_number(), num_threads(), wait_for_block()
// What a block does together is in evaluate_phases.h and evaluate_network.h, what a lane does on its own in
// evaluate_lane.h, how a model is drawn in draw.cpp, which is compiled here once more.
#pragma once
#include "columns.h"
#include "draw.cpp"
#include "draw_graph.cpp"
#include "draw_interventions.cpp"
#include "draw_mechanism.cpp"
#include "draw_shifts.cpp"
#include "evaluate_lane.h"
#include "evaluate_network.h"
#include "sample_cuda.h"

namespace settx::scm {
namespace {

SETTX_THREAD int64_t number_among_all() {
    return block_number() * num_threads() + thread_number();
}

// ---- Drawing --------------------------------------------------------------------------------------------------------

constexpr int64_t WARP = 32, MOST_DRAW_THREADS = 128, PARAMETER_THREADS = 64;

// As many warps as there are threads with a variable each: datasets alone do not fill a device.
SETTX_FN int64_t draw_threads(const Tables& t) {
    const int64_t threads = (t.variables + WARP - 1) / WARP * WARP;
    return threads < MOST_DRAW_THREADS ? threads : MOST_DRAW_THREADS;
}

// For every dataset: what its team notes, then its list of edges.
SETTX_FN int64_t note_bytes(const Tables& t) {
    const int64_t members = t.environments < draw_threads(t) ? t.environments : draw_threads(t);
    return draw_scratch_bytes(t.variables, members);
}

SETTX_FN int64_t draw_scratch_bytes_of(const Tables& t) {
    return note_bytes(t) + (edges_of_dataset(t.variables) + 1) / 2 * 8;
}

SETTX_THREAD SETTX_PATH::DrawScratch scratch_of(const Tables& t, int64_t b, char* scratch) {
    char* mine = scratch + b * draw_scratch_bytes_of(t);
    SETTX_PATH::DrawScratch found(mine, t.variables);
    found.edges = reinterpret_cast<int32_t*>(mine + note_bytes(t));
    return found;
}

// Blocks that draw on a multiprocessor at once, as registers allow.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int DRAWING_BLOCKS = 4;  // five would spill
#else
constexpr int DRAWING_BLOCKS = 5;
#endif

// A block for every dataset.
SETTX_KERNEL void SETTX_BOUNDS(MOST_DRAW_THREADS, DRAWING_BLOCKS)
    draw_datasets(SETTX_GIVEN const Prior prior, Number seed, Number first_index, const int64_t* parameter_offset,
                  SETTX_GIVEN const Tables t, char* scratch) {
    const SETTX_PATH::Team team{thread_number(), num_threads()};
    for (int64_t b = block_number(); b < t.datasets; b += num_blocks()) {
        if (team.leads()) t.index[b] = int64_t(first_index.get()) + b;
        team.meet();
        SETTX_PATH::draw_model(prior, seed.get(), parameter_offset == nullptr ? 0 : parameter_offset[b], t, b,
                               scratch_of(t, b, scratch), team);
        team.meet();
    }
}

// A block for every variable of every dataset, in every version.
template <bool PRODUCTS>
SETTX_KERNEL void draw_all_parameters(Number seed, SETTX_GIVEN const Tables t, int64_t versions, char* scratch) {
    const SETTX_PATH::Team team{thread_number(), num_threads()};
    for (int64_t i = block_number(); i < t.datasets * versions * t.variables; i += num_blocks()) {
        const int64_t v = i % t.variables, version = i / t.variables % versions, b = i / t.variables / versions;
        if (v >= t.num_variables[b] || version > t.num_environments[b]) continue;
        SETTX_PATH::draw_parameters_of<PRODUCTS>(seed.get(), t, b, version, int32_t(v), scratch_of(t, b, scratch),
                                                 team);
        team.meet();
    }
}

// ---- Before rows are evaluated --------------------------------------------------------------------------------------

// A block for every dataset: lists its edges, and splits its rows.
SETTX_KERNEL void prepare_datasets(Tables t, int64_t num_rows, RowSplit split, int64_t* row_offset, int32_t* lists) {
    SETTX_SHARED(memory);
    int32_t* counts = reinterpret_cast<int32_t*>(memory);
    for (int64_t b = block_number(); b < t.datasets; b += num_blocks()) {
        count_edges(t, b, thread_number(), num_threads(), counts);
        if (split.is_wanted && thread_number() == 0)
            split_rows(t, b, num_rows, split, row_offset + b * (t.environments + 1));
        wait_for_block();
        list_edges(t, b, thread_number(), num_threads(), counts, edge_list(t, b, lists));
        wait_for_block();
    }
}

// Rows with the seed that lies on the device.
SETTX_THREAD Rows with_seed(Rows rows) {
    if (rows.seed_at != nullptr) rows.seed = *rows.seed_at;
    return rows;
}

SETTX_THREAD ItemWalk items_of_block(const Plan& plan) {
    return {plan, uint32_t(block_number()), uint32_t(num_blocks())};
}

// ---- Evaluating by lanes --------------------------------------------------------------------------------------------

template <bool PRODUCTS>
SETTX_KERNEL void SETTX_BOUNDS(MOST_LANES, 4)
    evaluate_in_tiles(Tables t, Rows given, Plan plan, int32_t* lists, float* hidden) {
    const Rows rows = with_seed(given);
    SETTX_SHARED(tile);
    const int32_t lane = thread_number();
    hidden += block_number() * plan.hidden_per_block();
    for (ItemWalk walk = items_of_block(plan); walk.dataset < t.datasets; walk.go_on()) {
        Item item;
        if (!find_item(t, rows, plan.rows, walk.dataset, walk.number, &item)) continue;
        const EdgeList list = edge_list(t, item.dataset, lists);
        evaluate_lane<PRODUCTS>(t, rows, list, plan, item, lane, tile_of_lane(tile, plan, lane), hidden);
        write_environment(t, rows, item, lane, plan.threads);
        wait_for_block();
        write_tile(t, rows, plan, item, lane, tile);
        wait_for_block();
    }
}

template <bool PRODUCTS>
SETTX_KERNEL void SETTX_BOUNDS(MOST_LANES)
    evaluate_in_place(Tables t, Rows given, Plan plan, int32_t* lists, float* hidden) {
    const Rows rows = with_seed(given);
    const int32_t lane = thread_number();
    hidden += block_number() * plan.hidden_per_block();
    for (ItemWalk walk = items_of_block(plan); walk.dataset < t.datasets; walk.go_on()) {
        Item item;
        if (!find_item(t, rows, plan.rows, walk.dataset, walk.number, &item)) continue;
        const LaneMemory values = output_of_lane(t, rows, item, lane);
        evaluate_lane<PRODUCTS>(t, rows, edge_list(t, item.dataset, lists), plan, item, lane, values, hidden);
        write_missing_variables(t, item, values);
        write_environment(t, rows, item, lane, plan.threads);
    }
}

SETTX_KERNEL void write_noises(Tables t, Rows given, Plan plan) {
    const Rows rows = with_seed(given);
    for (ItemWalk walk = items_of_block(plan); walk.dataset < t.datasets; walk.go_on()) {
        Item item;
        if (find_item(t, rows, plan.rows, walk.dataset, walk.number, &item))
            write_noise(t, rows, item, thread_number());
    }
}

// ---- Evaluating in phases -------------------------------------------------------------------------------------------

// The values of a tile from its noise.
template <int ROWS, int N, Way WAY>
SETTX_THREAD void evaluate_tile(const Model<ROWS>& model, const Item& part, float* tile, float* hidden) {
    const int32_t thread = thread_number();
    if constexpr (WAY == DEEP_PHASES)
        return evaluate_deep(model, tile, {hidden, hidden + model.deep_width * DEEP_ROWS}, thread);
    for (int32_t first = thread * N; first < part.count; first += num_threads() * N) {
        const TileRows<N> values{tile, uint32_t(first * 4)};
        if constexpr (WAY == SHALLOW_PHASES)
            for (int32_t position = 0; position < model.n; ++position) evaluate_step<N>(model, position, values);
        else if (model.has_room)
            evaluate_linear(model, NearEdges{model.edges}, values);
        else
            evaluate_linear(model, FarEdges<ROWS>{model, 0}, values);
    }
}

template <int ROWS>
SETTX_THREAD void observe_tile(const Tables& t, const Rows& rows, const Model<ROWS>& model, const Item& part,
                               float* tile) {
    for (int32_t counter = thread_number(); QUAD * counter < ROWS; counter += num_threads())
        if (row_of_lane(counter, 0) < part.count)
            observe_rows(Lane{t, rows, part, {}, counter, {}}, CounterRows<ROWS>{tile, counter, model.exchange_shift});
}

// From noise to what is seen, with a barrier after each phase. first: the number among all that are written to.
template <int ROWS, int N, Way WAY>
SETTX_THREAD void go_through_tile(const Tables& t, const Rows& rows, const Plan& plan, const Model<ROWS>& model,
                                  const Item& part, const Writing& writing, int64_t first, const Keys& keys,
                                  float* tile, float* hidden) {
    const int32_t thread = thread_number(), threads = num_threads();
    if (plan.all_gaussian)
        draw_normals_of_tile(model, part, keys, thread, threads, tile);
    else
        draw_noise_of_tile(model, part, seed_of(keys), thread, threads, tile);
    wait_for_block();
    if (rows.noise != nullptr) {
        write_out<ROWS>(writing, part.count, thread, tile, rows.noise + first);
        wait_for_block();
    }
    evaluate_tile<ROWS, N, WAY>(model, part, tile, hidden);
    wait_for_block();
    if (rows.is_observed) {
        Rows seeded = rows;
        seeded.seed = seed_of(keys);
        observe_tile(t, seeded, model, part, tile);
        wait_for_block();
    }
    write_out<ROWS>(writing, part.count, thread, tile, rows.values + first);
    wait_for_block();
}

constexpr int32_t most_threads(Way way) {
    return way == LINEAR_PHASES ? MOST_THREADS : way == SHALLOW_PHASES ? SHALLOW_THREADS : DEEP_THREADS;
}

// Of a block with the most threads, so that registers last.
constexpr int32_t least_blocks(Way way) {
    return way == LINEAR_PHASES ? 1 : way == SHALLOW_PHASES ? 5 : 2;
}

// ROWS of a tile, N of a thread. A block for every item.
template <int ROWS, int N, Way WAY>
SETTX_KERNEL void SETTX_BOUNDS(most_threads(WAY), least_blocks(WAY))
    evaluate_in_phases(Tables t, Rows rows, Plan plan, Writing writing, int32_t* lists) {
    SETTX_SHARED(memory);
    const uint32_t block = uint32_t(block_number()), dataset = block / uint32_t(plan.items);
    Item item;
    if (!find_item(t, rows, plan.rows_per_item(), dataset, block - dataset * uint32_t(plan.items), &item)) return;
    const SharedLayout at = shared_layout(t.variables, ROWS, plan.most_edges, plan.deep_width);
    const EdgeList list = edge_list(t, item.dataset, lists);
    const int32_t n = int32_t(t.num_variables[item.dataset]), thread = thread_number(), threads = num_threads();
    const Model<ROWS> model{t,
                            item.dataset,
                            item.environment,
                            list,
                            reinterpret_cast<Step*>(memory + at.steps),
                            reinterpret_cast<Edge*>(memory + at.edges),
                            n,
                            plan.deep_width,
                            list.starts[n] <= plan.most_edges,
                            writing.exchange_shift};
    Keys& keys = *reinterpret_cast<Keys*>(memory + at.keys);
    if (thread < int32_t(ROUNDS)) keys.set(with_seed(rows).seed, uint32_t(thread));
    model.lay_out(thread, threads);
    blank_missing_variables(model, thread, threads, memory);
    write_environment(t, rows, item, thread, threads);
    wait_for_block();
    const int64_t first = first_row(t, rows, item) * t.variables;
    for (int32_t done = 0; done < item.count; done += ROWS) {
        const int32_t left = item.count - done;
        const Item part{item.dataset, item.environment, left < ROWS ? left : ROWS, item.first + done};
        go_through_tile<ROWS, N, WAY>(t, rows, plan, model, part, writing, first + done * t.variables, keys, memory,
                                      memory + at.hidden);
    }
}

// ---- Columns --------------------------------------------------------------------------------------------------------

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

}  // namespace
}  // namespace settx::scm
