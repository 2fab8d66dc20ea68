// Finished columns in units of their own source rows.
#include <cmath>
#include <vector>

#include "parallel.h"
#include "scm.h"

namespace settx::scm {
namespace {

constexpr int64_t CHUNK = 1024;          // rows whose sums are made by one thread, row after row
constexpr double CONSTANT_RTOL = 1e-12;  // a variance below this share of the mean square is rounding

// Of the source rows of one column, NaN left out.
struct Sums {
    double count, sum, square;
};

// sums (V,) of rows first … last − 1 of dataset b.
void add_rows(const Tables& t, const Rows& rows, int64_t b, int64_t first, int64_t last, Sums* sums) {
    for (int64_t row = b * rows.rows + first; row < b * rows.rows + last; ++row) {
        if (t.is_target[b * t.environments + rows.environment[row]]) continue;
        for (int64_t v = 0; v < t.num_variables[b]; ++v) {
            const double x = double(rows.values[row * t.variables + v]);
            if (std::isnan(x)) continue;
            sums[v] = {sums[v].count + 1.0, sums[v].sum + x, sums[v].square + x * x};
        }
    }
}

// chunks (num_chunks, V) are added in order: the same bits from any number of threads.
void find_units(const Tables& t, int64_t b, const Sums* chunks, int64_t num_chunks) {
    for (int64_t v = 0; v < t.num_variables[b]; ++v) {
        Sums s{};
        for (int64_t c = 0; c < num_chunks; ++c) {
            const Sums& chunk = chunks[c * t.variables + v];
            s = {s.count + chunk.count, s.sum + chunk.sum, s.square + chunk.square};
        }
        const double mean = s.sum / s.count, square = s.square / s.count, variance = square - mean * mean;
        const bool known = std::isfinite(variance);
        t.column_centre[b * t.variables + v] = known ? float(mean) : 0.0f;
        t.column_gain[b * t.variables + v] =
            known && variance > CONSTANT_RTOL * square ? float(1.0 / std::sqrt(variance)) : 1.0f;
    }
}

void apply_units(const Tables& t, const Rows& rows, int64_t b, int64_t first, int64_t last) {
    const float *centre = t.column_centre + b * t.variables, *gain = t.column_gain + b * t.variables;
    for (int64_t row = b * rows.rows + first; row < b * rows.rows + last; ++row) {
        float* x = rows.values + row * t.variables;
        for (int64_t v = 0; v < t.num_variables[b]; ++v) x[v] = (x[v] - centre[v]) * gain[v];
    }
}

}  // namespace

void scale_columns(const Tables& t, const Rows& rows, int num_threads) {
    if (rows.columns == COLUMNS_RAW) return;
    const int64_t num_chunks = (rows.rows + CHUNK - 1) / CHUNK, items = t.datasets * num_chunks;
    const auto for_chunks = [&](const auto& work) {
        parallel_for(items, num_threads, [&](int, int64_t item) {
            const int64_t first = item % num_chunks * CHUNK,
                          last = first + CHUNK < rows.rows ? first + CHUNK : rows.rows;
            work(item, item / num_chunks, first, last);
        });
    };
    if (rows.columns == COLUMNS_STANDARDISED) {
        std::vector<Sums> sums(size_t(items * t.variables));
        for_chunks([&](int64_t item, int64_t b, int64_t first, int64_t last) {
            add_rows(t, rows, b, first, last, sums.data() + item * t.variables);
        });
        for (int64_t b = 0; b < t.datasets; ++b)
            find_units(t, b, sums.data() + b * num_chunks * t.variables, num_chunks);
    }
    for_chunks([&](int64_t, int64_t b, int64_t first, int64_t last) { apply_units(t, rows, b, first, last); });
}

}  // namespace settx::scm
