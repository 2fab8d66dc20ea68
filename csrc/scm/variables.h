// Variables that a prior names by their part in a dataset.
#pragma once
#include "philox.h"
#include "scm.h"

namespace settx::scm {

SETTX_FN bool has_edge(const Tables& t, int64_t b, int64_t cause, int64_t effect) {
    return t.adjacency[(b * t.variables + cause) * t.variables + effect];
}

// Is v the variable, or one of those, that the prior names?
SETTX_FN bool is_named(const Tables& t, int64_t b, int32_t name, int32_t v) {
    const int32_t target = int32_t(t.target_index[b]);
    switch (name) {
        case THE_TARGET:
            return v == target;
        case ITS_PARENTS:
            return has_edge(t, b, v, target);
        case ITS_CHILDREN:
            return has_edge(t, b, target, v);
        default:
            return v == name;
    }
}

}  // namespace settx::scm
