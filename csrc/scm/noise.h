// Random words to noise of mean 0 and variance 1.
#pragma once
#include "math.h"

namespace settx::scm {

enum NoiseKind : int32_t { GAUSSIAN = 0, LAPLACE = 1, UNIFORM = 2, STUDENT_T = 3 };

// (0, 1]: a uniform number from all 32 bits, 2⁻³³ at least.
SETTX_FN float open_uniform(uint32_t word) {
    return fma(float(word), 2.3283064365386963e-10f, 1.1641532182693481e-10f);
}

struct Pair {
    float first, second;
};

// Box & Muller (1958): two independent normals.
SETTX_FN Pair gaussian_pair(uint32_t word0, uint32_t word1) {
    const float radius = sqrt(-2.0f * log(open_uniform(word0)));
    const SinCos angle = sincos_of_turns(word1);
    return {radius * angle.cos, radius * angle.sin};
}

// The inverse of the distribution function, its sign from the highest bit: variance 1 means scale √½.
SETTX_FN float laplace(uint32_t word) {
    return with_sign_of(-0.707106781f * log(open_uniform(word << 1)), word);
}

SETTX_FN float uniform(uint32_t word) {
    return float(int32_t(word)) * 8.06549e-10f;
}  // √3 / 2³¹

// Bailey, "Polar generation of random variates with the t-distribution" (1994), over √(d / (d − 2)), its own scale.
SETTX_FN float student_t(uint32_t word0, uint32_t word1, float degrees) {
    const float power = exp(-2.0f / degrees * log(open_uniform(word0)));
    const float radius = sqrt((degrees - 2.0f) * (power - 1.0f < 0.0f ? 0.0f : power - 1.0f));
    return radius * sincos_of_turns(word1).cos;
}

}  // namespace settx::scm
