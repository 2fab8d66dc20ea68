// Reading the layers of a block as Python sees them.
#include "bindings.h"

namespace py = pybind11;

namespace settx {
namespace {

// The value of a name in a dictionary, nullptr where there is none.
PyObject* find(PyObject* dictionary, const py::str& name) {
    PyObject* found = PyDict_GetItemWithError(dictionary, name.ptr());
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

// Names of attributes, made once and never freed: Python may be gone when statics are.
struct Names {
    py::str hooks[4] = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"};
    py::str parameters = "_parameters", weight = "weight", bias = "bias", eps = "eps";
};

const Names& names() {
    static const Names& made = *new Names;
    return made;
}

bool is_true(PyObject* value) {
    const int truth = PyObject_IsTrue(value);
    if (truth < 0) throw py::error_already_set();
    return truth != 0;
}

bool has_hooks(PyObject* attributes) {
    for (const py::str& name : names().hooks) {
        PyObject* hooks = find(attributes, name);
        if (hooks == nullptr || is_true(hooks)) return true;
    }
    return false;
}

bool equal(PyObject* a, PyObject* b) {
    const int same = a == nullptr ? 0 : PyObject_RichCompareBool(a, b, Py_EQ);
    if (same < 0) throw py::error_already_set();
    return same != 0;
}

// Adds a layer's parameters; false where they are not all that it does. `expected`: name, class, has a bias, eps.
bool add_parameters(py::list& found, PyObject* layers, PyObject* expected) {
    const auto field = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(expected, i); };
    PyObject* layer = find(layers, py::reinterpret_borrow<py::str>(field(0)));
    if (layer == nullptr || reinterpret_cast<PyObject*>(Py_TYPE(layer)) != field(1)) return false;
    const auto attributes = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(layer, nullptr));
    if (!attributes) throw py::error_already_set();
    if (has_hooks(attributes.ptr())) return false;
    if (field(3) != Py_None && !equal(find(attributes.ptr(), names().eps), field(3))) return false;
    PyObject* parameters = find(attributes.ptr(), names().parameters);
    if (parameters == nullptr || !PyDict_Check(parameters)) return false;
    PyObject* weight = find(parameters, names().weight);
    PyObject* bias = find(parameters, names().bias);
    const bool has_bias = bias != nullptr && bias != Py_None;
    if (weight == nullptr || weight == Py_None || has_bias != (field(2) == Py_True)) return false;
    found.append(py::handle(weight));
    if (has_bias) found.append(py::handle(bias));
    return true;
}

py::object plain_parameters(const py::dict& layers, const py::tuple& expected) {
    py::list found;
    for (const py::handle each : expected) {
        if (!PyTuple_Check(each.ptr()) || PyTuple_GET_SIZE(each.ptr()) != 4)
            throw py::type_error("expected: (name, class, has a bias, eps) of each layer");
        if (!add_parameters(found, layers.ptr(), each.ptr())) return py::none();
    }
    return std::move(found);
}

}  // namespace

void bind_layers(py::module_& m) {
    m.def("plain_parameters", &plain_parameters, py::arg("layers"), py::arg("expected"),
          "The weights and biases of layers, or None where one is of another class, has hooks, another eps, no weight\n"
          "or other biases. `expected`: (name, class, has a bias, eps or None) of each layer.");
}

}  // namespace settx
