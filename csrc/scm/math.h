// log, sincos, exp, tanh, atan in float32 from explicit fused multiply-adds: the same bits from every compiler and
// processor that rounds as IEEE 754 says. Branch-free, so that loops over them become vector code. Polynomials are
// minimax fits.
#pragma once
#include <cstdint>
#include <cstring>

#include "philox.h"

namespace settx::scm {

SETTX_FN float fma(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
SETTX_FN float sqrt(float x) {
    return __builtin_sqrtf(x);
}
SETTX_FN float abs(float x) {
    return __builtin_fabsf(x);
}

SETTX_FN uint32_t to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

SETTX_FN float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Two steps, each one instruction; a NaN stays.
SETTX_FN float clamp(float x, float low, float high) {
    const float raised = low > x ? low : x;
    return high < raised ? high : raised;
}

// Processors differ in the bits of a NaN: what is written has these.
constexpr uint32_t NAN_BITS = 0x7FC00000u;

SETTX_FN float canonical(float x) {
    return x == x ? x : from_bits(NAN_BITS);
}

// −x where the highest bit of `sign` is set.
SETTX_FN float with_sign(float x, uint32_t sign) {
    return from_bits(to_bits(x) ^ (sign & 0x80000000u));
}

// n / q from an approximation y of 1 / q: one Newton step, and the quotient corrected by what it leaves. The remainder
// is negated so that −0 / q is −0.
SETTX_FN float refine_quotient(float n, float q, float y) {
    y = fma(y, fma(-q, y, 1.0f), y);
    const float t = n * y;
    return fma(-y, fma(q, t, -n), t);
}

// √x from an approximation y of 1 / √x: the root corrected by what it leaves.
SETTX_FN float refine_root(float x, float y) {
    const float s = x * y;
    return fma(fma(-s, s, x), 0.5f * y, s);
}

// The quotient of tanh and the root of signed_radius: on a device the steps that its own division and root take within
// a range, without a look at the range, which is a branch. What comes here is within it: csrc/tests/refinements.cpp
// tries every number, csrc/tests/cuda_arithmetic.py compares the steps.
SETTX_FN float quotient_of_tanh(float n, float q) {
#ifdef __CUDA_ARCH__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(q));
    return refine_quotient(n, q, y);
#else
    return n / q;
#endif
}

constexpr float LEAST_SQUARE = 8.67361738e-19f;  // 2⁻⁶⁰: in place of 0, whose approximation is infinite

SETTX_FN float root_of_radius(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fmaxf(x, LEAST_SQUARE)));
    return refine_root(x, y);
#else
    return sqrt(x);
#endif
}

// Natural logarithm of a positive normal number. x = m·2^e, m in [√½, √2), f = m − 1.
SETTX_FN float log(float x) {
    const uint32_t shifted = to_bits(x) - 0x3F3504F3u;
    const int32_t exponent = int32_t(shifted) >> 23;
    const float f = from_bits(to_bits(x) - (uint32_t(exponent) << 23)) - 1.0f;
    float p = fma(-0.0763449371f, f, 0.12761575f);
    p = fma(p, f, -0.131601825f);
    p = fma(p, f, 0.142017588f);
    p = fma(p, f, -0.166233569f);
    p = fma(p, f, 0.200012267f);
    p = fma(p, f, -0.250008196f);
    p = fma(p, f, 0.333333313f);
    const float e = float(exponent), square = f * f;
    const float tail = fma(e, -2.12194440e-4f, fma(f * square, p, -0.5f * square));
    return fma(e, 0.693359375f, f + tail);
}

