// Sums of finished columns, and their new units: for rows of one dataset.
#include "columns.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

constexpr int64_t AT_ONCE = 64;

// What Sums are, for neighbouring columns.
struct ColumnSums {
    alignas(64) double count[AT_ONCE], sum[AT_ONCE], square[AT_ONCE];
};

// Adds one row, x (width,).
SETTX_FN void add_row(const float* __restrict x, int64_t width, ColumnSums& sums) {
    for (int64_t v = 0; v < width; ++v) {
        const Sums s = add_value({sums.count[v], sums.sum[v], sums.square[v]}, x[v]);
        sums.count[v] = s.count, sums.sum[v] = s.sum, sums.square[v] = s.square;
    }
}

}  // namespace

void add_columns(const Tables& t, const Rows& rows, int64_t b, int64_t first, int64_t last, Sums* sums) {
    const int64_t n = t.num_variables[b];
    for (int64_t v = 0; v < n; v += AT_ONCE) {
        const int64_t width = n - v < AT_ONCE ? n - v : AT_ONCE;
        ColumnSums found{};
        for (int64_t row = first; row < last; ++row)
            if (is_source_row(t, rows, b, row)) add_row(rows.values + row * t.variables + v, width, found);
        for (int64_t i = 0; i < width; ++i) sums[v + i] = {found.count[i], found.sum[i], found.square[i]};
    }
}

void apply_units(const Tables& t, const Rows& rows, int64_t b, int64_t first, int64_t last) {
    const float* const centre = t.column_centre + b * t.variables;
    const float* const gain = t.column_gain + b * t.variables;
    for (int64_t row = first; row < last; ++row) {
        float* const x = rows.values + row * t.variables;
#pragma GCC ivdep
        for (int64_t v = 0; v < t.num_variables[b]; ++v) x[v] = in_unit(x[v], centre[v], gain[v]);
    }
}

}  // namespace settx::scm::SETTX_PATH
