#include "devices.h"

#ifdef SETTX_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace settx {

Devices find_devices() {
#ifdef SETTX_HAS_CUDA
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) return {true, 0, cudaGetErrorString(status)};
    return {true, count, ""};
#else
    return {false, 0, "built without CUDA"};
#endif
}

}  // namespace settx
