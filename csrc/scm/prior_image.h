// A prior with all its arrays in one piece of memory, so that it can be copied to a device at once.
#pragma once
#include <cstring>
#include <vector>

#include "scm.h"

namespace settx::scm {

// Writes to `host` (nullptr: only counts bytes) what will be read at `device`.
class PriorImage {
  public:
    PriorImage(char* host, char* device) : host_(host), device_(device) {}

    int64_t size() const { return size_; }

    // The prior with pointers into `device`.
    Prior add(const Prior& prior) {
        Prior p = prior;
        const int64_t V = prior.num_variables.high;
        p.bias = copy(p.bias, p.bias_per_variable ? V : 1);
        p.noise_scale = copy(p.noise_scale, p.noise_scale_per_variable ? V : 1);
        p.noises = copy(p.noises, p.num_noises);
        p.noise_effects = copy(p.noise_effects, p.num_noise_effects);
        p.graphs = add(p.graphs, p.num_graphs, [&](Graph& graph) {
            graph.edges = copy(graph.edges, 2 * graph.num_edges);
            graph.edge_weights = copy(graph.edge_weights, graph.num_edges);
            graph.order = copy(graph.order, graph.kind == USER_GRAPH ? V : 0);
        });
        p.mechanisms = add(p.mechanisms, p.num_mechanisms, [&](Mechanism& mechanism) {
            mechanism.functions = copy(mechanism.functions, mechanism.num_functions);
            mechanism.factors = add(mechanism.factors, mechanism.num_factors, [&](Mechanism& factor) {
                factor.functions = copy(factor.functions, factor.num_functions);
            });
        });
        const auto named_variables = [&](auto& item) {
            if (item.variables != nullptr) item.variables = copy(item.variables, item.num_variables);
        };
        p.source_interventions = add(p.source_interventions, p.num_source_interventions, named_variables);
        p.target_interventions = add(p.target_interventions, p.num_target_interventions, named_variables);
        p.observations = add(p.observations, p.num_observations, named_variables);
        return p;
    }

  private:
    template <class T>
    const T* copy(const T* items, int64_t count) {
        const int64_t start = (size_ + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        size_ = start + count * int64_t(sizeof(T)) + 1;  // of nothing too: a null pointer has a meaning of its own
        if (host_ != nullptr && count > 0) std::memcpy(host_ + start, items, size_t(count) * sizeof(T));
        return reinterpret_cast<const T*>(device_ + start);
    }

    // Items that have arrays of their own, which `relink` copies.
    template <class T, class Relink>
    const T* add(const T* items, int64_t count, const Relink& relink) {
        std::vector<T> relinked(items, items + count);
        for (T& item : relinked) relink(item);
        return copy(relinked.data(), count);
    }

    static constexpr int64_t ALIGNMENT = 16;
    char *host_, *device_;
    int64_t size_ = 0;
};

}  // namespace settx::scm
