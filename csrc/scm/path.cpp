// The table of one path's functions, and the functions that tests call by name.
#include "lanes.h"
#include "noise.h"
#include "path_functions.h"

#define SETTX_TEXT_(x) #x
#define SETTX_TEXT(x) SETTX_TEXT_(x)

namespace settx::scm::SETTX_PATH {
namespace {

template <class Function>
SETTX_FN bool map(const float* x, int64_t n, float* out, Function function) {
    for (int64_t i = 0; i < n; ++i) out[i] = function(x[i]);
    return true;
}

}  // namespace

bool apply(const char* function, const float* x, int64_t n, float* out) {
    const auto is = [&](const char* name) { return std::strcmp(function, name) == 0; };
    if (is("log")) return map(x, n, out, [](float a) { return log(a); });
    if (is("exp")) return map(x, n, out, [](float a) { return exp(a); });
    if (is("tanh")) return map(x, n, out, [](float a) { return tanh(a); });
    if (is("atan")) return map(x, n, out, [](float a) { return atan(a); });
    if (is("sigmoid")) return map(x, n, out, [](float a) { return sigmoid(a); });
    if (is("sin")) return map(x, n, out, [](float a) { return sin(a); });
    if (is("sin_of_half_turn")) return map(x, n, out, [](float a) { return sincos_of_half_turn(to_bits(a)).sin; });
    if (is("cos_of_half_turn")) return map(x, n, out, [](float a) { return sincos_of_half_turn(to_bits(a)).cos; });
    return false;
}

extern const Path PATH;
const Path PATH = {SETTX_TEXT(SETTX_PATH), draw_graph,  draw_dataset, evaluate_segment,
                   scratch_floats,         add_columns, apply_units,  run_pilot,
                   pilot_floats,           fill_noise,  apply};

}  // namespace settx::scm::SETTX_PATH
