// The CUDA back end without a GPU: its kernels and launches, on threads of a CPU that stand in for those of a device.
// Slow, and there to prove them. A block's threads take turns, each up to the next barrier: what a barrier is needed
// for goes wrong without it, every time; and all of them meet at every barrier, or none.
#include <ucontext.h>

#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "device.h"
#include "paths.h"
#include "prior_image.h"

#define SETTX_PATH emulated
#define SETTX_GIVEN
#define SETTX_KERNEL
#define SETTX_THREAD
#define SETTX_BOUNDS(...)
#define SETTX_SHARED(name) float* const name = here.block->memory()

namespace settx::scm {
namespace {

struct Device {
    DeviceLimits limits;
};

// One block at a time, in memory of its own size. Its threads are contexts of the thread that launches, which switches
// between them faster than a system between its own.
class Block {
  public:
    explicit Block(Grid grid) : grid_(grid), memory_(new float[floats()]) {
        for (int64_t thread = 0; thread < grid.threads; ++thread) threads_.emplace_back(new char[STACK_BYTES]);
    }

    template <class Work>
    void run(const Work& work) {
        work_ = [](const void* what) { (*static_cast<const Work*>(what))(); };
        what_ = &work;
        for (int64_t number = 0; number < grid_.blocks; ++number) run_block(number);
    }

    float* memory() const { return memory_.get(); }

    // Up to the turn of the same thread after the others'.
    void wait();

  private:
    struct Thread {
        explicit Thread(char* memory) : stack(memory) {}

        std::unique_ptr<char[]> stack;
        ucontext_t context{};
        bool is_done = false;
    };

    static constexpr size_t STACK_BYTES = 1 << 17;

    size_t floats() const { return size_t(grid_.shared_bytes) / sizeof(float); }
    void run_block(int64_t number);
    void start(Thread&);
    static void enter();

    Grid grid_;
    std::unique_ptr<float[]> memory_;
    std::vector<Thread> threads_;
    ucontext_t launcher_{};
    void (*work_)(const void*) = nullptr;
    const void* what_ = nullptr;
};

// Of the thread whose turn it is.
struct Place {
    Block* block = nullptr;
    int64_t block_number = 0, num_blocks = 0;
    int32_t thread_number = 0, num_threads = 0;
};

thread_local Place here;

int64_t block_number() {
    return here.block_number;
}

int64_t num_blocks() {
    return here.num_blocks;
}

int32_t thread_number() {
    return here.thread_number;
}

int32_t num_threads() {
    return here.num_threads;
}

void wait_for_block() {
    here.block->wait();
}

void Block::wait() {
    swapcontext(&threads_[size_t(here.thread_number)].context, &launcher_);
}

void Block::enter() {
    Block& block = *here.block;
    block.work_(block.what_);
    block.threads_[size_t(here.thread_number)].is_done = true;
}

void Block::start(Thread& thread) {
    thread.is_done = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK_BYTES;
    thread.context.uc_link = &launcher_;
    makecontext(&thread.context, &Block::enter, 0);
}

void Block::run_block(int64_t number) {
    // What an earlier block left is nothing to build on.
    std::fill_n(memory(), floats(), std::numeric_limits<float>::quiet_NaN());
    for (Thread& thread : threads_) start(thread);
    for (size_t done = 0; done < threads_.size();) {
        done = 0;
        for (size_t thread = 0; thread < threads_.size(); ++thread) {
            here = {this, number, grid_.blocks, int32_t(thread), int32_t(grid_.threads)};
            swapcontext(&launcher_, &threads_[thread].context);
            done += threads_[thread].is_done;
        }
        if (done > 0 && done < threads_.size()) throw std::logic_error("threads of a block part at a barrier");
    }
}

template <class... Parameters, class... Arguments>
void launch(const Device&, const char*, void (*kernel)(Parameters...), Grid grid, Arguments... arguments) {
    Block(grid).run([&] { kernel(arguments...); });
}

void blank(const Device&, void* memory, int64_t bytes) {
    std::fill_n(static_cast<char*>(memory), bytes, '\0');  // of no bytes too, which may lie nowhere
}

}  // namespace
}  // namespace settx::scm

#include "launches.h"

