// The launches of the kernels, with nothing of CUDA in it. The device, which comes before this header as for kernels.h,
// defines
//   Device   with `limits`
//   launch(device, name, kernel, grid, arguments…), blank(device, memory, bytes)
// The shape of a launch that evaluates rows is chosen in launch_plan.h.
#pragma once
#include <algorithm>

#include "device.h"
#include "kernels.h"
#include "launch_plan.h"

namespace settx::scm {
namespace {

constexpr int64_t THREADS = 128;

// A block for everything that there is to do, or one for several if the device has no more.
Grid blocks_of(const Device& device, int64_t things, int64_t threads, int64_t shared_bytes = 0) {
    return {std::min(things, device.limits.most_blocks), threads, shared_bytes};
}

// A thread for everything that there is to do.
Grid one_thread_each(int64_t things, int64_t threads_of_block = THREADS) {
    return {(things + threads_of_block - 1) / threads_of_block, threads_of_block, 0};
}

// ---- Drawing --------------------------------------------------------------------------------------------------------

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

// ---- Evaluating: scratch --------------------------------------------------------------------------------------------

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

// ---- Evaluating -----------------------------------------------------------------------------------------------------

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

void scale_columns_on(const Device& device, const Tables& t, const Rows& rows, Sums* sums) {
    if (rows.columns == COLUMNS_RAW) return;
    if (rows.columns == COLUMNS_STANDARDISED) {
        const int64_t columns = t.datasets * t.variables;
        launch(device, "add_columns", add_columns, one_thread_each(columns * num_chunks(rows)), t, rows, sums);
        launch(device, "find_units", find_units, one_thread_each(columns), t, rows, sums);
    }
    launch(device, "apply_units", apply_units, one_thread_each(t.datasets * rows.rows * t.variables), t, rows);
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
