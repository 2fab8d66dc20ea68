// Threads over datasets and chunks of rows. Who computes what never changes a bit.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "columns.h"
#include "lanes.h"
#include "mechanism.h"
#include "parallel.h"
#include "paths.h"
#include "variables.h"

namespace settx::scm {
namespace {

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

using Floats = std::unique_ptr<float[], Free>;

Floats allocate_floats(int64_t count) {
    void* memory = std::aligned_alloc(64, size_t(count * 4 + 63) / 64 * 64);
    if (memory == nullptr) throw std::bad_alloc();
    return Floats(static_cast<float*>(memory));
}

// The edges of one dataset by child, each child's parents in topological order.
struct ParentLists {
    std::vector<int32_t> start, parents, next;

    ParentLists(int64_t V, int64_t max_edges) {  // filling must not allocate
        start.reserve(size_t(V) + 1);
        next.reserve(size_t(V) + 1);
        parents.reserve(size_t(max_edges));
    }

    void fill(const Tables& t, int64_t b) {
        const int64_t V = t.variables, n = t.num_variables[b];
        const bool* adjacency = t.adjacency + b * V * V;
        start.assign(size_t(n) + 1, 0);
        count_parents(adjacency, V, n, start.data() + 1);
        for (int64_t v = 0; v < n; ++v) start[size_t(v) + 1] += start[size_t(v)];
        next.assign(start.begin(), start.end());
        parents.resize(size_t(start[size_t(n)]));
        for (int64_t position = 0; position < n; ++position) {
            const int64_t p = t.order[b * V + position];
            for_each_true(adjacency + p * V, n, [&](int64_t v) { parents[size_t(next[size_t(v)]++)] = int32_t(p); });
        }
    }
};

// Edges of the dataset that has most.
int64_t max_edges(const Tables& t) {
    const int64_t pairs = t.variables * t.variables;
    int64_t most = 0;
    for (const bool* adjacency = t.adjacency; adjacency < t.adjacency + t.datasets * pairs; adjacency += pairs)
        most = std::max(most, int64_t(std::count(adjacency, adjacency + pairs, true)));
    return most;
}

bool is_network(int64_t mechanism) {
    return mechanism == MLP || mechanism == FOURIER;
}

int64_t widest_mlp(const Tables& t) {
    int64_t widest = 0;
    for (int64_t b = 0; b < t.datasets; ++b)
        for (int64_t v = 0; v < t.variables; ++v)
            if (is_network(t.mechanism[b * t.variables + v]) && t.num_parameters > 0)
                for (int64_t k = 0; k < t.environments; ++k) {
                    const int64_t offset = t.mechanism_offset[(b * t.environments + k) * t.variables + v];
                    if (offset < t.num_parameters) widest = std::max(widest, int64_t(t.parameters[offset]));
                }
    return widest;
}

constexpr int64_t DRAWN_AT_ONCE = 8;  // microseconds each, and some tables have 8 bytes of a dataset

// Rows of one dataset, from local row `first` of environment `environment` on.
struct Item {
    int64_t dataset, environment, first, rows;
};

constexpr int64_t CHUNK = 16384;  // rows that keep a thread busy whatever they are
constexpr int64_t SHARES = 16;    // of a thread: cores are not equally fast, and the last to finish is waited for
constexpr int64_t WORTH_A_THREAD = 32768;  // values of linear variables, or units of networks

int64_t rows_at_once(const Tables& t, const Rows& rows, int64_t widest, int num_threads) {
    const int64_t least = std::max(int64_t(4 * BLOCK), WORTH_A_THREAD / (t.variables * (1 + widest)));
    const int64_t share = std::max(least, t.datasets * rows.rows / (SHARES * num_threads));
    return std::min(CHUNK, (share + BLOCK - 1) / BLOCK * BLOCK);
}

std::vector<Item> work_items(const Tables& t, const Rows& rows, int64_t at_once) {
    std::vector<Item> items;
    for (int64_t b = 0; b < t.datasets; ++b) {
        const int64_t* offset = rows.row_offset + b * (t.environments + 1);
        Item item{b, 0, 0, 0};
        for (int64_t k = 0; k < t.environments; ++k)
            for (int64_t first = 0, n = offset[k + 1] - offset[k]; first < n; first += at_once) {
                if (item.rows > 0 && item.rows + std::min(at_once, n - first) > at_once) {
                    items.push_back(item);
                    item = {b, k, first, 0};
                }
                item.rows += std::min(at_once, n - first);
            }
        items.push_back(item);
    }
    return items;
}

void evaluate_item(const Tables& t, const Rows& rows, const Item& item, ParentLists& lists, float* scratch,
                   const Path& path) {
    lists.fill(t, item.dataset);
    const int64_t* offset = rows.row_offset + item.dataset * (t.environments + 1);
    int64_t left = item.rows, first = item.first;
    for (int64_t k = item.environment; left > 0; ++k, first = 0) {
        const int64_t last = std::min(offset[k + 1] - offset[k], first + left);
        if (last <= first) continue;
        path.evaluate_segment(t, rows, {item.dataset, k, first, last}, {lists.start.data(), lists.parents.data()},
                              scratch);
        left -= last - first;
    }
}

// Aligned memory, the edges of a dataset and sums of its columns, for every thread.
struct Workspaces {
    std::vector<Floats> scratch;
    std::vector<ParentLists> lists;
    std::vector<std::vector<Sums>> sums;

