// How the rows of a dataset are split over its environments: `split_rows` of settx_fast/scm/_layout.py.
#pragma once
#include "math.h"
#include "scm.h"

namespace settx::scm {

struct RowSplit {
    bool is_wanted;       // else the offsets are given
    bool by_share;        // the target environments have a share of the rows; else all environments the same
    int64_t target_rows;  // that all datasets want for their target environments; −1: each its own share
};

// Environments that share rows: how many, and their weights in all, 0 where they are equal.
struct Sharers {
    int64_t count, rows, weight;

    // Rows of the first `number` of them, whose weights are `before`.
    SETTX_METHOD int64_t rows_before(int64_t number, int64_t before) const {
        return weight > 0 ? number + before * (rows - count) / weight : number * rows / count;
    }
};

// Those of the target environments, if these have a share.
SETTX_FN int64_t rows_of_targets(const Tables& t, int64_t b, int64_t rows, const RowSplit& split, int64_t sources,
                                 int64_t targets) {
    int64_t wanted = split.target_rows;
    if (wanted < 0) wanted = int64_t(__builtin_rint(double(t.target_share[b]) * double(rows)));
    if (wanted < targets) wanted = targets;
    return wanted < rows - sources ? wanted : rows - sources;
}

// offset (K + 1): within a group of environments the first i of n get ⌊i · rows / n⌋ rows, or one each and the rest by
// their weights. Targets come last.
SETTX_FN void split_rows(const Tables& t, int64_t b, int64_t rows, const RowSplit& split, int64_t* offset) {
    const int64_t K = t.environments, *weight = t.row_weight + b * K;
    Sharers sources{0, 0, 0}, targets{0, 0, 0};
    for (int64_t k = 0; k < t.num_environments[b]; ++k) {
        Sharers& mine = split.by_share && t.is_target[b * K + k] ? targets : sources;
        ++mine.count;
        mine.weight += weight[k];
    }
    if (targets.count > 0) targets.rows = rows_of_targets(t, b, rows, split, sources.count, targets.count);
    sources.rows = rows - targets.rows;
    int64_t before = 0, of_targets = 0;  // weights
    for (int64_t k = 0; k <= K; ++k) {
        const int64_t i = k < t.num_environments[b] ? k : t.num_environments[b];
        const int64_t in_sources = i < sources.count ? i : sources.count;
        offset[k] = sources.rows_before(in_sources, before);
        if (i > sources.count) offset[k] += targets.rows_before(i - sources.count, of_targets);
        if (k == K) break;
        (i < sources.count ? before : of_targets) += weight[k];
    }
}

}  // namespace settx::scm
