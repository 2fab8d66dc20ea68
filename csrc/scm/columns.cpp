#include "columns.h"

#include <vector>

#include "parallel.h"

namespace settx::scm {
namespace {

// sums (V,) of rows first … last − 1.
void add_rows(const Tables& t, const Rows& rows, int64_t b, int64_t first, int64_t last, Sums* sums) {
    for (int64_t row = first; row < last; ++row) {
        if (!is_source_row(t, rows, b, row)) continue;
        for (int64_t v = 0; v < t.num_variables[b]; ++v)
            sums[v] = add_value(sums[v], rows.values[row * t.variables + v]);
    }
}

void apply_units(const Tables& t, const Rows& rows, int64_t b, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        float* x = rows.values + row * t.variables;
        for (int64_t v = 0; v < t.num_variables[b]; ++v) x[v] = in_unit(t, b * t.variables + v, x[v]);
    }
}

}  // namespace

void scale_columns(const Tables& t, const Rows& rows, int num_threads) {
    if (rows.columns == COLUMNS_RAW) return;
    const int64_t chunks = num_chunks(rows), items = t.datasets * chunks;
    const auto for_chunks = [&](const auto& work) {
        parallel_for(items, num_threads, [&](int, int64_t item) {
            const int64_t b = item / chunks, chunk = item % chunks;
            work(item, b, first_row_of_chunk(rows, b, chunk), first_row_of_chunk(rows, b, chunk + 1));
        });
    };
    if (rows.columns == COLUMNS_STANDARDISED) {
        std::vector<Sums> sums(size_t(items * t.variables));
        for_chunks([&](int64_t item, int64_t b, int64_t first, int64_t last) {
            add_rows(t, rows, b, first, last, sums.data() + item * t.variables);
        });
        for (int64_t b = 0; b < t.datasets; ++b)
            for (int64_t v = 0; v < t.num_variables[b]; ++v)
                find_unit(t, b, v, sums.data() + b * chunks * t.variables, chunks);
    }
    for_chunks([&](int64_t, int64_t b, int64_t first, int64_t last) { apply_units(t, rows, b, first, last); });
}

}  // namespace settx::scm