    Workspaces(const Tables& t, int64_t max_edges, int64_t floats, int64_t num_sums, int num_threads) {
        for (int thread = 0; thread < num_threads; ++thread) {
            scratch.push_back(allocate_floats(floats));
            lists.emplace_back(t.variables, max_edges);
            sums.emplace_back(size_t(num_sums));
        }
    }
};

void run_pilots(const Prior& prior, uint64_t seed, const Tables& t, int num_threads, const Path& path) {
    const int64_t floats = path.pilot_floats(t.variables, t.environments, widest_mlp(t));
    Workspaces work(t, max_edges(t), floats, 0, num_threads);
    parallel_for(t.datasets, num_threads, [&](int thread, int64_t b) {
        ParentLists& lists = work.lists[size_t(thread)];
        lists.fill(t, b);
        path.run_pilot(prior, seed, t, b, {lists.start.data(), lists.parents.data()},
                       work.scratch[size_t(thread)].get());
    });
}

}  // namespace

void fill_noise(const NoiseRows& rows, int64_t n, float* out, int num_threads, const Path& path) {
    parallel_for((n + CHUNK - 1) / CHUNK, num_threads, [&](int, int64_t chunk) {
        const int64_t first = chunk * CHUNK;
        path.fill_noise(rows, first, std::min(CHUNK, n - first), out + first);
    });
}

void count_parameters(const Prior& prior, uint64_t seed, int64_t first, int64_t count, int64_t* parameters,
                      int num_threads, const Path& path) {
    struct Workspace {
        std::unique_ptr<bool[]> adjacency;
        std::vector<int64_t> order;
        std::vector<int32_t> scratch;
    };
    const int64_t V = prior.num_variables.high;
    std::vector<Workspace> workspaces(static_cast<size_t>(num_threads));
    for (Workspace& w : workspaces)
        w = {std::make_unique<bool[]>(size_t(V * V)), std::vector<int64_t>(size_t(V)),
             std::vector<int32_t>(2 * size_t(V))};
    parallel_for(count, num_threads, [&](int thread, int64_t b) {
        Workspace& w = workspaces[size_t(thread)];
        std::fill_n(w.adjacency.get(), V * V, false);
        parameters[b] = path.draw_graph(prior, seed, first + b, V, w.adjacency.get(), w.order.data(), w.scratch.data());
    });
}

void draw(const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& tables, int num_threads,
          const Path& path) {
    const size_t numbers = size_t(draw_scratch_bytes(tables.variables, 1)) / sizeof(int64_t);
    std::vector<std::vector<int64_t>> scratch(static_cast<size_t>(num_threads), std::vector<int64_t>(numbers));
    const auto draw_one = [&](int thread, int64_t b) {
        path.draw_dataset(prior, seed, parameter_offset[b], tables, b, scratch[size_t(thread)].data());
    };
    parallel_for(tables.datasets, num_threads, draw_one, DRAWN_AT_ONCE);
    if (prior.needs_pilot) run_pilots(prior, seed, tables, num_threads, path);
}

void evaluate(const Tables& tables, const Rows& rows, int num_threads, const Path& path) {
    const int64_t edges = max_edges(tables);
    const int64_t widest = widest_mlp(tables);
    const std::vector<Item> items = work_items(tables, rows, rows_at_once(tables, rows, widest, num_threads));
    const bool whole_datasets = int64_t(items.size()) == tables.datasets;
    Workspaces work(tables, edges, path.scratch_floats(tables.variables, edges, widest),
                    whole_datasets ? num_column_sums(tables, rows) : 0, num_threads);
    parallel_for(int64_t(items.size()), num_threads, [&](int thread, int64_t i) {
        const size_t mine = size_t(thread);
        const Item& item = items[size_t(i)];
        evaluate_item(tables, rows, item, work.lists[mine], work.scratch[mine].get(), path);
        if (whole_datasets) scale_dataset(tables, rows, item.dataset, work.sums[mine].data(), path);
    });
    if (!whole_datasets) scale_columns(tables, rows, num_threads, path);
}

}  // namespace settx::scm
