// The device's own square root, and the one that leaves out the look at the range: cuda_arithmetic.py compares their
// machine code.
#include "../scm/math.h"

__global__ void root_of_device(float* x) {
    x[0] = __fsqrt_rn(x[0]);
}

__global__ void root_refined(float* x) {
    x[0] = settx::scm::root_of_radius(x[0]);
}
