// What the module is made of. Every binding unpacks, releases the interpreter's lock and calls.
#pragma once
#include <pybind11/pybind11.h>

namespace settx {

void bind_prior(pybind11::module_& m);
void bind_host_sampler(pybind11::module_& m);
void bind_device_sampler(pybind11::module_& m);  // after the prior
void bind_learner(pybind11::module_& m);
void bind_launches(pybind11::module_& m);
void bind_layers(pybind11::module_& m);

}  // namespace settx
