// Arrays as Python hands them over: where they lie, on the host or on a device.
#pragma once
#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include "scm/scm.h"

namespace settx {

// In the order of settx_fast/scm/_layout.py, which has checked them.
using Addresses = std::vector<uintptr_t>;

using Sizes = std::array<int64_t, 5>;  // B, V, K, P, L

// Without memory.
scm::Tables sized(const Sizes&);

scm::Tables as_tables(const Addresses&, const Sizes&);

// What is asked for: rows, seed, columns, is_observed, attempt_given.
using Asked = std::tuple<int64_t, uint64_t, int32_t, bool, bool>;

scm::Rows as_rows(const Addresses&, const Asked&);

}  // namespace settx
