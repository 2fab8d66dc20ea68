// Random words to noise of mean 0 and variance 1.
#pragma once
#include "math.h"

namespace settx::scm {

enum NoiseKind : int32_t {
    GAUSSIAN = 0,
    LAPLACE = 1,
    UNIFORM = 2,
    STUDENT_T = 3,  // degrees of freedom
    EXPONENTIAL = 4,
    GUMBEL = 5,
    LOGISTIC = 6,
    CLIPPED_CAUCHY = 7,  // limit, 1 / standard deviation
    MIXTURE = 8,         // share of the second component; mean and scale of the first; mean and scale of the second
};

// What noise does to a variable: additive x + s·n; multiplicative x·(1 + s·n) if it has parents; heteroscedastic
// x + 2·sigmoid(Σ weights · parents)·s·n.
enum NoiseEffect : int64_t { ADDITIVE = 0, MULTIPLICATIVE = 1, HETEROSCEDASTIC = 2 };

// (0, 1]: a uniform number from all 32 bits, 2⁻³³ at least.
SETTX_FN float open_uniform(uint32_t word) {
    return fma(float(word), 2.3283064365386963e-10f, 1.1641532182693481e-10f);
}

// ±1, ±3, … ±(2³¹ − 1): over 2³¹, a uniform number in (0, 1] and a random sign.
SETTX_FN float signed_odd(uint32_t word) {
    return float(int32_t(word | 1));
}

SETTX_FN float magnitude(float odd) {
    return abs(odd) * 4.65661287e-10f;  // 2⁻³¹
}

// −2 log u of u = magnitude(odd). u = m·2^e, m in [√½, √2), f = m − 1; ln 2 need not be split as in log, because
// nothing cancels.
SETTX_FN float square_of_radius(float odd) {
    const uint32_t bits = to_bits(odd) & 0x7FFFFFFFu;
    const uint32_t exponent = (bits - (0x3F3504F3u + (31u << 23))) & 0xFF800000u;  // e·2²³
    const float f = fma(from_bits(bits - exponent), 4.65661287e-10f, -1.0f), square = f * f;
    float odd_terms = fma(0.20166717f, square, 0.34485313f);
    float even_terms = fma(-0.32360002f, square, -0.39813858f);
    odd_terms = fma(odd_terms, square, 0.49942577f);
    even_terms = fma(even_terms, square, -0.6666943f);
    odd_terms = fma(odd_terms, square, 1.0000064f);
    even_terms = fma(even_terms, square, -2.0f);
    const float p = fma(odd_terms, f, even_terms);
    return fma(float(int32_t(exponent)), -1.65259171e-7f, f * p);  // −2 ln 2 / 2²³
}

// √(−2 log u), with the sign of odd.
SETTX_FN float signed_radius(float odd) {
    return with_sign(root_of_radius(square_of_radius(odd)), to_bits(odd));
}

struct Pair {
    float first, second;
};

// Box & Muller (1958): two independent normals. Half a turn, and the sign of the radius for the other half.
SETTX_FN Pair gaussian_pair(uint32_t word0, uint32_t word1) {
    const float radius = signed_radius(signed_odd(word0));
    const SinCos angle = sincos_of_half_turn(word1);
    return {radius * angle.cos, radius * angle.sin};
}

// The inverse of the distribution function on either side: variance 1 means scale √½.
SETTX_FN float laplace(uint32_t word) {
    const float odd = signed_odd(word);
    return with_sign(-0.707106781f * log(magnitude(odd)), to_bits(odd));
}

SETTX_FN float uniform(uint32_t word) {
    return float(int32_t(word)) * 8.06549e-10f;
}  // √3 / 2³¹

// Bailey, "Polar generation of random variates with the t-distribution" (1994), over √(d / (d − 2)), its own scale.
SETTX_FN float student_t(uint32_t word0, uint32_t word1, float degrees) {
    const float odd = signed_odd(word0);
    const float power = exp(-2.0f / degrees * log(magnitude(odd)));
    const float radius = sqrt((degrees - 2.0f) * (power - 1.0f < 0.0f ? 0.0f : power - 1.0f));
    return with_sign(radius * sincos_of_half_turn(word1).cos, to_bits(odd));
}

// −log of a uniform number, at 6·10⁻⁸ granularity near 0.
SETTX_FN float exponential(uint32_t word) {
    return -log(open_uniform(word)) - 1.0f;
}

// −log(1 − v) for v in (0, 1]: exact to rounding for small v, because log(w) / (1 − w) is smooth where w = 1 − v
// rounds.
SETTX_FN float minus_log_of_rest(float v) {
    const float w = 1.0f - clamp(v, 0.0f, 0.99999994f), rest = 1.0f - w;
    const float ratio = -log(w) / (rest == 0.0f ? 1.0f : rest);
    return rest == 0.0f ? v : v * ratio;
}

// −log of an exponential number, exact at both ends; Euler's constant and π/√6 make it mean 0 and variance 1.
SETTX_FN float gumbel(uint32_t word) {
    const float low = minus_log_of_rest(open_uniform(word)), high = -log(open_uniform(~word));
    return (-log(word >> 31 ? high : low) - 0.577215665f) * 0.779696801f;
}

SETTX_FN float logistic(uint32_t word) {
    const float odd = signed_odd(word), v = magnitude(odd);
    return with_sign(-log(v / (2.0f - v)) * 0.551328895f, to_bits(odd));  // √3 / π
}

// The tangent of an angle between ±π/2.
SETTX_FN float clipped_cauchy(uint32_t word, float limit, float scale) {
    const SinCos angle = sincos_of_half_turn(word);
    return clamp(angle.cos / angle.sin, -limit, limit) * scale;
}

// 1 / √E[min(x², c²)] of a Cauchy x. With r = min(c, 1/c) and rest = atan r + (atan r − r)/r², that mean is
// c²·(1 − (2/π)·rest) up to c = 1 and (2/π)·c·(2 − r·(π/2 − rest)) above: nothing cancels.
SETTX_FN float clipped_cauchy_scale(float limit) {
    const bool narrow = limit <= 1.0f;
    const float r = narrow ? limit : 1.0f / limit;
    const float rest = fma(r, atan_tail(r * r), atan(r));
    if (narrow) return 1.0f / (limit * sqrt(fma(-0.636619772f, rest, 1.0f)));
    return 1.0f / sqrt(0.636619772f * limit * fma(r, rest - 1.57079633f, 2.0f));
}

SETTX_FN float mixture(float normal, uint32_t word, const float* p) {
    const float mean = p[1], scale = p[2], other_mean = p[3], other_scale = p[4];
    const bool other = open_uniform(word) < p[0];
    return fma(other ? other_scale : scale, normal, other ? other_mean : mean);
}

// What a prior gives (degrees; limit and 1 / sd, or 0 where the limit is drawn; share, distance and ratio of scales) as
// what evaluation reads.
SETTX_FN void prepare_noise(int32_t kind, const float* given, float* parameters) {
    parameters[0] = given[0];
    parameters[1] = given[1];
    if (kind == CLIPPED_CAUCHY && given[1] == 0.0f) parameters[1] = clipped_cauchy_scale(given[0]);
    if (kind != MIXTURE) return;
    const float share = given[0], distance = given[1], ratio = given[2], rest = 1.0f - share;
    const float variance = rest + share * (ratio * ratio) + share * rest * (distance * distance);
    const float scale = 1.0f / sqrt(variance);
    parameters[1] = -share * distance * scale;
    parameters[2] = scale;
    parameters[3] = rest * distance * scale;
    parameters[4] = ratio * scale;
}

}  // namespace settx::scm
