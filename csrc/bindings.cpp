// What Python calls: unpack, release the interpreter lock, call.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "devices.h"
#include "interruptible.h"
#include "launch_bindings.h"
#include "layer_bindings.h"
#include "learner_bindings.h"
#include "scm/lanes.h"
#include "scm/noise.h"
#include "scm/paths.h"
#include "scm/prior_image.h"
#include "scm/sample_cuda.h"
#include "scm/scm.h"

namespace py = pybind11;
namespace scm = settx::scm;
using settx::run_interruptibly;

namespace {

// ---- The prior: a dictionary of plain values, read once into memory that outlives every call
// --------------------------

scm::Distribution as_distribution(const py::handle& value) {
    const auto [kind, is_signed, low, high] = value.cast<std::tuple<int32_t, bool, float, float>>();
    return {kind, is_signed, low, high};
}

std::vector<scm::Distribution> as_distributions(const py::handle& values) {
    std::vector<scm::Distribution> distributions;
    for (const py::handle value : values) distributions.push_back(as_distribution(value));
    return distributions;
}

scm::Range as_range(const py::handle& value) {
    const auto [low, high] = value.cast<std::pair<int32_t, int32_t>>();
    return {low, high};
}

scm::Range as_size(const py::handle& value) {
    const auto [low, high, is_log] = value.cast<std::tuple<int32_t, int32_t, bool>>();
    return {low, high, is_log};
}

scm::Shifts as_shifts(const py::dict& shifts) {
    scm::Shifts s{};
    s.are_asked_for = true;
    s.recur = shifts["recurring"].cast<bool>();
    const auto odds = as_distributions(shifts["odds"]);
    for (size_t i = 0; i < scm::NUM_SHIFT_ODDS; ++i) s.odds[i] = odds.at(i);
    s.target_severity = as_distribution(shifts["target_severity"]);
    s.strength = as_distribution(shifts["strength"]);
    s.target_strength = as_distribution(shifts["target_strength"]);
    s.intercept = as_distribution(shifts["intercept"]);
    s.slope = as_distribution(shifts["slope"]);
    s.noise = as_distribution(shifts["noise"]);
    return s;
}

class OwnedPrior {
  public:
    explicit OwnedPrior(const py::dict& fields) {
        prior_.num_variables = as_size(fields["num_variables"]);
        prior_.source_environments = as_size(fields["source_environments"]);
        prior_.target_environments = as_range(fields["target_environments"]);
        prior_.target = fields["target"].cast<int32_t>();
        prior_.standardisation = fields["standardisation"].cast<int32_t>();
        prior_.weight = as_distribution(fields["weight"]);
        prior_.same_mechanism = fields["same_mechanism"].cast<float>();
        prior_.target_share = as_distribution(fields["target_share"]);
        prior_.environment_imbalance = as_distribution(fields["environment_imbalance"]);
        if (!fields["shifts"].is_none()) prior_.shifts = as_shifts(fields["shifts"].cast<py::dict>());
        prior_.bias = keep(as_distributions(fields["bias"]), &prior_.bias_per_variable);
        prior_.noise_scale = keep(as_distributions(fields["noise_scale"]), &prior_.noise_scale_per_variable);
        for (const py::handle graph : fields["graphs"]) graphs_.push_back(as_graph(graph.cast<py::dict>()));
        for (const py::handle m : fields["mechanisms"]) mechanisms_.push_back(as_mechanism(m.cast<py::dict>()));
        for (const py::handle noise : fields["noises"]) {
            const auto [kind, parameters] = noise.cast<std::pair<int32_t, py::object>>();
            const auto given = as_distributions(parameters);
            noises_.push_back({kind, {given.at(0), given.at(1), given.at(2)}});
        }
        noise_effects_ = fields["noise_effects"].cast<std::vector<int32_t>>();
        for (const py::handle i : fields["source_interventions"])
            sources_.push_back(as_intervention(i.cast<py::dict>()));
        for (const py::handle i : fields["target_interventions"])
            targets_.push_back(as_intervention(i.cast<py::dict>()));
        for (const py::handle o : fields["observations"]) observations_.push_back(as_observation(o.cast<py::dict>()));
        prior_.needs_pilot = fields["needs_pilot"].cast<bool>();
        link(observations_, &prior_.observations, &prior_.num_observations);
        link(graphs_, &prior_.graphs, &prior_.num_graphs);
        link(mechanisms_, &prior_.mechanisms, &prior_.num_mechanisms);
        link(noises_, &prior_.noises, &prior_.num_noises);
        link(noise_effects_, &prior_.noise_effects, &prior_.num_noise_effects);
        link(sources_, &prior_.source_interventions, &prior_.num_source_interventions);
        link(targets_, &prior_.target_interventions, &prior_.num_target_interventions);
    }
    OwnedPrior(const OwnedPrior&) = delete;

