// The kernels and their launches. The device comes before this header: see sample_cuda.cu for a GPU and sample_rows.cpp
// for threads that stand in for one. It defines
//   SETTX_PATH   a namespace
//   SETTX_KERNEL, SETTX_BOUNDS(threads[, blocks]), SETTX_THREAD   what marks a kernel, and what it calls
//   SETTX_SHARED(name), block_number(), num_blocks(), thread_number(), num_threads(), wait_for_block()   for kernels
//   Device, launch(device, name, kernel, grid, arguments…), blank(device, memory, bytes)   for launches
// What a block does together is in evaluate_phases.h and evaluate_network.h, what a lane does on its own in
// evaluate_lane.h, the shape of a launch in launch_plan.h, how a model is drawn in draw.cpp, which is compiled here
// once more.
#pragma once
#include <algorithm>

#include "columns.h"
#include "draw.cpp"
#include "draw_graph.cpp"
#include "draw_mechanism.cpp"
#include "draw_shifts.cpp"
#include "evaluate_network.h"
#include "sample_cuda.h"

namespace settx::scm {

namespace {

SETTX_THREAD int64_t number_among_all() {
    return block_number() * num_threads() + thread_number();
}

// ---- Kernels --------------------------------------------------------------------------------------------------------

constexpr int64_t WARP = 32, MOST_DRAW_THREADS = 128, PARAMETER_THREADS = 64;

// As many warps as there are threads with a variable each: datasets alone do not fill a device.
SETTX_FN int64_t draw_threads(const Tables& t) {
    const int64_t threads = (t.variables + WARP - 1) / WARP * WARP;
    return threads < MOST_DRAW_THREADS ? threads : MOST_DRAW_THREADS;
}

SETTX_FN int64_t draw_scratch_bytes_of(const Tables& t) {
    const int64_t members = t.environments < draw_threads(t) ? t.environments : draw_threads(t);
    return draw_scratch_bytes(t.variables, members);
}

SETTX_THREAD SETTX_PATH::DrawScratch scratch_of(const Tables& t, int64_t b, char* scratch) {
    return {scratch + b * draw_scratch_bytes_of(t), t.variables};
}

// A block for every dataset.
SETTX_KERNEL void draw_datasets(Prior prior, Number seed, Number first_index, const int64_t* parameter_offset, Tables t,
                                char* scratch) {
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
SETTX_KERNEL void draw_all_parameters(Number seed, Tables t, int64_t versions, char* scratch) {
    const SETTX_PATH::Team team{thread_number(), num_threads()};
    for (int64_t i = block_number(); i < t.datasets * versions * t.variables; i += num_blocks()) {
        const int64_t v = i % t.variables, version = i / t.variables % versions, b = i / t.variables / versions;
        if (v >= t.num_variables[b] || version > t.num_environments[b]) continue;
        SETTX_PATH::draw_parameters_of<PRODUCTS>(seed.get(), t, b, version, int32_t(v), scratch_of(t, b, scratch),
                                                 team);
        team.meet();
    }
}

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

// ---- Launches: columns
// -------------------------------------------------------------------------------------------------------

constexpr int64_t THREADS = 128;

// A block for everything that there is to do, or one for several if the device has no more.
Grid blocks_of(const Device& device, int64_t things, int64_t threads, int64_t shared_bytes = 0) {
    return {std::min(things, device.limits.most_blocks), threads, shared_bytes};
}

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

// ---- Launches: scratch ----------------------------------------------------------------------------------------------

// Pieces of one memory, each at a multiple of 16 bytes; of none, to count what they take.
class Pieces {
  public:
    explicit Pieces(void* memory) : memory_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(int64_t count) {
        T* piece = reinterpret_cast<T*>(memory_ == nullptr ? nullptr : memory_ + bytes_);
        bytes_ += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
        return piece;
    }
    int64_t bytes() const { return bytes_; }

  private:
    char* memory_;
    int64_t bytes_ = 0;
};

struct EvaluationScratch {
    int32_t* lists;  // of the edges of all datasets
    float* hidden;   // units of networks that shared memory has no room for
    Sums* sums;      // (B, chunks, V), where columns are standardised
};

EvaluationScratch take_scratch_to_evaluate(Pieces& pieces, const Tables& t, const Rows& rows, const Plan& plan) {
    const int64_t chunks = rows.columns == COLUMNS_STANDARDISED ? num_chunks(rows) : 0;
    int32_t* lists = pieces.take<int32_t>(t.datasets * edges_of_dataset(t.variables));
    float* hidden = pieces.take<float>(plan.hidden > 0 ? plan.blocks * plan.hidden_per_block() : 0);
    return {lists, hidden, pieces.take<Sums>(t.datasets * chunks * t.variables)};
}

int64_t scratch_bytes(const Tables& t, const Evaluation& what, const DeviceLimits& limits) {
    Pieces pieces(nullptr);
    take_scratch_to_evaluate(pieces, t, what.rows, choose_plan(t, what.rows.rows, what.traits, limits));
    return pieces.bytes();
}

// ---- Launches -------------------------------------------------------------------------------------------------------

void draw_on(const Device& device, const Draw& what, const Tables& t, void* memory) {
    char* scratch = static_cast<char*>(memory);
    blank(device, what.memory, what.bytes);
    launch(device, "draw_datasets", draw_datasets, blocks_of(device, t.datasets, draw_threads(t)), what.prior,
           what.seed, what.first_index, what.parameter_offset, t, scratch);
    if (t.num_parameters == 0) return;
    const int64_t versions = what.renews_mechanisms ? t.environments + 1 : 1;
    launch(device, "draw_all_parameters", what.has_products ? draw_all_parameters<true> : draw_all_parameters<false>,
           blocks_of(device, t.datasets * versions * t.variables, PARAMETER_THREADS), what.seed, t, versions, scratch);
}

using PhasesKernel = void (*)(Tables, Rows, Plan, Writing, int32_t*);

PhasesKernel kernel_of(const Shape& shape) {
    if (shape.way == DEEP_PHASES) return evaluate_in_phases<DEEP_ROWS, 1, DEEP_PHASES>;
    const bool linear = shape.way == LINEAR_PHASES;
    if (shape.rows == 512)
        return linear ? evaluate_in_phases<512, 4, LINEAR_PHASES> : evaluate_in_phases<512, 4, SHALLOW_PHASES>;
    if (shape.rows == 256)
        return linear ? evaluate_in_phases<256, 4, LINEAR_PHASES> : evaluate_in_phases<256, 2, SHALLOW_PHASES>;
    return linear ? evaluate_in_phases<128, 4, LINEAR_PHASES> : evaluate_in_phases<128, 1, SHALLOW_PHASES>;
}

void evaluate_in_phases_on(const Device& device, const Plan& plan, const Tables& t, const Rows& rows, int32_t* lists) {
    const bool in_fours = t.variables % 4 == 0 && reinterpret_cast<uintptr_t>(rows.values) % 16 == 0 &&
                          reinterpret_cast<uintptr_t>(rows.noise) % 16 == 0;
    launch(device, "evaluate_in_phases", kernel_of(plan), {plan.blocks, plan.threads, plan.shared_bytes}, t, rows, plan,
           share_writing(t.variables, plan.threads, in_fours), lists);
}

using LanesKernel = void (*)(Tables, Rows, Plan, int32_t*, float*);

LanesKernel lanes_kernel_of(const Plan& plan) {
    if (plan.has_products) return plan.way == IN_PLACE ? evaluate_in_place<true> : evaluate_in_tiles<true>;
    return plan.way == IN_PLACE ? evaluate_in_place<false> : evaluate_in_tiles<false>;
}

void evaluate_on(const Device& device, const Plan& plan, const Tables& t, const Evaluation& what, void* memory) {
    const Rows& rows = what.rows;
    Pieces pieces(memory);
    const EvaluationScratch scratch = take_scratch_to_evaluate(pieces, t, rows, plan);
    const int64_t listing = t.variables > 32 ? THREADS : 32;
    launch(device, "prepare_datasets", prepare_datasets,
           blocks_of(device, t.datasets, listing, t.variables * int64_t(sizeof(int32_t))), t, rows.rows, what.split,
           const_cast<int64_t*>(rows.row_offset), scratch.lists);
    if (plan.in_phases()) {
        evaluate_in_phases_on(device, plan, t, rows, scratch.lists);
    } else {
        const Grid grid = blocks_of(device, plan.blocks, plan.threads, plan.shared_bytes);
        launch(device, "evaluate", lanes_kernel_of(plan), grid, t, rows, plan, scratch.lists, scratch.hidden);
        if (rows.noise != nullptr)
            launch(device, "write_noises", write_noises, {grid.blocks, grid.threads, 0}, t, rows, plan);
    }
    scale_columns_on(device, t, rows, scratch.sums);
}

}  // namespace

}  // namespace settx::scm
