#include "columns.h"

#include <vector>

#include "parallel.h"
#include "paths.h"

namespace settx::scm {
namespace {

// sums (num_chunks, V).
void add_chunk(const Tables& t, const Rows& rows, int64_t b, int64_t chunk, Sums* sums, const Path& path) {
    const int64_t first = first_row_of_chunk(rows, b, chunk), last = first_row_of_chunk(rows, b, chunk + 1);
    path.add_columns(t, rows, b, first, last, sums + chunk * t.variables);
}

void find_units(const Tables& t, const Rows& rows, int64_t b, const Sums* sums) {
    for (int64_t v = 0; v < t.num_variables[b]; ++v) find_unit(t, b, v, sums, num_chunks(rows));
}

void apply_to_chunk(const Tables& t, const Rows& rows, int64_t b, int64_t chunk, const Path& path) {
    path.apply_units(t, rows, b, first_row_of_chunk(rows, b, chunk), first_row_of_chunk(rows, b, chunk + 1));
}

}  // namespace

int64_t num_column_sums(const Tables& t, const Rows& rows) {
    return rows.columns == COLUMNS_STANDARDISED ? num_chunks(rows) * t.variables : 0;
}

void scale_dataset(const Tables& t, const Rows& rows, int64_t b, Sums* sums, const Path& path) {
    if (rows.columns == COLUMNS_RAW) return;
    if (rows.columns == COLUMNS_STANDARDISED) {
        for (int64_t chunk = 0; chunk < num_chunks(rows); ++chunk) add_chunk(t, rows, b, chunk, sums, path);
        find_units(t, rows, b, sums);
    }
    for (int64_t chunk = 0; chunk < num_chunks(rows); ++chunk) apply_to_chunk(t, rows, b, chunk, path);
}

void scale_columns(const Tables& t, const Rows& rows, int num_threads, const Path& path) {
    if (rows.columns == COLUMNS_RAW) return;
    const int64_t chunks = num_chunks(rows), items = t.datasets * chunks, per_dataset = num_column_sums(t, rows);
    if (rows.columns == COLUMNS_STANDARDISED) {
        std::vector<Sums> sums(size_t(t.datasets * per_dataset));
        parallel_for(items, num_threads, [&](int, int64_t i) {
            add_chunk(t, rows, i / chunks, i % chunks, sums.data() + i / chunks * per_dataset, path);
        });
        for (int64_t b = 0; b < t.datasets; ++b) find_units(t, rows, b, sums.data() + b * per_dataset);
    }
    parallel_for(items, num_threads, [&](int, int64_t i) { apply_to_chunk(t, rows, i / chunks, i % chunks, path); });
}

}  // namespace settx::scm
