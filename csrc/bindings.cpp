#include "bindings.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native parts of settx_fast; linked with no torch.";
    settx::bind_prior(m);
    settx::bind_host_sampler(m);
    settx::bind_device_sampler(m);
    settx::bind_learner(m);
    settx::bind_launches(m);
    settx::bind_layers(m);
}
