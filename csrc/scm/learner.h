// What a learner of tables is shown of finished rows, on threads: settx_fast/scm/_learner.py says what it asks for.
#pragma once
#include <cstdint>

namespace settx::scm {

// Datasets as they were sampled, of which the first rows are to learn from.
struct Drawn {
    int64_t datasets, rows, variables, train_size;
    const float* values;     // (B, R, V)
    const bool* is_missing;  // (B, R, V), or null where nothing is
    const int64_t* order;    // (B, R) of the rows, or null: as they are
};

// Of every column (B, V): extremes of the rows to learn from without missing values, ∞ and −∞ if none is left; and
// whether all rows are finite or missing.
void survey(const Drawn&, float* low, float* high, bool* is_finite, int num_threads);

// X (B, R, C): columns (B, C), those beyond count (B,) 0; or by mean and standard deviation of the rows to learn from,
// within ±clip. clip 0: as they are.
void show(const Drawn&, const int64_t* columns, const int64_t* count, int64_t C, float clip, float* X, int num_threads);

// X (B, R, C), columns as they are, replaced wherever function (B, C) is not 0 by that function of slope · u + shift
// (B, C), u (B, R, C) the same columns standardised. is_missing (B, R, C): which are NaN; or null.
struct View {
    int64_t datasets, rows, columns;
    const int64_t* function;  // ViewFunction
    const float *slope, *shift;
};
enum ViewFunction : int64_t { AS_IT_IS = 0, SIZE = 1, SQUARED = 2, POSITIVE = 3, ABOVE = 4, REMAINDER = 5, WHOLE = 6 };
void view(const View&, const float* u, float* X, bool* is_missing, int num_threads);

// The class of every row: how many of the sorted cuts (B, L) lie below x (B, R). counts (B, L + 1, 2), zeroed: rows of
// a class to learn from and others.
struct Cut {
    int64_t datasets, rows, cuts, train_size;
};
void classify(const Cut&, const float* x, const float* cuts, int64_t* classes, int64_t* counts, int num_threads);

// classes (B, R) = code (B, L + 1) of each.
void recode(const Cut&, const int64_t* code, int64_t* classes, int num_threads);

}  // namespace settx::scm
