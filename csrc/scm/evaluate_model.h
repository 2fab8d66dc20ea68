// The model of an environment as a thread block reads it: laid out in shared memory once, in topological order, so that
// no variable waits for tables in far memory.
//
// Values lie in a tile (V, ROWS), rows in order. Groups of four rows are exchanged with those whose number differs by
// that of the variable, or of its four neighbours, mod 8: threads that write out neighbouring variables read different
// banks of memory. A place is where a variable's row of the tile begins, in bytes, the exchange in bits 4 to 6: the
// exclusive-or with the bytes before a row is where that row lies.
#pragma once
#include "evaluate_row.h"
#include "scm.h"

namespace settx::scm {

// ---- The edges of all datasets, listed once for a batch -------------------------------------------------------------

// edges (B, V + 1 + V · (V − 1) / 2): where the edges of each variable begin, in topological order, and where the last
// ones end (V + 1); then all edges, those of a variable by the order of their parents.
SETTX_FN int64_t edges_of_dataset(int64_t V) {
    return V + 1 + V * (V - 1) / 2;
}

struct EdgeList {
    int32_t *starts, *edges;
};

SETTX_FN EdgeList edge_list(const Tables& t, int64_t b, int32_t* lists) {
    int32_t* starts = lists + b * edges_of_dataset(t.variables);
    return {starts, starts + t.variables + 1};
}

// counts (n,): of the parents of every variable, by the threads of a block.
SETTX_FN void count_edges(const Tables& t, int64_t b, int32_t thread, int32_t threads, int32_t* counts) {
    const int32_t V = int32_t(t.variables), n = int32_t(t.num_variables[b]);
    const bool* adjacency = t.adjacency + b * V * V;
    for (int32_t v = thread; v < n; v += threads) {
        int32_t count = 0;
        for (int32_t p = 0; p < n; ++p) count += adjacency[p * V + v];
        counts[v] = count;
    }
}

// Appends the edges from the first `count` variables of an order to v. Several are read before any is written: a device
// reads nothing ahead of what it writes.
SETTX_FN void list_parents(const bool* adjacency, const int64_t* order, int32_t V, int32_t count, int32_t v,
                           int32_t* edges) {
    constexpr int32_t AT_ONCE = 8;
    for (int32_t i = 0; i < count; i += AT_ONCE) {
        int32_t candidates[AT_ONCE];
        bool is_parent[AT_ONCE];
        for (int32_t r = 0; r < AT_ONCE; ++r) candidates[r] = int32_t(order[i + r < count ? i + r : i]);
        for (int32_t r = 0; r < AT_ONCE; ++r) is_parent[r] = i + r < count && adjacency[candidates[r] * V + v];
        for (int32_t r = 0; r < AT_ONCE; ++r)
            if (is_parent[r]) *edges++ = listed_edge(candidates[r], v);
    }
}

SETTX_FN void list_edges(const Tables& t, int64_t b, int32_t thread, int32_t threads, const int32_t* counts,
                         const EdgeList& list) {
    const int32_t V = int32_t(t.variables), n = int32_t(t.num_variables[b]);
    const int64_t* order = t.order + b * V;
    const bool* adjacency = t.adjacency + b * V * V;
    for (int32_t position = thread; position <= n; position += threads) {
        int32_t end = 0;
        for (int32_t i = 0; i < position; ++i) end += counts[order[i]];
        list.starts[position] = end;
        if (position == n) break;
        list_parents(adjacency, order, V, position, int32_t(order[position]), list.edges + end);
    }
}

// ---- In shared memory -----------------------------------------------------------------------------------------------

struct alignas(8) Edge {
    uint32_t place;  // of the parent
    float weight;
};

// A variable. `what`: its place (bits 4 to 22), kind of noise (0 to 3), the noise's effect (23, 24), mechanism (25 to
// 28), whether it is no more than parents, weights and additive noise (29), whether it has a last step (30). `edges`:
// the number of its parents (bits 0 to 8) and where they begin. one, other: the first two of these; where there are
// fewer, edges from the variable itself.
struct alignas(16) Step {
    uint32_t what, edges;
    float bias, noise_scale;
    Edge one, other;