    const scm::Prior& prior() const { return prior_; }

    // Writes the prior to `host` as it will be read at `device`; host 0: only the number of bytes.
    int64_t write_image(uintptr_t host, uintptr_t device) const {
        scm::PriorImage image(reinterpret_cast<char*>(host), reinterpret_cast<char*>(device));
        image.add(prior_);
        return image.size();
    }

  private:
    template <class T>
    static void link(const std::vector<T>& owned, const T** first, int32_t* count) {
        *first = owned.data();
        *count = int32_t(owned.size());
    }

    const scm::Distribution* keep(std::vector<scm::Distribution> values, bool* per_variable) {
        *per_variable = values.size() > 1;
        return distributions_.emplace_back(std::move(values)).data();
    }

    const int32_t* keep(std::vector<int32_t> values) { return numbers_.emplace_back(std::move(values)).data(); }

    scm::Graph as_graph(const py::dict& graph) {
        const auto edges = graph["edges"].cast<std::vector<int32_t>>();
        const auto parameters = as_distributions(graph["parameters"]);
        bool ignored;
        return {graph["kind"].cast<int32_t>(),
                {parameters.at(0), parameters.at(1)},
                as_range(graph["count"]),
                graph["hubs_in"].cast<bool>(),
                keep(edges),
                keep(as_distributions(graph["edge_weights"]), &ignored),
                keep(graph["order"].cast<std::vector<int32_t>>()),
                int32_t(edges.size() / 2)};
    }

    scm::Mechanism as_mechanism(const py::dict& m) {
        const auto functions = m["functions"].cast<std::vector<int32_t>>();
        std::vector<scm::Mechanism> factors;
        for (const py::handle factor : m["factors"]) factors.push_back(as_mechanism(factor.cast<py::dict>()));
        const auto& kept = factors_.emplace_back(std::move(factors));
        return {
            m["kind"].cast<int32_t>(), as_range(m["width"]),      as_range(m["depth"]), as_distribution(m["parameter"]),
            keep(functions),           int32_t(functions.size()), kept.data(),          int32_t(kept.size())};
    }

    // None gives a null pointer, that is "any".
    std::pair<const int32_t*, int32_t> keep_variables(const py::handle& variables) {
        if (variables.is_none()) return {nullptr, 0};
        auto given = variables.cast<std::vector<int32_t>>();
        const int32_t count = int32_t(given.size());
        given.push_back(0);  // so that none of them is not a null pointer
        return {keep(std::move(given)), count};
    }

    scm::Intervention as_intervention(const py::dict& i) {
        const auto [variables, count] = keep_variables(i["variables"]);
        return {i["kind"].cast<int8_t>(), as_distribution(i["value"]), variables, count,
                as_range(i["number"]),    i["on_target"].cast<bool>()};
    }

