// The same code compiled for several instruction sets, with the same bits from each; one is chosen at run time.
#pragma once
#include <string>
#include <vector>

#include "philox.h"
#include "scm.h"

namespace settx::scm {

// Of every variable while a dataset is drawn, beside the numbers that `members` of a team work with.
constexpr int64_t DRAW_NOTE_BYTES = 56;

SETTX_FN int64_t draw_scratch_bytes(int64_t V, int64_t members) {
    return V * (DRAW_NOTE_BYTES + 4 * (members > 2 ? members + members % 2 : 2));
}

// Rows [first, last) of one environment of one dataset. first is a multiple of BLOCK.
struct Segment {
    int64_t dataset;      // number in the batch
    int64_t environment;  // number in the dataset
    int64_t first, last;
};

// The parents of one dataset: those of variable v are parents[start[v]] … parents[start[v + 1] − 1], in topological
// order.
struct Parents {
    const int32_t *start, *parents;
};

// Which noise, and where in the stream.
struct NoiseRows {
    int32_t kind;
    float parameters[NOISE_PARAMETERS];
    uint64_t seed;
    int64_t dataset;
    int32_t variable;
};

struct Sums;

struct Path {
    const char* name;
    // Draws the graph into zeroed adjacency (V, V) and order (V,); scratch (2·V,). Returns the number of mechanism
    // parameters.
    int64_t (*draw_graph)(const Prior&, uint64_t seed, int64_t index, int64_t V, bool* adjacency, int64_t* order,
                          int32_t* scratch);
    // Draws dataset b of the tables; scratch has `draw_scratch_bytes(V, 1)`, aligned to 8.
    void (*draw_dataset)(const Prior&, uint64_t seed, int64_t parameter_offset, const Tables&, int64_t b,
                         void* scratch);
    // Evaluates a segment; scratch has `scratch_floats(V, number of edges, widest MLP)` floats, aligned to 64 bytes.
    void (*evaluate_segment)(const Tables&, const Rows&, const Segment&, const Parents&, float* scratch);
    int64_t (*scratch_floats)(int64_t V, int64_t num_edges, int64_t max_hidden);
    // Sums (num_variables,) of the source rows among rows first … last − 1 of the batch, which are dataset b's.
    void (*add_columns)(const Tables&, const Rows&, int64_t b, int64_t first, int64_t last, Sums*);
    // Gives such rows the units of their columns.
    void (*apply_units)(const Tables&, const Rows&, int64_t b, int64_t first, int64_t last);
    // Draws the pilot rows of dataset b and fills what rests on them; scratch has `pilot_floats` floats, aligned alike.
    void (*run_pilot)(const Prior&, uint64_t seed, const Tables&, int64_t b, const Parents&, float* scratch);
    int64_t (*pilot_floats)(int64_t V, int64_t K, int64_t max_hidden);
    // Noise of one kind for rows first … first + n − 1 of a variable; both multiples of BLOCK.
    void (*fill_noise)(const NoiseRows&, int64_t first, int64_t n, float* out);
    // out[i] = function(x[i]) for a function of math.h by name; false: no such function.
    bool (*apply)(const char* function, const float* x, int64_t n, float* out);
};

// out (n,): standardised noise of rows 0 … n − 1, n a multiple of BLOCK; the limit of what a sampler can do.
void fill_noise(const NoiseRows&, int64_t n, float* out, int num_threads, const Path&);

// What `draw` and `evaluate` do, as the CUDA back end does it: for tests. shape: one of `row_shapes`, or "" for what
// the rule chooses for an H100; std::invalid_argument if it does not suit the models.
void draw_from_image(const Prior&, uint64_t seed, const int64_t* parameter_offset, const Tables&);
void evaluate_in_shape(const Tables&, const Rows&, const std::string& shape);
std::vector<std::string> row_shapes();

// The paths this build has and this machine can run, best last. num_paths ≥ 1.
int num_paths();
const Path& path(int number);

}  // namespace settx::scm
