// The only pybind11 file: unpack, release the interpreter lock, call.
#include <pybind11/pybind11.h>

#include "devices.h"

namespace py = pybind11;

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native parts of settx_fast; knows neither torch nor the interpreter lock.";

    py::class_<settx::Devices>(m, "Devices")
        .def_readonly("built_with_cuda", &settx::Devices::built_with_cuda)
        .def_readonly("count", &settx::Devices::count)
        .def_readonly("problem", &settx::Devices::problem);
    m.def("find_devices", &settx::find_devices, "CUDA devices this build can see.");
}