    SETTX_METHOD uint32_t place() const { return what & 0x7FFFF0u; }
    SETTX_METHOD int32_t noise_kind() const { return int32_t(what & 15u); }
    SETTX_METHOD int32_t noise_effect() const { return int32_t(what >> 23 & 3u); }
    SETTX_METHOD int32_t mechanism() const { return int32_t(what >> 25 & 15u); }
    SETTX_METHOD bool is_plain() const { return (what >> 29 & 1u) != 0; }
    SETTX_METHOD bool has_last_step() const { return (what >> 30 & 1u) != 0; }
    SETTX_METHOD int32_t num_parents() const { return int32_t(edges & 511u); }
    SETTX_METHOD int32_t first() const { return int32_t(edges >> 9) / int32_t(sizeof(Edge)); }
};

template <int ROWS>
SETTX_FN uint32_t place_of(int32_t v, int32_t exchange_shift) {
    return uint32_t(v) * (ROWS * 4) | (uint32_t(v) >> exchange_shift & 7u) << 4;
}

// One environment of one dataset.
template <int ROWS>
struct Model {
    const Tables& t;
    int64_t dataset, environment;  // numbers in the batch and in the dataset
    EdgeList list;
    Step* steps;  // (n,), and one that is read too early
    Edge* edges;  // in shared memory, if it has room for all
    int32_t n, deep_width;
    bool has_room;
    int32_t exchange_shift;  // 0, or 2 where four variables are written at once

    SETTX_METHOD int64_t first_variable() const { return dataset * t.variables; }
    SETTX_METHOD int64_t environment_at() const { return dataset * t.environments + environment; }
    SETTX_METHOD int32_t variable(const Step& step) const { return int32_t(step.place() / (ROWS * 4)); }

    // An edge from far memory.
    SETTX_METHOD Edge read_edge(int32_t e) const {
        const int32_t p = parent_of(list.edges[e]), v = child_of(list.edges[e]);
        return {place_of<ROWS>(p, exchange_shift), t.weights[(environment_at() * t.variables + p) * t.variables + v]};
    }

    SETTX_METHOD Step read_step(int32_t position) const {
        const int64_t v = t.order[first_variable() + position];
        const int64_t bv = first_variable() + v, bkv = environment_at() * t.variables + v;
        const bool hard = t.hard[bkv], last_step = !hard && (t.gain[bv] != 1.0f || t.centre[bv] != 0.0f);
        const int32_t first = list.starts[position], parents = hard ? 0 : list.starts[position + 1] - first;
        const float noise_scale = t.noise_scale[bkv];
        const bool is_additive = noise_scale != 0.0f && (t.noise_effect[bv] == ADDITIVE || parents == 0);
        const uint32_t place = place_of<ROWS>(int32_t(v), exchange_shift);
        const uint32_t what = place | uint32_t(t.noise_kind[bv]) | uint32_t(t.noise_effect[bv]) << 23 |
                              uint32_t(hard ? int64_t(LINEAR) : t.mechanism[bv]) << 25 |
                              uint32_t(is_additive && !last_step) << 29 | uint32_t(last_step) << 30;
        Step step{what,          uint32_t(first * int32_t(sizeof(Edge))) << 9 | uint32_t(parents),
                  t.bias[bkv],   noise_scale,
                  {place, 0.0f}, {place, 0.0f}};
        if (parents > 0) step.one = read_edge(first);
        if (parents > 1) step.other = read_edge(first + 1);
        return step;
    }

    // By the threads of a block.
    SETTX_METHOD void lay_out(int32_t thread, int32_t threads) const {
        for (int32_t position = thread; position < n; position += threads) steps[position] = read_step(position);
        const int32_t count = has_room ? list.starts[n] : 0;
        for (int32_t e = thread; e < count; e += threads) edges[e] = read_edge(e);
    }
};

// Edges one after the other, from shared memory, and those that it has no room for.
struct NearEdges {
    const Edge* edges;

