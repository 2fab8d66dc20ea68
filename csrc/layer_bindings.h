// Reading the layers of a block, as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace settx {

void bind_layers(pybind11::module_& m);

}  // namespace settx
