// The CUDA device, for the kernels and launches of launches.h. Flags: no contraction, IEEE division and square root,
// subnormal numbers kept.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "sample_cuda.h"

#define SETTX_PATH cuda
#define SETTX_KERNEL __global__
#define SETTX_GIVEN __grid_constant__
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

SETTX_METHOD void wait_for_block() {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
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
    int number;
};

int64_t attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "asking for", "the device's limits");
    return value;
}

DeviceLimits limits_of(int device) {
    return {attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            attribute(cudaDevAttrMultiProcessorCount, device), attribute(cudaDevAttrMaxGridDimX, device)};
}

// Makes the device the current one.
Device open(CudaStream where) {
    check(cudaSetDevice(where.device), "choosing", "the device");
    return {limits_of(where.device), static_cast<cudaStream_t>(where.stream), where.device};
}

// Always the most that there is: the attribute is the kernel's, and other threads launch it too. Once for a kernel and
// device: a call takes as long as a launch.
void reserve_shared_memory(const Device& device, const char* name, const void* kernel) {
    thread_local std::vector<std::pair<const void*, int>> done;
    const std::pair<const void*, int> mine{kernel, device.number};
    if (std::find(done.begin(), done.end(), mine) != done.end()) return;
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(device.limits.shared_per_block)),
        "reserving shared memory for", name);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100),
          "reserving shared memory for", name);
    done.push_back(mine);
}

template <class... Parameters, class... Arguments>
void launch(const Device& device, const char* name, void (*kernel)(Parameters...), Grid grid, Arguments... arguments) {
    if (grid.shared_bytes > 0) reserve_shared_memory(device, name, reinterpret_cast<const void*>(kernel));
    kernel<<<unsigned(grid.blocks), unsigned(grid.threads), size_t(grid.shared_bytes), device.stream>>>(arguments...);
    check(cudaGetLastError(), "launching", name);
}

void blank(const Device& device, void* memory, int64_t bytes) {
    check(cudaMemsetAsync(memory, 0, size_t(bytes), device.stream), "blanking", "tables");
}

}  // namespace
}  // namespace settx::scm

#include "launches.h"

namespace settx::scm {

int64_t scratch_bytes_cuda(const Tables& sizes, const Evaluation& what, int device) {
    return scratch_bytes(sizes, what, limits_of(device));
}

void draw_cuda(const Draw& what, const Tables& t, void* scratch, CudaStream where) {
    draw_on(open(where), what, t, scratch);
}

void evaluate_cuda(const Tables& t, const Evaluation& what, void* scratch, CudaStream where) {
    const Device device = open(where);
    evaluate_on(device, choose_plan(t, what.rows.rows, what.traits, device.limits), t, what, scratch);
}

}  // namespace settx::scm