    SETTX_METHOD NearEdges from(int32_t first) const { return {edges + first}; }
    SETTX_METHOD Edge take() { return *edges++; }
};

template <int ROWS>
struct FarEdges {
    const Model<ROWS>& model;
    int32_t next;

    SETTX_METHOD FarEdges from(int32_t first) const { return {model, first}; }
    SETTX_METHOD Edge take() { return model.read_edge(next++); }
};

// How threads share out what they write: `packs` of one variable or four to a row, `across` threads side by side on
// every one of `down` rows.
struct Writing {
    int32_t exchange_shift, packs, across, down;
    uint64_t inverse;  // of across, times 2³² and rounded up: exact for the threads of a block

    SETTX_METHOD bool in_fours() const { return exchange_shift == 2; }
    SETTX_METHOD int32_t row_of(int32_t thread) const { return int32_t(inverse * uint32_t(thread) >> 32); }
};

inline Writing share_writing(int64_t V, int32_t threads, bool in_fours) {
    const int32_t packs = int32_t(in_fours ? V / 4 : V), across = packs < threads ? packs : threads;
    return {in_fours ? 2 : 0, packs, across, threads / across, (uint64_t(1) << 32) / uint32_t(across) + 1};
}

// ---- The tile -------------------------------------------------------------------------------------------------------

SETTX_FN float* in_tile(float* tile, uint32_t place) {
    return reinterpret_cast<float*>(reinterpret_cast<char*>(tile) + place);
}

// N floats that are read and written at once.
template <int N>
struct alignas(4 * N) Pack {
    float row[N];
};

// N rows in order, of a variable by its place.
template <int N>
struct TileRows {
    float* tile;
    uint32_t first;  // bytes before the first row

    SETTX_METHOD RowsOf<N> load(uint32_t place) const {
        const Pack<N> x = *reinterpret_cast<const Pack<N>*>(in_tile(tile, place ^ first));
        return each_row<N>([&](int r) { return x.row[r]; });
    }
    SETTX_METHOD void store(uint32_t place, RowsOf<N> x) const {
        Pack<N> out;
        for (int r = 0; r < N; ++r) out.row[r] = canonical(x.row[r]);
        *reinterpret_cast<Pack<N>*>(in_tile(tile, place ^ first)) = out;
    }
};

// The four rows of a Philox counter, of a variable by its number. Rows are 64 bytes apart, so that the exchange moves
// them by pairs: bit 6 of a place may be set, bit 7 never.
template <int ROWS>
struct CounterRows {
    float* tile;
    int32_t counter, exchange_shift;

    SETTX_METHOD uint32_t first() const { return uint32_t(counter / LANES * BLOCK + counter % LANES) * 4u; }
    SETTX_METHOD void put(uint32_t place, Quad x) const {
        const uint32_t even = place ^ first(), odd = even ^ 64u;
        *in_tile(tile, even) = x.row[0];
        *in_tile(tile, odd) = x.row[1];
        *in_tile(tile, even + 128u) = x.row[2];
        *in_tile(tile, odd + 128u) = x.row[3];
    }
    SETTX_METHOD Quad load(int64_t v) const {
        return each_row([&](int r) { return *in_tile(tile, place_of_row(v, r)); });
    }
    SETTX_METHOD void store(int64_t v, Quad x, RowSet which = ALL_ROWS) const {
        for (int r = 0; r < QUAD; ++r)
            if (has_row(which, r)) *in_tile(tile, place_of_row(v, r)) = canonical(x.row[r]);
    }
    SETTX_METHOD uint32_t place_of_row(int64_t v, int r) const {
        return place_of<ROWS>(int32_t(v), exchange_shift) ^ first() ^ uint32_t(64 * r);
    }
};

}  // namespace settx::scm
