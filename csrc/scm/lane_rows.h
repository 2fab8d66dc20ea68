// A few rows at a time, side by side in the registers of one thread of a GPU.
#pragma once
#include "lanes.h"
#include "math.h"

namespace settx::scm {

// A lane's rows: l, 16 + l, 32 + l and 48 + l of a block of 64, which share a Philox counter.
constexpr int QUAD = BLOCK / LANES;

template <int N>
struct RowsOf {
    float row[N];
};
using Quad = RowsOf<QUAD>;

template <int N = QUAD, class Value>
SETTX_FN RowsOf<N> each_row(const Value& value) {
    RowsOf<N> x;
    for (int r = 0; r < N; ++r) x.row[r] = value(r);
    return x;
}

template <int N = QUAD>
SETTX_FN RowsOf<N> all_rows(float value) {
    return each_row<N>([&](int) { return value; });
}

// x + weight · z
template <int N>
SETTX_FN RowsOf<N> add_scaled(RowsOf<N> x, RowsOf<N> z, float weight) {
    return each_row<N>([&](int r) { return fma(weight, z.row[r], x.row[r]); });
}

// Some of a lane's rows: bit r for row r.
using RowSet = uint32_t;
constexpr RowSet ALL_ROWS = (1u << QUAD) - 1;

SETTX_FN bool has_row(RowSet rows, int r) {
    return rows >> r & 1u;
}

template <class Holds>
SETTX_FN RowSet rows_where(const Holds& holds) {
    RowSet rows = 0;
    for (int r = 0; r < QUAD; ++r) rows |= RowSet(holds(r) ? 1 : 0) << r;
    return rows;
}

// Row r of number i lies at first[i · stride + r · row_stride].
struct LaneMemory {
    float* first;
    int64_t stride, row_stride;
    RowSet rows = ALL_ROWS;  // that there are

    SETTX_METHOD Quad load(int64_t i) const {
        return each_row([&](int r) { return has_row(rows, r) ? first[i * stride + r * row_stride] : 0.0f; });
    }

    SETTX_METHOD void store(int64_t i, Quad x, RowSet which = ALL_ROWS) const {
        for (int r = 0; r < QUAD; ++r)
            if (has_row(rows & which, r)) first[i * stride + r * row_stride] = canonical(x.row[r]);
    }
};

}  // namespace settx::scm