// e^x; 0 below −87.3, ∞ above 88. x = n·ln 2 + r.
SETTX_FN float exp(float x) {
    const float clamped = clamp(x, -87.3f, 88.0f);
    const float shifted = fma(clamped, 1.44269504f, 12582912.0f);  // 1.5·2²³: the sum's low bits are n
    const float n = shifted - 12582912.0f;
    const float r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, clamped));
    float p = fma(0.00138146128f, r, 0.00836871006f);
    p = fma(p, r, 0.041668389f);
    p = fma(p, r, 0.166665211f);
    p = fma(p, r, 0.49999994f);
    p = fma(r * r, p, r) + 1.0f;
    const float value = from_bits(to_bits(p) + (to_bits(shifted) << 23));
    const float not_small = x < -87.3f ? 0.0f : value;
    return x <= 88.0f ? not_small : x + from_bits(0x7F800000u);  // a NaN stays, whichever bits it has
}

// x·P(x²) / Q(x²), a minimax fit for |x| ≤ 7.9 that stays below 1, so that the quotient needs no clamp of its own.
struct Fraction {
    float numerator, denominator;
};

SETTX_FN Fraction fraction_of_tanh(float x) {
    const float a = clamp(x, -7.9f, 7.9f), s = a * a;
    float p = fma(1.15779794e-05f, s, 0.00296515063f);
    p = fma(p, s, 0.129389822f);
    p = fma(p, s, 1.0f);
    float q = fma(2.5065043e-07f, s, 0.000240646375f);
    q = fma(q, s, 0.0238738004f);
    q = fma(q, s, 0.46272245f);
    q = fma(q, s, 1.0f);
    return {a * p, q};
}

SETTX_FN float tanh(float x) {
    const Fraction f = fraction_of_tanh(x);
    return quotient_of_tanh(f.numerator, f.denominator);
}

// atan x = x + x³·atan_tail(x²), |x| ≤ 1.
SETTX_FN float atan_tail(float s) {
    float p = fma(0.00118793361f, s, -0.00769786583f);
    p = fma(p, s, 0.0233698897f);
    p = fma(p, s, -0.045697853f);
    p = fma(p, s, 0.0681590438f);
    p = fma(p, s, -0.0884518251f);
    p = fma(p, s, 0.110678025f);
    p = fma(p, s, -0.142813861f);
    p = fma(p, s, 0.199997991f);
    return fma(p, s, -0.333333313f);
}

// |x| ≤ 1.
SETTX_FN float atan(float x) {
    const float s = x * x;
    return fma(x * s, atan_tail(s), x);
}

SETTX_FN float sigmoid(float x) {
    return 1.0f / (1.0f + exp(-x));
}

// sin x, |x| ≤ π/2.
SETTX_FN float sin_within_half_turn(float x) {
    const float s = x * x;
    float p = fma(2.6060957e-06f, s, -0.00019809777f);
    p = fma(p, s, 0.008333069f);
    p = fma(p, s, -0.1666666f);
    return fma(x * s, p, x);
}

// sin x. Three-part reduction to half turns: full accuracy for |x| < 10⁴; larger |x| are taken as ±10⁴.
SETTX_FN float sin(float x) {
    const float clamped = clamp(x, -1e4f, 1e4f);
    const float shifted = fma(clamped, 0.318309886f, 12582912.0f);
    const float n = shifted - 12582912.0f;
    float r = fma(n, -3.14159203f, clamped);
    r = fma(n, -6.27832947e-7f, r);
    r = fma(n, -1.07806051e-14f, r);
    return with_sign(sin_within_half_turn(r), to_bits(shifted) << 31);
}

struct SinCos {
    float sin, cos;
};

// Of π·word / 2³², the word taken as signed: between −π/2 and π/2.
SETTX_FN SinCos sincos_of_half_turn(uint32_t word) {
    const float x = float(int32_t(word)) * 7.31459039e-10f, s = x * x;
    float q = fma(2.3189034e-05f, s, -0.0013855709f);
    q = fma(q, s, 0.041663963f);
    q = fma(q, s, -0.4999993f);
    return {sin_within_half_turn(x), fma(q, s, 1.0f)};
}

}  // namespace settx::scm
