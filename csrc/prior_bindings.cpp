#include "prior_bindings.h"

#include <pybind11/stl.h>

#include <tuple>

#include "bindings.h"
#include "scm/prior_image.h"

namespace py = pybind11;

namespace settx {
namespace {

// ---- Plain values ---------------------------------------------------------------------------------------------------

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

scm::Noise as_noise(const py::handle& value) {
    const auto [kind, parameters] = value.cast<std::pair<int32_t, py::object>>();
    const auto given = as_distributions(parameters);
    return {kind, {given.at(0), given.at(1), given.at(2)}};
}

template <class T>
void link(const std::vector<T>& owned, const T** first, int32_t* count) {
    *first = owned.data();
    *count = int32_t(owned.size());
}

}  // namespace

// ---- The prior ------------------------------------------------------------------------------------------------------

OwnedPrior::OwnedPrior(const py::dict& fields) {
    read_numbers(fields);
    read_lists(fields);
    link_lists();
}

int64_t OwnedPrior::write_image(uintptr_t host, uintptr_t device) const {
    scm::PriorImage image(reinterpret_cast<char*>(host), reinterpret_cast<char*>(device));
    image.add(prior_);
    return image.size();
}

void OwnedPrior::read_numbers(const py::dict& fields) {
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
    prior_.needs_pilot = fields["needs_pilot"].cast<bool>();
}

void OwnedPrior::read_lists(const py::dict& fields) {
    const auto bias = as_distributions(fields["bias"]), noise_scale = as_distributions(fields["noise_scale"]);
    prior_.bias_per_variable = bias.size() > 1;
    prior_.bias = keep(bias);
    prior_.noise_scale_per_variable = noise_scale.size() > 1;
    prior_.noise_scale = keep(noise_scale);
    for (const py::handle graph : fields["graphs"]) graphs_.push_back(as_graph(graph.cast<py::dict>()));
    for (const py::handle m : fields["mechanisms"]) mechanisms_.push_back(as_mechanism(m.cast<py::dict>()));
    for (const py::handle noise : fields["noises"]) noises_.push_back(as_noise(noise));
    noise_effects_ = fields["noise_effects"].cast<std::vector<int32_t>>();
    for (const py::handle i : fields["source_interventions"]) sources_.push_back(as_intervention(i.cast<py::dict>()));
    for (const py::handle i : fields["target_interventions"]) targets_.push_back(as_intervention(i.cast<py::dict>()));
    for (const py::handle o : fields["observations"]) observations_.push_back(as_observation(o.cast<py::dict>()));
}

void OwnedPrior::link_lists() {
    link(observations_, &prior_.observations, &prior_.num_observations);
    link(graphs_, &prior_.graphs, &prior_.num_graphs);
    link(mechanisms_, &prior_.mechanisms, &prior_.num_mechanisms);
    link(noises_, &prior_.noises, &prior_.num_noises);
    link(noise_effects_, &prior_.noise_effects, &prior_.num_noise_effects);
    link(sources_, &prior_.source_interventions, &prior_.num_source_interventions);
    link(targets_, &prior_.target_interventions, &prior_.num_target_interventions);
}

// ---- Its parts ------------------------------------------------------------------------------------------------------

scm::Graph OwnedPrior::as_graph(const py::dict& graph) {
    const auto edges = graph["edges"].cast<std::vector<int32_t>>();
    const auto parameters = as_distributions(graph["parameters"]);
    return {graph["kind"].cast<int32_t>(),
            {parameters.at(0), parameters.at(1)},
            as_range(graph["count"]),
            graph["hubs_in"].cast<bool>(),
            keep(edges),
            keep(as_distributions(graph["edge_weights"])),
            keep(graph["order"].cast<std::vector<int32_t>>()),
            int32_t(edges.size() / 2)};
}

scm::Mechanism OwnedPrior::as_mechanism(const py::dict& m) {
    const auto functions = m["functions"].cast<std::vector<int32_t>>();
    std::vector<scm::Mechanism> factors;
    for (const py::handle factor : m["factors"]) factors.push_back(as_mechanism(factor.cast<py::dict>()));
    const auto& kept = factors_.emplace_back(std::move(factors));
    return {m["kind"].cast<int32_t>(), as_range(m["width"]),      as_range(m["depth"]), as_distribution(m["parameter"]),
            keep(functions),           int32_t(functions.size()), kept.data(),          int32_t(kept.size())};
}

scm::Intervention OwnedPrior::as_intervention(const py::dict& i) {
    const auto [variables, count] = keep_variables(i["variables"]);
    return {i["kind"].cast<int8_t>(), as_distribution(i["value"]), variables, count,
            as_range(i["number"]),    i["on_target"].cast<bool>()};
}

scm::Observation OwnedPrior::as_observation(const py::dict& o) {
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

// ---- Memory ---------------------------------------------------------------------------------------------------------

const scm::Distribution* OwnedPrior::keep(std::vector<scm::Distribution> values) {
    return distributions_.emplace_back(std::move(values)).data();
}

const int32_t* OwnedPrior::keep(std::vector<int32_t> values) {
    return numbers_.emplace_back(std::move(values)).data();
}

std::pair<const int32_t*, int32_t> OwnedPrior::keep_variables(const py::handle& variables) {
    if (variables.is_none()) return {nullptr, 0};
    auto given = variables.cast<std::vector<int32_t>>();
    const int32_t count = int32_t(given.size());
    given.push_back(0);  // so that none of them is not a null pointer
    return {keep(std::move(given)), count};
}

// ---- The binding ----------------------------------------------------------------------------------------------------

void bind_prior(py::module_& m) {
    py::class_<OwnedPrior>(m, "Prior")
        .def(py::init<const py::dict&>())
        .def("write_image", &OwnedPrior::write_image,
             "Writes the prior to an address on the host, as read at another; 0: nothing. Returns the bytes it takes.");
}

}  // namespace settx
