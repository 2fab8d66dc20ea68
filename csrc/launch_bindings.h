// The launcher of recorded plans as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace settx {

void bind_launches(pybind11::module_& m);

}  // namespace settx
