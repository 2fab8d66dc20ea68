// Finished columns in units of their own source rows: sums of chunks of rows, row after row, then of chunks in order.
// The same on a CPU and on a GPU.
#pragma once
#include "math.h"
#include "scm.h"

namespace settx::scm {

constexpr int64_t COLUMN_CHUNK = 1024;
constexpr double CONSTANT_RTOL = 1e-12;  // a variance below this share of the mean square is rounding

// Of the source rows of one column, NaN left out.
struct Sums {
    double count, sum, square;
};

SETTX_FN int64_t num_chunks(const Rows& rows) {
    return (rows.rows + COLUMN_CHUNK - 1) / COLUMN_CHUNK;
}

// Number of a row of dataset b among all rows of the batch.
SETTX_FN int64_t first_row_of_chunk(const Rows& rows, int64_t b, int64_t chunk) {
    return b * rows.rows + (chunk < num_chunks(rows) ? chunk * COLUMN_CHUNK : rows.rows);
}

SETTX_FN bool is_source_row(const Tables& t, const Rows& rows, int64_t b, int64_t row) {
    return !t.is_target[b * t.environments + rows.environment[row]];
}

SETTX_FN Sums add_value(Sums s, float value) {
    const double x = double(value);
    return x == x ? Sums{s.count + 1.0, s.sum + x, s.square + x * x} : s;
}

// Fills the units of column v from chunks (num_chunks, V).
SETTX_FN void find_unit(const Tables& t, int64_t b, int64_t v, const Sums* chunks, int64_t count) {
    Sums s{};
    for (int64_t c = 0; c < count; ++c) {
        const Sums& chunk = chunks[c * t.variables + v];
        s = {s.count + chunk.count, s.sum + chunk.sum, s.square + chunk.square};
    }
    const double mean = s.sum / s.count, square = s.square / s.count, variance = square - mean * mean;
    const bool is_number = t.num_levels[b * t.variables + v] == 0, known = is_number && variance < 1e300;  // no NaN
    t.column_centre[b * t.variables + v] = known ? float(mean) : 0.0f;
    t.column_gain[b * t.variables + v] =
        known && variance > CONSTANT_RTOL * square ? float(1.0 / __builtin_sqrt(variance)) : 1.0f;
}

SETTX_FN float in_unit(float x, float centre, float gain) {
    return canonical((x - centre) * gain);
}

// The last step of evaluate: for one dataset while its rows are in cache, with `num_column_sums` sums as scratch; or
// for all of them.
void scale_dataset(const Tables&, const Rows&, int64_t b, Sums* sums, const Path&);
int64_t num_column_sums(const Tables&, const Rows&);
void scale_columns(const Tables&, const Rows&, int num_threads, const Path&);

}  // namespace settx::scm
