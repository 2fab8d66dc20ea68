// The sampler on a device, and on threads that stand in for one.
#include <pybind11/stl.h>

#include <tuple>
#include <utility>

#include "addresses.h"
#include "bindings.h"
#include "devices.h"
#include "prior_bindings.h"
#include "scm/prior_image.h"
#include "scm/sample_cuda.h"
#include "without_lock.h"

namespace py = pybind11;

namespace settx {
namespace {

struct Place {
    int device;
    uintptr_t stream;

    operator scm::CudaStream() const { return {device, reinterpret_cast<void*>(stream)}; }
};

// A number, and where it lies on the device instead, or 0.
using NumberTuple = std::pair<uint64_t, uintptr_t>;

scm::Number as_number(const NumberTuple& number) {
    return {number.first, reinterpret_cast<const uint64_t*>(number.second)};
}

// Whether the rows are to be split; by share; the rows that all datasets want for their target environments, or −1.
using SplitTuple = std::tuple<bool, bool, int64_t>;
// Whether all is linear; all noise Gaussian; the widest network with several hidden layers; are there products; may
// rows be rejected.
using TraitsTuple = std::tuple<bool, bool, int32_t, bool, bool>;

scm::Evaluation as_evaluation(const scm::Rows& rows, const TraitsTuple& traits, const SplitTuple& split) {
    const auto [all_linear, all_gaussian, deep_width, has_products, rejects_rows] = traits;
    const auto [is_wanted, by_share, target_rows] = split;
    return {
        rows, {all_linear, all_gaussian, deep_width, rejects_rows, has_products}, {is_wanted, by_share, target_rows}};
}

// memory: of all tables, where it begins and how many bytes it has.
template <class Call>
void draw_there(const OwnedPrior& prior, uintptr_t image, const NumberTuple& seed, const NumberTuple& first_index,
                const std::pair<uintptr_t, int64_t>& memory, const Addresses& addresses, const Sizes& sizes,
                uintptr_t parameter_offset, uintptr_t scratch, const Call& call) {
    scm::PriorImage layout(nullptr, reinterpret_cast<char*>(image));
    const scm::Draw what{layout.add(prior.prior()),
                         as_number(seed),
                         as_number(first_index),
                         reinterpret_cast<const int64_t*>(parameter_offset),
                         scm::renews_mechanisms(prior.prior()),
                         scm::has_products(prior.prior()),
                         reinterpret_cast<void*>(memory.first),
                         memory.second};
    const scm::Tables tables = as_tables(addresses, sizes);
    without_lock([&] { call(what, tables, reinterpret_cast<void*>(scratch)); });
}

template <class Call>
void evaluate_there(const Addresses& addresses, const Sizes& sizes, const Addresses& row_addresses, const Asked& asked,
                    uintptr_t seed_at, const TraitsTuple& traits, const SplitTuple& split, uintptr_t scratch,
                    const Call& call) {
    const scm::Tables tables = as_tables(addresses, sizes);
    scm::Evaluation what = as_evaluation(as_rows(row_addresses, asked), traits, split);
    what.rows.seed_at = reinterpret_cast<const uint64_t*>(seed_at);
    without_lock([&] { call(tables, what, reinterpret_cast<void*>(scratch)); });
}

scm::Evaluation sized_evaluation(int64_t num_rows, int32_t columns, const TraitsTuple& traits) {
    scm::Rows rows{};
    rows.rows = num_rows, rows.columns = scm::Columns(columns);
    return as_evaluation(rows, traits, {});
}

void draw_by_rows(const OwnedPrior& prior, uintptr_t image, const NumberTuple& seed, const NumberTuple& first_index,
                  const std::pair<uintptr_t, int64_t>& memory, const Addresses& addresses, const Sizes& sizes,
                  uintptr_t parameter_offset, uintptr_t scratch, int, uintptr_t) {
    draw_there(prior, image, seed, first_index, memory, addresses, sizes, parameter_offset, scratch, scm::draw_by_rows);
}

void evaluate_by_rows(const Addresses& addresses, const Sizes& sizes, const Addresses& row_addresses,
                      const Asked& asked, uintptr_t seed_at, const TraitsTuple& traits, const SplitTuple& split,
                      uintptr_t scratch, int, uintptr_t) {
    evaluate_there(addresses, sizes, row_addresses, asked, seed_at, traits, split, scratch,
                   [](const auto&... what) { scm::evaluate_by_rows(what...); });
}

int64_t scratch_bytes_to_draw(const Sizes& sizes) {
    return scm::scratch_bytes_to_draw(sized(sizes));
}

int64_t scratch_bytes_by_rows(const Sizes& sizes, int64_t num_rows, int32_t columns, const TraitsTuple& traits, int) {
    return scm::scratch_bytes_by_rows(sized(sizes), sized_evaluation(num_rows, columns, traits));
}

#ifdef SETTX_HAS_CUDA
void draw_cuda(const OwnedPrior& prior, uintptr_t image, const NumberTuple& seed, const NumberTuple& first_index,
               const std::pair<uintptr_t, int64_t>& memory, const Addresses& addresses, const Sizes& sizes,
               uintptr_t parameter_offset, uintptr_t scratch, int device, uintptr_t stream) {
    draw_there(prior, image, seed, first_index, memory, addresses, sizes, parameter_offset, scratch,
               [&](const auto&... what) { scm::draw_cuda(what..., Place{device, stream}); });
}

void evaluate_cuda(const Addresses& addresses, const Sizes& sizes, const Addresses& row_addresses, const Asked& asked,
                   uintptr_t seed_at, const TraitsTuple& traits, const SplitTuple& split, uintptr_t scratch, int device,
                   uintptr_t stream) {
    evaluate_there(addresses, sizes, row_addresses, asked, seed_at, traits, split, scratch,
                   [&](const auto&... what) { scm::evaluate_cuda(what..., Place{device, stream}); });
}

int64_t scratch_bytes_cuda(const Sizes& sizes, int64_t num_rows, int32_t columns, const TraitsTuple& traits,
                           int device) {
    return scm::scratch_bytes_cuda(sized(sizes), sized_evaluation(num_rows, columns, traits), device);
}
#endif

}  // namespace

void bind_device_sampler(py::module_& m) {
    py::class_<Devices>(m, "Devices")
        .def_readonly("built_with_cuda", &Devices::built_with_cuda)
        .def_readonly("count", &Devices::count)
        .def_readonly("problem", &Devices::problem);
    m.def("find_devices", &find_devices, "CUDA devices this build can see.");

    m.def("draw_by_rows", &draw_by_rows, "`draw_cuda` on threads that stand in for a device's, on the host's memory.");
    m.def("evaluate_by_rows", &evaluate_by_rows, "`evaluate_cuda` likewise.");
    m.def("scratch_bytes_to_draw", &scratch_bytes_to_draw, "Bytes of scratch that a draw on a device needs.");
    m.def("scratch_bytes_by_rows", &scratch_bytes_by_rows, "`scratch_bytes_cuda` likewise.");
#ifdef SETTX_HAS_CUDA
    m.def("draw_cuda", &draw_cuda, "`draw` on a device, whose memory holds an image of the prior; does not wait.");
    m.def("evaluate_cuda", &evaluate_cuda, "`evaluate` on a device; does not wait.");
    m.def("scratch_bytes_cuda", &scratch_bytes_cuda, "Bytes of scratch that an evaluation needs.");
#endif
}

}  // namespace settx
