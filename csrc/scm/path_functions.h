// What every path defines, in a namespace of its own: compiled with -DSETTX_PATH=name.
#pragma once
#include "paths.h"

namespace settx::scm::SETTX_PATH {

int64_t draw_graph(const Prior&, uint64_t seed, int64_t index, int64_t V, bool* adjacency, int64_t* order,
                   int32_t* scratch);
void draw_dataset(const Prior&, uint64_t seed, int64_t parameter_offset, const Tables&, int64_t b, int32_t* scratch);
void evaluate_segment(const Tables&, const Rows&, const Segment&, const Parents&, float* scratch);
int64_t scratch_floats(int64_t V, int64_t num_edges, int64_t max_hidden);
void fill_noise(const NoiseRows&, int64_t first, int64_t n, float* out);
bool apply(const char* function, const float* x, int64_t n, float* out);

}  // namespace settx::scm::SETTX_PATH
