// The CUDA back end. All memory is the caller's and on the device, all work goes to the caller's stream, and nothing
// here waits for it: calls can be captured into a graph. Every failure is a std::runtime_error with CUDA's name and
// words.
#pragma once
#include "scm.h"

namespace settx::scm {

struct CudaStream {
    int device;
    void* stream;  // a cudaStream_t
};

// The prior and everything that it points to lie on the device; tables hold zeros but for index; scratch (B, 2·V).
void draw_cuda(const Prior&, uint64_t seed, const int64_t* parameter_offset, const Tables&, int32_t* scratch,
               CudaStream);

// Floats of scratch that `evaluate_cuda` needs where a network has several hidden layers, the widest `deep_width`.
int64_t hidden_floats_cuda(const Tables& sizes, int64_t rows, int64_t deep_width, int device);

struct EvaluationScratch {
    int32_t* parents;  // (B, V, V + 1)
    float* hidden;     // (hidden_floats_cuda,)
    double* sums;      // (B, column_chunks_cuda, V, 3) where columns are standardised
};

int64_t column_chunks_cuda(int64_t rows);

void evaluate_cuda(const Tables&, const Rows&, int64_t deep_width, const EvaluationScratch&, CudaStream);

}  // namespace settx::scm
