// The CUDA back end, and the same on threads of a CPU that stand in for a device: sample_rows.cpp. All memory is the
// caller's and on the device, all work goes to the caller's stream, and nothing here waits for it: calls can be
// captured into a graph. Every failure is a std::runtime_error with CUDA's name and words.
#pragma once
#include "launch_plan.h"
#include "split_rows.h"

namespace settx::scm {

// A number that is given, or that lies on the device: a graph then replays with what is there.
struct Number {
    uint64_t value;
    const uint64_t* at;

    SETTX_METHOD uint64_t get() const { return at == nullptr ? value : *at; }
};

// What to draw. The prior and everything that it points to lie on the device.
struct Draw {
    Prior prior;
    Number seed, first_index;
    const int64_t* parameter_offset;  // (B,) or null, where no mechanism has parameters
    bool renews_mechanisms;           // in some environment
    bool has_products;                // among its mechanisms
    void* memory;                     // of all tables: it is blanked
    int64_t bytes;
};

// What to evaluate. row_offset is filled if a split is wanted.
struct Evaluation {
    Rows rows;
    Traits traits;
    RowSplit split;
};

// Of a prior on the host.
inline bool renews_mechanisms(const Prior& prior) {
    bool found = false;
    for (int32_t i = 0; i < prior.num_source_interventions; ++i)
        found |= prior.source_interventions[i].kind == NEW_MECHANISM;
    for (int32_t i = 0; i < prior.num_target_interventions; ++i)
        found |= prior.target_interventions[i].kind == NEW_MECHANISM;
    return found;
}

inline bool has_products(const Prior& prior) {
    bool found = false;
    for (int32_t i = 0; i < prior.num_mechanisms; ++i) found |= prior.mechanisms[i].kind == FACTORS;
    return found;
}

struct CudaStream {
    int device;
    void* stream;  // a cudaStream_t
};

// Bytes of scratch, of any content, aligned to 16, and free again once the work is done.
int64_t scratch_bytes_to_draw(const Tables& sizes);
int64_t scratch_bytes_cuda(const Tables& sizes, const Evaluation&, int device);
void draw_cuda(const Draw&, const Tables&, void* scratch, CudaStream);
void evaluate_cuda(const Tables&, const Evaluation&, void* scratch, CudaStream);

int64_t scratch_bytes_by_rows(const Tables& sizes, const Evaluation&);
void draw_by_rows(const Draw&, const Tables&, void* scratch);
void evaluate_by_rows(const Tables&, const Evaluation&, void* scratch);

}  // namespace settx::scm