    scm::Observation as_observation(const py::dict& o) {
        const auto [variables, count] = keep_variables(o["variables"]);
        const auto values = as_distributions(o["values"]);
        return {o["kind"].cast<int32_t>(),
                o["option"].cast<int32_t>(),
                {values.at(0), values.at(1)},
                as_distribution(o["probability"]),
                as_range(o["number"]),
                variables,
                count,
                o["on_target"].cast<bool>()};
    }

    scm::Prior prior_{};
    std::vector<scm::Graph> graphs_;
    std::vector<scm::Mechanism> mechanisms_;
    std::deque<std::vector<scm::Mechanism>> factors_;
    std::vector<scm::Noise> noises_;
    std::vector<int32_t> noise_effects_;
    std::vector<scm::Intervention> sources_, targets_;
    std::vector<scm::Observation> observations_;
    std::deque<std::vector<scm::Distribution>> distributions_;
    std::deque<std::vector<int32_t>> numbers_;
};

// ---- Memory ---------------------------------------------------------------------------------------------------------

// Where arrays lie, on the host or on a device, in the order of settx_fast/scm/_layout.py, which has checked them.
using Addresses = std::vector<uintptr_t>;

// One address after the other, as a pointer of the type it is assigned to.
class Pointers {
  public:
    Pointers(const Addresses& addresses, size_t expected, const char* what) : addresses_(addresses) {
        if (addresses.size() == expected) return;
        throw py::value_error(std::string(what) + ": expected " + std::to_string(expected) + " addresses, got " +
                              std::to_string(addresses.size()));
    }
    template <class T>
    operator T*() {
        return reinterpret_cast<T*>(addresses_[next_++]);
    }

  private:
    const Addresses& addresses_;
    size_t next_ = 0;
};

using Sizes = std::array<int64_t, 5>;  // B, V, K, P, L

scm::Tables sized(const Sizes& sizes) {
    scm::Tables t{};
    t.datasets = sizes[0], t.variables = sizes[1], t.environments = sizes[2], t.num_parameters = sizes[3];
    t.levels = sizes[4];
    return t;
}

scm::Tables as_tables(const Addresses& addresses, const Sizes& sizes) {
    Pointers next(addresses, 36, "tables");
    scm::Tables t = sized(sizes);
    t.index = next;
    t.num_variables = next;
    t.num_environments = next;
    t.is_target = next;
    t.target_share = next;
    t.row_weight = next;
    t.target_index = next;
    t.adjacency = next;
    t.order = next;
    t.weights = next;
    t.bias = next;
    t.noise_scale = next;
    t.hard = next;
    t.intervention = next;
    t.noise_kind = next;
    t.noise_parameters = next;
    t.noise_effect = next;
    t.mechanism = next;
    t.mechanism_offset = next;
    t.parameters = next;
    t.centre = next;
    t.gain = next;
    t.column_centre = next;
    t.column_gain = next;
    t.is_hidden = next;
    t.accept_variable = next;
    t.accept_slope = next;
    t.accept_intercept = next;
    t.error_scale = next;
    t.num_levels = next;
    t.thresholds = next;
    t.codes = next;
    t.loss_cause = next;
    t.loss_rate = next;
    t.loss_slope = next;
    t.loss_intercept = next;
    return t;
}

// What is asked for: rows, seed, columns, is_observed, attempt_given.
using Asked = std::tuple<int64_t, uint64_t, int32_t, bool, bool>;

scm::Rows as_rows(const Addresses& addresses, const Asked& asked) {
    Pointers next(addresses, 6, "rows");
    scm::Rows rows{};
    const auto [num_rows, seed, columns, is_observed, attempt_given] = asked;
    rows.rows = num_rows, rows.seed = seed, rows.columns = scm::Columns(columns);
    rows.is_observed = is_observed, rows.attempt_given = attempt_given;
    rows.row_offset = next;
    rows.values = next;
    rows.environment = next;
    rows.is_missing = next;
    rows.attempt = next;
    rows.noise = next;
    return rows;
}

const scm::Path& path_by_name(const std::string& name) {
    if (name == "best") return scm::path(scm::num_paths() - 1);
    for (int i = 0; i < scm::num_paths(); ++i)
        if (name == scm::path(i).name) return scm::path(i);
    throw py::value_error("path: expected one that this machine runs, got '" + name + "'");
}

// ---- Calls ----------------------------------------------------------------------------------------------------------

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

// ---- Calls for a device, and for what stands in for one -------------------------------------------------------------

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
// Whether all is linear; all noise Gaussian; the widest network with several hidden layers; may rows be rejected.
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
    py::gil_scoped_release release;
    call(what, tables, reinterpret_cast<void*>(scratch));
}

