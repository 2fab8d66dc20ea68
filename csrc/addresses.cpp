#include "addresses.h"

#include <pybind11/pybind11.h>

#include <string>

namespace settx {
namespace {

// One address after the other, as a pointer of the type it is assigned to.
class Pointers {
  public:
    Pointers(const Addresses& addresses, size_t expected, const char* what) : addresses_(addresses) {
        if (addresses.size() == expected) return;
        throw pybind11::value_error(std::string(what) + ": expected " + std::to_string(expected) + " addresses, got " +
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

}  // namespace

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

}  // namespace settx
