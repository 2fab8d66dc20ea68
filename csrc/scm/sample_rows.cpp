// The CUDA back end without a GPU: its kernels and launches, on threads that stand in for those of a device. Slow, and
// there to prove them. A block's threads take turns, each up to the next barrier: what a barrier is needed for goes
// wrong without it, every time.
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "device.h"
#include "paths.h"
#include "prior_image.h"

#define SETTX_PATH emulated
#define SETTX_KERNEL
#define SETTX_THREAD
#define SETTX_BOUNDS(...)
#define SETTX_SHARED(name) float* const name = here.block->memory()

namespace settx::scm {
namespace {

constexpr int64_t MOST_BLOCKS = 3;  // of those kernels that go on with another item: fewer blocks than items

struct Device {
    DeviceLimits limits;
};

// One block at a time, in memory of its own size.
class Block {
  public:
    explicit Block(Grid grid)
        : grid_(grid), memory_(new float[size_t(grid.shared_bytes) / sizeof(float)]), next_(size_t(grid.threads)) {}

    // As many threads as a block has, each of them in every block.
    template <class Work>
    void run(const Work& work) {
        std::vector<std::thread> threads;
        for (int32_t thread = 0; thread < grid_.threads; ++thread)
            threads.emplace_back([&, thread] { run_thread(thread, work); });
        for (std::thread& thread : threads) thread.join();
    }

    float* memory() const { return memory_.get(); }

    void wait(int32_t thread) {
        pass_turn(thread);
        wait_for_turn(thread);
    }

  private:
    template <class Work>
    void run_thread(int32_t thread, const Work& work);

    void wait_for_turn(int32_t thread) {
        std::unique_lock<std::mutex> lock(mutex_);
        next_[size_t(thread)].wait(lock, [&] { return turn_ == thread; });
    }

    void pass_turn(int32_t thread) {
        const std::lock_guard<std::mutex> lock(mutex_);
        turn_ = int32_t((thread + 1) % grid_.threads);
        next_[size_t(turn_)].notify_one();
    }

    Grid grid_;
    std::unique_ptr<float[]> memory_;
    std::mutex mutex_;
    std::vector<std::condition_variable> next_;
    int32_t turn_ = 0;
};

// Of the thread that asks.
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
    here.block->wait(here.thread_number);
}

template <class Work>
void Block::run_thread(int32_t thread, const Work& work) {
    wait_for_turn(thread);
    for (int64_t block = 0; block < grid_.blocks; ++block) {
        if (thread == 0)  // what an earlier block left is nothing to build on
            std::fill_n(memory(), size_t(grid_.shared_bytes) / sizeof(float), std::numeric_limits<float>::quiet_NaN());
        here = {this, block, grid_.blocks, thread, int32_t(grid_.threads)};
        work();
        wait(thread);
    }
    pass_turn(thread);
}

template <class... Parameters, class... Arguments>
void launch(const Device&, const char*, void (*kernel)(Parameters...), Grid grid, Arguments... arguments) {
    Block(grid).run([&] { kernel(arguments...); });
}

}  // namespace
}  // namespace settx::scm

#include "kernels.h"

namespace settx::scm {
namespace {

bool has_parents(const Tables& t, int64_t b, int64_t v) {
    bool found = false;
    for (int64_t p = 0; p < t.num_variables[b]; ++p) found |= t.adjacency[(b * t.variables + p) * t.variables + v];
    return found;
}

// Exactly what the networks of the tables need: one float less is an access out of bounds.
int64_t deep_width(const Tables& t) {
    int64_t widest = 0;
    for (int64_t i = 0; i < t.datasets * t.environments * t.variables; ++i) {
        const int64_t b = i / (t.environments * t.variables), v = i % t.variables;
        if (t.mechanism[b * t.variables + v] != MLP || !has_parents(t, b, v)) continue;
        const float* network = t.parameters + t.mechanism_offset[i];
        if (network[1] > 1.0f) widest = std::max(widest, int64_t(network[0]));
    }
    return widest;
}

}  // namespace

void draw_from_image(const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& t) {
    PriorImage empty(nullptr, nullptr);
    empty.add(prior);
    std::vector<char> memory(size_t(empty.size()));
    PriorImage image(memory.data(), memory.data());
    const Prior there = image.add(prior);
    if (prior.needs_pilot) return draw(there, seed, parameter_offset, t, 1, path(0));  // drawn on the host
    std::vector<int32_t> scratch(size_t(2 * t.datasets * t.variables));
    draw_on({}, there, seed, parameter_offset, t, scratch.data());
}

void evaluate_by_rows(const Tables& t, const Rows& rows, int64_t shared_bytes) {
    const Device device{{shared_bytes, shared_bytes}};
    Plan plan = make_plan(t, rows.rows, deep_width(t), device.limits);
    plan.blocks = std::min(plan.blocks, MOST_BLOCKS);
    std::vector<int32_t> parents(size_t(t.datasets * t.variables * (t.variables + 1)));
    std::vector<float> hidden(size_t(plan.blocks * plan.hidden_per_block()));
    std::vector<Sums> sums(size_t(t.datasets * num_chunks(rows) * t.variables));
    evaluate_on(device, plan, t, rows, {parents.data(), hidden.data(), &sums.data()->count});
}

}  // namespace settx::scm