template <class Call>
void evaluate_there(const Addresses& addresses, const Sizes& sizes, const Addresses& row_addresses, const Asked& asked,
                    uintptr_t seed_at, const TraitsTuple& traits, const SplitTuple& split, uintptr_t scratch,
                    const Call& call) {
    const scm::Tables tables = as_tables(addresses, sizes);
    scm::Evaluation what = as_evaluation(as_rows(row_addresses, asked), traits, split);
    what.rows.seed_at = reinterpret_cast<const uint64_t*>(seed_at);
    py::gil_scoped_release release;
    call(tables, what, reinterpret_cast<void*>(scratch));
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

std::vector<std::string> path_names() {
    std::vector<std::string> names;
    for (int i = 0; i < scm::num_paths(); ++i) names.emplace_back(scm::path(i).name);
    return names;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native parts of settx_fast; knows neither torch nor the interpreter lock.";

    py::class_<settx::Devices>(m, "Devices")
        .def_readonly("built_with_cuda", &settx::Devices::built_with_cuda)
        .def_readonly("count", &settx::Devices::count)
        .def_readonly("problem", &settx::Devices::problem);
    m.def("find_devices", &settx::find_devices, "CUDA devices this build can see.");
    settx::bind_launches(m);
    settx::bind_layers(m);
    settx::bind_learner(m);

    py::class_<OwnedPrior>(m, "Prior")
        .def(py::init<const py::dict&>())
        .def("write_image", &OwnedPrior::write_image,
             "Writes the prior to an address on the host, as read at another; 0: nothing. Returns the bytes it takes.");
    m.def("count_parameters", &count_parameters, "The number of mechanism parameters of every dataset.");
    m.def("draw", &draw, "Fills zeroed tables; path: an instruction set, or 'rows', from an image of the prior.");
    m.def("evaluate", &evaluate,
          "Fills values and environment from tables; path: an instruction set, or 'rows', the CUDA back end's order of "
          "work, alone or with one of `row_shapes`.");
    m.def("row_shapes", &scm::row_shapes, "Shapes of launches, by name.");

    m.def("draw_by_rows", &draw_by_rows, "`draw_cuda` on threads that stand in for a device's, on the host's memory.");
    m.def("evaluate_by_rows", &evaluate_by_rows, "`evaluate_cuda` likewise.");
    m.def("scratch_bytes_to_draw", &scratch_bytes_to_draw, "Bytes of scratch that a draw on a device needs.");
    m.def("scratch_bytes_by_rows", &scratch_bytes_by_rows, "`scratch_bytes_cuda` likewise.");
#ifdef SETTX_HAS_CUDA
    m.def("draw_cuda", &draw_cuda, "`draw` on a device, whose memory holds an image of the prior; does not wait.");
    m.def("evaluate_cuda", &evaluate_cuda, "`evaluate` on a device; does not wait.");
    m.def("scratch_bytes_cuda", &scratch_bytes_cuda, "Bytes of scratch that an evaluation needs.");
#endif

    m.def("path_names", &path_names, "Instruction sets this machine can use, best last.");
    m.def("fill_noise", &fill_noise, "Standardised noise of the first rows of a variable.");
    m.def("apply", &apply, "A function of math.h, element by element.");
    m.def("philox", &philox, "One Philox4x32-10 block.");
}
