#include "bindings.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native parts of settx_fast; knows neither torch nor the interpreter lock.";
    settx::bind_prior(m);
    settx::bind_host_sampler(m);
    settx::bind_device_sampler(m);
    settx::bind_learner(m);
    settx::bind_launches(m);
}
