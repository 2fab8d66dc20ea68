// Edges of a dataset, and variables that a prior names by their part in it.
#pragma once
#include <cstring>

#include "philox.h"
#include "scm.h"

namespace settx::scm {

SETTX_FN bool has_edge(const Tables& t, int64_t b, int64_t cause, int64_t effect) {
    return t.adjacency[(b * t.variables + cause) * t.variables + effect];
}

SETTX_FN int64_t lowest_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
    return __ffsll(int64_t(word)) - 1;
#else
    return __builtin_ctzll(word);
#endif
}

// Calls f(i) for every true of row (n,), eight at a time: most are false.
template <class F>
SETTX_FN void for_each_true(const bool* row, int64_t n, const F& f) {
    int64_t i = 0;
    for (uint64_t eight; i + 8 <= n; i += 8) {
        memcpy(&eight, row + i, sizeof eight);
        for (; eight != 0; eight &= eight - 1) f(i + lowest_bit(eight) / 8);
    }
    for (; i < n; ++i)
        if (row[i]) f(i);
}

// Adds to counts (n,) how many parents every variable has; row by row, as the adjacency lies in memory.
SETTX_FN void count_parents(const bool* __restrict adjacency, int64_t V, int64_t n, int32_t* __restrict counts) {
    for (int64_t p = 0; p < n; ++p)
        for (int64_t v = 0; v < n; ++v) counts[v] += adjacency[p * V + v];
}

// Is v the variable, or one of those, that the prior names?
SETTX_FN bool is_named(const Tables& t, int64_t b, int32_t name, int32_t v) {
    const int32_t target = int32_t(t.target_index[b]);
    switch (name) {
        case THE_TARGET:
            return v == target;
        case ITS_PARENTS:
            return has_edge(t, b, v, target);
        case ITS_CHILDREN:
            return has_edge(t, b, target, v);
        default:
            return v == name;
    }
}

}  // namespace settx::scm
