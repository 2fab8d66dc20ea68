// The CUDA device, for the kernels and launches of kernels.h. Flags: no contraction, IEEE division and square root,
// subnormal numbers kept.
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "device.h"
#include "sample_cuda.h"

#define SETTX_PATH cuda
#define SETTX_KERNEL __global__
#define SETTX_THREAD __device__ __forceinline__
#define SETTX_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define SETTX_SHARED(name) extern __shared__ float name[]  // by a function: registers spill

namespace settx::scm {
namespace {

SETTX_THREAD int64_t block_number() {
    return blockIdx.x;
}

SETTX_THREAD int64_t num_blocks() {
    return gridDim.x;
}

SETTX_THREAD int32_t thread_number() {
    return int32_t(threadIdx.x);
}

SETTX_THREAD int32_t num_threads() {
    return int32_t(blockDim.x);
}

SETTX_THREAD void wait_for_block() {
    __syncthreads();
}

void check(cudaError_t status, const char* doing, const char* to) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // the next call starts clean
    throw std::runtime_error(std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status) + ", while " +
                             doing + " " + to);
}

struct Device {
    DeviceLimits limits;
    cudaStream_t stream;
};

int64_t attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "asking for", "the device's limits");
    return value;
}

DeviceLimits limits_of(int device) {
    return {attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)};
}

// Makes the device the current one.
Device open(CudaStream where) {
    check(cudaSetDevice(where.device), "choosing", "the device");
    return {limits_of(where.device), static_cast<cudaStream_t>(where.stream)};
}

template <class... Parameters, class... Arguments>
void launch(const Device& device, const char* name, void (*kernel)(Parameters...), Grid grid, Arguments... arguments) {
    // Always the most that there is: the attribute is the kernel's, and other threads launch it too.
    if (grid.shared_bytes > 0)
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   int(device.limits.shared_per_block)),
              "reserving shared memory for", name);
    kernel<<<unsigned(grid.blocks), unsigned(grid.threads), size_t(grid.shared_bytes), device.stream>>>(arguments...);
    check(cudaGetLastError(), "launching", name);
}

}  // namespace
}  // namespace settx::scm

#include "kernels.h"

namespace settx::scm {

void draw_cuda(const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& t, int32_t* scratch,
               CudaStream where) {
    draw_on(open(where), prior, seed, parameter_offset, t, scratch);
}

int64_t hidden_floats_cuda(const Tables& sizes, int64_t rows, int64_t deep_width, int device) {
    const Plan plan = make_plan(sizes, rows, deep_width, limits_of(device));
    return plan.blocks * plan.hidden_per_block();
}

int64_t column_chunks_cuda(int64_t rows) {
    return (rows + COLUMN_CHUNK - 1) / COLUMN_CHUNK;
}

void evaluate_cuda(const Tables& t, const Rows& rows, int64_t deep_width, const EvaluationScratch& scratch,
                   CudaStream where) {
    const Device device = open(where);
    evaluate_on(device, make_plan(t, rows.rows, deep_width, device.limits), t, rows, scratch);
}

}  // namespace settx::scm