namespace settx::scm {
namespace {

bool has_parents(const Tables& t, int64_t b, int64_t v) {
    bool found = false;
    for (int64_t p = 0; p < t.num_variables[b]; ++p) found |= t.adjacency[(b * t.variables + p) * t.variables + v];
    return found;
}

// Exactly what the networks of the tables need: one float less is an access out of bounds.
int32_t deep_width_of(const Tables& t) {
    int32_t widest = 0;
    for (int64_t i = 0; i < t.datasets * t.environments * t.variables; ++i) {
        const int64_t b = i / (t.environments * t.variables), v = i % t.variables;
        if (t.mechanism[b * t.variables + v] != MLP || !has_parents(t, b, v)) continue;
        const float* network = t.parameters + t.mechanism_offset[i];
        if (network[1] > 1.0f) widest = std::max(widest, int32_t(network[0]));
    }
    return widest;
}

Traits traits_of(const Tables& t, const Rows& rows) {
    Traits traits{true, true, deep_width_of(t), rows.is_observed && rows.attempt != nullptr, false};
    for (int64_t i = 0; i < t.datasets * t.variables; ++i) {
        if (i % t.variables >= t.num_variables[i / t.variables]) continue;
        traits.all_linear &= t.mechanism[i] == LINEAR;
        traits.has_products |= t.mechanism[i] == FACTORS;
        traits.all_gaussian &= t.noise_kind[i] == GAUSSIAN;
    }
    return traits;
}

struct NamedShape {
    const char* name;
    Shape shape;
};

// Every kernel that a rule may choose, with many threads and few, with one tile for a model and several.
constexpr NamedShape SHAPES[] = {
    {"linear 512", {LINEAR_PHASES, 512, 4, 128, 1}},
    {"linear 512 of a warp", {LINEAR_PHASES, 512, 4, 32, 2}},
    {"linear 256", {LINEAR_PHASES, 256, 4, 128, 2}},
    {"linear 128", {LINEAR_PHASES, 128, 4, 128, 4}},
    {"linear 128 of many", {LINEAR_PHASES, 128, 4, MOST_THREADS, 1}},
    {"shallow 512", {SHALLOW_PHASES, 512, 4, SHALLOW_THREADS, 1}},
    {"shallow 256", {SHALLOW_PHASES, 256, 2, SHALLOW_THREADS, 2}},
    {"shallow 128", {SHALLOW_PHASES, 128, 1, SHALLOW_THREADS, 4}},
    {"deep", {DEEP_PHASES, DEEP_ROWS, 1, DEEP_THREADS, 2}},
    {"tiles 512", {IN_TILES, 512, 4, 128, 1}},
    {"tiles 128", {IN_TILES, 128, 4, 32, 1}},
    {"in place 512", {IN_PLACE, 512, 4, 128, 1}},
    {"in place 128", {IN_PLACE, 128, 4, 32, 1}},
};

constexpr int64_t MOST_BLOCKS = 3;  // so that blocks go on with another item
constexpr DeviceLimits H100{233472, 232448, 132, MOST_BLOCKS};

Shape shape_by_name(const std::string& name, const Tables& t, const Rows& rows, const Traits& traits) {
    if (name.empty()) return choose_shape(t, rows.rows, traits, H100);
    for (const NamedShape& known : SHAPES)
        if (name == known.name && suits(t, known.shape, traits, H100)) return known.shape;
    throw std::invalid_argument("shape: expected one that suits the models, got '" + name + "'");
}

}  // namespace

int64_t scratch_bytes_to_draw(const Tables& t) {
    return t.datasets * draw_scratch_bytes_of(t);
}

int64_t scratch_bytes_by_rows(const Tables& sizes, const Evaluation& what) {
    return scratch_bytes(sizes, what, H100);
}

void draw_by_rows(const Draw& what, const Tables& t, void* scratch) {
    draw_on({H100}, what, t, scratch);
}

void evaluate_by_rows(const Tables& t, const Evaluation& what, void* scratch) {
    evaluate_on({H100}, choose_plan(t, what.rows.rows, what.traits, H100), t, what, scratch);
}

void draw_from_image(const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& t) {
    PriorImage empty(nullptr, nullptr);
    empty.add(prior);
    std::vector<char> memory(size_t(empty.size()));
    PriorImage image(memory.data(), memory.data());
    const Prior there = image.add(prior);
    if (prior.needs_pilot) return draw(there, seed, parameter_offset, t, 1, path(0));  // drawn on the host
    std::vector<char> scratch(size_t(scratch_bytes_to_draw(t)));
    const auto first_index = static_cast<uint64_t>(t.index[0]);
    draw_on({H100},
            {there,
             {seed, nullptr},
             {first_index, nullptr},
             parameter_offset,
             renews_mechanisms(prior),
             has_products(prior),
             nullptr,
             0},
            t, scratch.data());
}

void evaluate_in_shape(const Tables& t, const Rows& rows, const std::string& shape) {
    const Traits traits = traits_of(t, rows);
    Plan plan = make_plan(t, rows.rows, traits, shape_by_name(shape, t, rows, traits));
    Pieces counted(nullptr);
    take_scratch_to_evaluate(counted, t, rows, plan);
    std::vector<char> scratch(size_t(counted.bytes()));
    evaluate_on({H100}, plan, t, {rows, traits, {}}, scratch.data());
}

std::vector<std::string> row_shapes() {
    std::vector<std::string> names;
    for (const NamedShape& shape : SHAPES) names.emplace_back(shape.name);
    return names;
}

}  // namespace settx::scm
