// The sampler on the host, by instruction set, and its arithmetic on its own.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "addresses.h"
#include "bindings.h"
#include "interruptible.h"
#include "prior_bindings.h"
#include "scm/lanes.h"
#include "scm/noise.h"
#include "scm/paths.h"

namespace py = pybind11;

namespace settx {
namespace {

const scm::Path& path_by_name(const std::string& name) {
    if (name == "best") return scm::path(scm::num_paths() - 1);
    for (int i = 0; i < scm::num_paths(); ++i)
        if (name == scm::path(i).name) return scm::path(i);
    throw py::value_error("path: expected one that this machine runs, got '" + name + "'");
}

std::vector<std::string> path_names() {
    std::vector<std::string> names;
    for (int i = 0; i < scm::num_paths(); ++i) names.emplace_back(scm::path(i).name);
    return names;
}

// ---- Datasets -------------------------------------------------------------------------------------------------------

py::array_t<int64_t> count_parameters(const OwnedPrior& prior, uint64_t seed, int64_t first_index, int64_t num_datasets,
                                      int num_threads, const std::string& path) {
    py::array_t<int64_t> counts(num_datasets);
    int64_t* out = counts.mutable_data();
    const scm::Path& chosen = path_by_name(path);
    run_interruptibly(
        [&] { scm::count_parameters(prior.prior(), seed, first_index, num_datasets, out, num_threads, chosen); });
    return counts;
}

void draw(const OwnedPrior& prior, uint64_t seed, const Addresses& addresses, uintptr_t parameter_offset,
          const Sizes& sizes, int num_threads, const std::string& path) {
    const scm::Tables tables = as_tables(addresses, sizes);
    const auto* offset = reinterpret_cast<const int64_t*>(parameter_offset);
    const bool from_image = path == "rows";
    const scm::Path& chosen = path_by_name(from_image ? "best" : path);
    run_interruptibly([&] {
        if (from_image)
            scm::draw_from_image(prior.prior(), seed, offset, tables);
        else
            scm::draw(prior.prior(), seed, offset, tables, num_threads, chosen);
    });
}

void evaluate(const Addresses& addresses, const Sizes& sizes, const Addresses& row_addresses, const Asked& asked,
              int num_threads, const std::string& path) {
    const scm::Tables tables = as_tables(addresses, sizes);
    const scm::Rows rows = as_rows(row_addresses, asked);
    const std::string by_rows = "rows";
    const bool in_shape = path.compare(0, by_rows.size(), by_rows) == 0;
    const std::string shape = in_shape && path.size() > by_rows.size() ? path.substr(by_rows.size() + 1) : "";
    const scm::Path& chosen = path_by_name(in_shape ? "best" : path);
    run_interruptibly([&] {
        if (in_shape)
            scm::evaluate_in_shape(tables, rows, shape);
        else
            scm::evaluate(tables, rows, num_threads, chosen);
    });
}

// ---- Arithmetic -----------------------------------------------------------------------------------------------------

void fill_noise(int32_t kind, std::array<float, scm::NOISE_INPUTS> given, uint64_t seed, int64_t dataset,
                int32_t variable, py::array_t<float, py::array::c_style>& noise, int num_threads,
                const std::string& path) {
    if (noise.size() % scm::BLOCK != 0)
        throw py::value_error("noise: expected a multiple of 64 numbers, got " + std::to_string(noise.size()));
    float* out = noise.mutable_data();
    const int64_t count = noise.size();
    const scm::Path& chosen = path_by_name(path);
    scm::NoiseRows rows{kind, {}, seed, dataset, variable};
    scm::prepare_noise(kind, given.data(), rows.parameters);
    run_interruptibly([&] { scm::fill_noise(rows, count, out, num_threads, chosen); });
}

py::array_t<float> apply(const std::string& function, const py::array_t<float, py::array::c_style>& x,
                         const std::string& path) {
    py::array_t<float> out(x.size());
    if (!path_by_name(path).apply(function.c_str(), x.data(), x.size(), out.mutable_data()))
        throw py::value_error("function: expected one of math.h, got '" + function + "'");
    return out;
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t seed) {
    const scm::Words w = scm::philox({counter[0], counter[1], counter[2], counter[3]}, seed);
    return {w.w0, w.w1, w.w2, w.w3};
}

}  // namespace

void bind_host_sampler(py::module_& m) {
    m.def("count_parameters", &count_parameters, "The number of mechanism parameters of every dataset.");
    m.def("draw", &draw, "Fills zeroed tables; path: an instruction set, or 'rows', from an image of the prior.");
    m.def("evaluate", &evaluate,
          "Fills values and environment from tables; path: an instruction set, or 'rows', the CUDA back end's order of "
          "work, alone or with one of `row_shapes`.");
    m.def("row_shapes", &scm::row_shapes, "Shapes of launches, by name.");

    m.def("path_names", &path_names, "Instruction sets this machine can use, best last.");
    m.def("fill_noise", &fill_noise, "Standardised noise of the first rows of a variable.");
    m.def("apply", &apply, "A function of math.h, element by element.");
    m.def("philox", &philox, "One Philox4x32-10 block.");
}

}  // namespace settx
