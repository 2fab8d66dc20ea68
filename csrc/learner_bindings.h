#pragma once
#include <pybind11/pybind11.h>

namespace settx {

void bind_learner(pybind11::module_& m);

}  // namespace settx
