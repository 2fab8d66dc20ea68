// The prior as Python hands it over: a dictionary of plain values, read once into memory that outlives every call.
#pragma once
#include <pybind11/pybind11.h>

#include <deque>
#include <utility>
#include <vector>

#include "scm/scm.h"

namespace settx {

class OwnedPrior {
  public:
    explicit OwnedPrior(const pybind11::dict& fields);
    OwnedPrior(const OwnedPrior&) = delete;

    const scm::Prior& prior() const { return prior_; }

    // Writes the prior to `host` as it will be read at `device`; host 0: only the number of bytes.
    int64_t write_image(uintptr_t host, uintptr_t device) const;

  private:
    void read_numbers(const pybind11::dict& fields);
    void read_lists(const pybind11::dict& fields);
    void link_lists();

    scm::Graph as_graph(const pybind11::dict&);
    scm::Mechanism as_mechanism(const pybind11::dict&);
    scm::Intervention as_intervention(const pybind11::dict&);
    scm::Observation as_observation(const pybind11::dict&);

    const scm::Distribution* keep(std::vector<scm::Distribution>);
    const int32_t* keep(std::vector<int32_t>);
    // None gives a null pointer, that is "any".
    std::pair<const int32_t*, int32_t> keep_variables(const pybind11::handle&);

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

}  // namespace settx
