// The launcher of recorded plans.
#include <pybind11/stl.h>

#include "bindings.h"
#include "launch.h"
#include "without_lock.h"

namespace py = pybind11;

namespace settx {
namespace {

// (name, function, programs, threads, shared, bytes, parameters, offsets, [(at, base, offset)])
using Entry = std::tuple<std::string, uintptr_t, unsigned, unsigned, unsigned, size_t, py::bytes, std::vector<uint32_t>,
                         std::vector<std::tuple<uint32_t, uint32_t, uint64_t>>>;

Launch as_launch(const Entry& entry) {
    const auto& [name, function, programs, threads, shared, bytes, parameters, offsets, patches] = entry;
    const auto held = static_cast<std::string>(parameters);
    Launch launch{name, reinterpret_cast<void*>(function), programs, threads, shared, bytes, {}, offsets, {}};
    launch.parameters.assign(held.begin(), held.end());
    for (const auto& [at, base, offset] : patches) launch.patches.push_back({at, base, offset});
    return launch;
}

LaunchPlan make_plan(int device, size_t num_bases, const std::vector<Entry>& entries) {
    std::vector<Launch> launches;
    for (const Entry& entry : entries) launches.push_back(as_launch(entry));
    return {device, num_bases, std::move(launches)};
}

// By the tensor's own method: nothing here is linked with PyTorch.
uint64_t address_of(py::handle tensor) {
    static PyObject* const name = PyUnicode_InternFromString("data_ptr");
    const auto address = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), name));
    if (!address) throw py::error_already_set();
    const uint64_t found = PyLong_AsUnsignedLongLong(address.ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    return found;
}

bool run(const LaunchPlan& plan, uint64_t stream, const py::list& tensors) {
    std::vector<uint64_t> bases;
    bases.reserve(tensors.size());
    for (const py::handle tensor : tensors)
        if (!tensor.is_none()) bases.push_back(address_of(tensor));
    bool ran = false;
    without_lock([&] { ran = plan.run(stream, bases); });
    return ran;
}

}  // namespace

void bind_launches(py::module_& m) {
    py::class_<LaunchPlan>(m, "LaunchPlan", "Launches recorded once, with the addresses of buffers left open.")
        .def(py::init(&make_plan), "From a device and launches; RuntimeError without a driver.")
        .def("run", &run,
             "Queues all launches on a stream, where tensors, some of them None, are the buffers. False, with nothing\n"
             "queued, where an address is no multiple of 16.");
}

}  // namespace settx
