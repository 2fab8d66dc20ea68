// What becomes of a row once its variables have their values, one value at a time: the same on every processor. In this
// order: the row is accepted or drawn again; errors are added; numbers become levels; values are lost.
#pragma once
#include "noise.h"
#include "scm.h"

namespace settx::scm {

// A row is drawn again at most this many times; what is drawn last is taken as it is.
constexpr int32_t MOST_ATTEMPTS = 1024;

// Of being accepted, or lost.
SETTX_FN float probability(float x, float slope, float intercept) {
    return sigmoid(fma(slope, x, intercept));
}

SETTX_FN bool happens(float probability, uint32_t word) {
    return open_uniform(word) <= probability;
}

// codes[how many thresholds lie below x]; there is one threshold less than codes.
SETTX_FN float level_of(float x, const float* thresholds, const float* codes, int64_t num_levels) {
    int64_t level = 0;
    for (int64_t i = 0; i < num_levels - 1; ++i) level += x > thresholds[i];
    return codes[level];
}

// Where the words of a later attempt at the same row lie.
SETTX_FN Address at_attempt(Address at, int32_t attempt) {
    at.variable_purpose += uint32_t(attempt) << 12;
    return at;
}

}  // namespace settx::scm
