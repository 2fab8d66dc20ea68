// Graphs: the causal order and the edges of one dataset.
#include "path_functions.h"
#include "random.h"

namespace settx::scm::SETTX_PATH {
namespace {

struct GraphDraw {
    const Graph& graph;
    uint64_t seed;
    int64_t index, V;
    int32_t n;        // variables of this dataset
    bool* adjacency;  // (V, V), zeroed
    int64_t* order;   // (V,)
    int32_t* scratch;
    float parameters[2];
    int32_t count;
    Team team;

    // Edges by position in the order, from the lower to the higher.
    SETTX_METHOD bool& edge(int32_t from, int32_t to) const { return adjacency[order[from] * V + order[to]]; }

    // Two random words of a position, once `fill_places` was called.
    SETTX_METHOD uint32_t& place(int32_t position, int which) const {
        return reinterpret_cast<uint32_t*>(scratch)[2 * position + which];
    }
};

template <class Integer>
SETTX_CALL void shuffle(Integer* out, int32_t n, Stream stream) {
    for (int32_t i = 0; i < n; ++i) out[i] = i;
    for (int32_t i = n - 1; i > 0; --i) {
        const int32_t j = pick(stream.next(), i + 1);
        const Integer other = out[j];
        out[j] = out[i];
        out[i] = other;
    }
}

#ifdef SETTX_KERNEL
// As `shuffle`, where one number after the other would keep a team waiting. A place is exchanged with one at or below
// it, the last place first. What then lies there is that place's own number, or came from the last place that was
// exchanged with it before: what lay there by then, and so on.
SETTX_CALL void shuffle_order(const GraphDraw& g) {
    int32_t *exchanged_with = g.scratch, *brought_by = exchanged_with + g.n;
    for (int32_t counter = g.team.number; 4 * counter < g.n; counter += g.team.size) {
        Address at = address(g.index, 0, 0, FOR_ORDER);
        at.block = uint32_t(counter);
        const Words w = words_at(at, g.seed);
        const uint32_t words[] = {w.w0, w.w1, w.w2, w.w3};
        for (int32_t i = 0, place = g.n - 1 - 4 * counter; i < 4 && place >= 0; ++i, --place)
            exchanged_with[place] = pick(words[i], place + 1);
    }
    g.team.meet();
    for (int32_t place = g.team.number; place < g.n; place += g.team.size) {
        const int32_t there = exchanged_with[place];
        int32_t to_there = 0, to_here = 0;  // the lowest place above that brings something
        for (int32_t later = g.n - 1; later > place; --later) {
            const int32_t to = exchanged_with[later];
            to_there = to == there ? later : to_there;
            to_here = to == place ? later : to_here;
        }
        brought_by[place] = to_here;
        g.order[place] = to_there;
    }
    g.team.meet();
    for (int32_t place = g.team.number; place < g.n; place += g.team.size) {
        int32_t number = exchanged_with[place];
        for (int32_t by = int32_t(g.order[place]); by > 0; by = brought_by[by]) number = by;
        g.order[place] = number;
    }
}
#else
SETTX_CALL void shuffle_order(const GraphDraw& g) {
    shuffle(g.order, g.n, Stream(address(g.index, 0, 0, FOR_ORDER), g.seed));
}
#endif

SETTX_CALL void fill_places(const GraphDraw& g) {
    for (int32_t position = g.team.number; position < g.n; position += g.team.size) {
        const Words words = words_at(address(g.index, 0, position, FOR_PLACE), g.seed);
        g.place(position, 0) = words.w0;
        g.place(position, 1) = words.w1;
    }
    g.team.meet();
}

// The probability of an edge between two positions, from < to, for graphs whose edges are independent given places.
SETTX_CALL float edge_probability(const GraphDraw& g, int32_t from, int32_t to) {
    switch (g.graph.kind) {
        case ERDOS_RENYI_DEGREE:
            return g.parameters[0] / (0.5f * float(g.n - 1));
        case ERDOS_RENYI_PROBABILITY:
            return g.parameters[0];
        case STOCHASTIC_BLOCK: {
            const bool same = pick(g.place(from, 0), g.count) == pick(g.place(to, 0), g.count);
            return g.parameters[same ? 0 : 1];
        }
        case GEOMETRIC: {
            const float x = unit(g.place(from, 0)) - unit(g.place(to, 0));
            const float y = unit(g.place(from, 1)) - unit(g.place(to, 1));
            return x * x + y * y < g.parameters[0] * g.parameters[0] ? 1.0f : 0.0f;
        }
        case BIPARTITE: {
            const int32_t causes = int32_t(fma(g.parameters[1], float(g.n), 0.5f));
            return from < causes && to >= causes ? g.parameters[0] : 0.0f;
        }
        case LAYERED: {
            const int64_t layers = g.count < g.n ? g.count : g.n;
            return to * layers / g.n == from * layers / g.n + 1 ? g.parameters[0] : 0.0f;
        }
        case PATTERN_CHAIN:
            return to == from + 1 ? 1.0f : 0.0f;
        case PATTERN_FORK:
            return from == 0 ? 1.0f : 0.0f;
        case PATTERN_COLLIDER:
            return to == g.n - 1 ? 1.0f : 0.0f;
    }
    return 0.0f;
}

// Calls four(to, from) for every four edges into a position, from `from` on: the members of the team in turn.
template <class Four>
SETTX_FN void for_each_four(const GraphDraw& g, const Four& four) {
    int32_t to = 1, from = 4 * g.team.number;
    while (true) {
        for (; to < g.n && from >= to; ++to) from -= (to + 3) / 4 * 4;
        if (to >= g.n) return;
        four(to, from);
        from += 4 * g.team.size;
    }
}

// An edge where its word is below threshold(from, to).
template <class Threshold>
SETTX_FN void draw_edges_below(const GraphDraw& g, Threshold threshold) {
    for_each_four(g, [&](int32_t to, int32_t from) {
        Address at = address(g.index, 0, to, FOR_EDGES);
        at.block = uint32_t(from / 4);
        const Words w = words_at(at, g.seed);
        const uint32_t words[] = {w.w0, w.w1, w.w2, w.w3};
        for (int32_t i = 0; i < 4 && from + i < to; ++i) {
            const bool is_edge = words[i] < threshold(from + i, to);
#ifdef SETTX_KERNEL
            if (!is_edge) continue;  // a store is dear; on a CPU a branch that nobody foresees is
#endif
            g.edge(from + i, to) = is_edge;
        }
    });
}

SETTX_CALL void draw_independent_edges(const GraphDraw& g) {
    const auto threshold = [&](int32_t from, int32_t to) {
        return uint64_t(double(clamp(edge_probability(g, from, to), 0.0f, 1.0f)) * 4294967296.0);
    };
    if (g.graph.kind == ERDOS_RENYI_DEGREE || g.graph.kind == ERDOS_RENYI_PROBABILITY) {
        const uint64_t common = g.n > 1 ? threshold(0, 1) : 0;  // a single variable has no degree
        return draw_edges_below(g, [=](int32_t, int32_t) { return common; });
    }
    fill_places(g);
    draw_edges_below(g, threshold);
}

// Each position picks distinct earlier ones, with probability proportional to 1 + their edges so far.
SETTX_CALL void draw_scale_free(const GraphDraw& g) {
    const int32_t wanted = g.count;
    int32_t* degree = g.scratch;
    for (int32_t newer = 0; newer < g.n; ++newer) {
        Stream stream(address(g.index, 0, newer, FOR_EDGES), g.seed);
        degree[newer] = 0;
        const auto joined = [&](int32_t older) -> bool& {
            return g.graph.hubs_in ? g.edge(newer, older) : g.edge(older, newer);
        };
        int32_t mass = 0;
        for (int32_t older = 0; older < newer; ++older) mass += 1 + degree[older];
        for (int32_t chosen = 0; chosen < wanted && chosen < newer; ++chosen) {
            int32_t left = pick(stream.next(), mass), older = 0;
            while (joined(older) || left >= 1 + degree[older]) {
                if (!joined(older)) left -= 1 + degree[older];
                ++older;
            }
            joined(older) = true;
            mass -= 1 + degree[older];
        }
        for (int32_t older = 0; older < newer; ++older) degree[older] += joined(older);
        degree[newer] += wanted < newer ? wanted : newer;
    }
    if (!g.graph.hubs_in) return;
    for (int32_t i = 0; i < g.n / 2; ++i) {  // edges run from newer to older: causes come last, so turn the order
        const int64_t other = g.order[i];
        g.order[i] = g.order[g.n - 1 - i];
        g.order[g.n - 1 - i] = other;
    }
}

// A ring of positions in random order, each joined to `count` neighbours on either side; every edge moves its far end
// with some probability, to a place that is free.
SETTX_CALL void draw_watts_strogatz(const GraphDraw& g) {
    int32_t* ring = g.scratch;
    shuffle(ring, g.n, Stream(address(g.index, 0, 0, FOR_PLACE), g.seed));
    const auto joined = [&](int32_t a, int32_t b) -> bool& { return a < b ? g.edge(a, b) : g.edge(b, a); };
    for (int32_t step = 1; step <= g.count && 2 * step <= g.n; ++step)
        for (int32_t i = 0; i < g.n; ++i) joined(ring[i], ring[(i + step) % g.n]) = true;
    for (int32_t step = 1; step <= g.count && 2 * step < g.n; ++step)
        for (int32_t i = 0; i < g.n; ++i) {
            Stream stream(address(g.index, uint32_t(step), i, FOR_EDGES), g.seed);
            const int32_t here = ring[i], there = ring[(i + step) % g.n];
            if (!(unit(stream.next()) < g.parameters[0])) continue;
            int32_t free = 0;
            for (int32_t other = 0; other < g.n; ++other) free += other != here && !joined(here, other);
            if (free == 0) continue;
            int32_t left = pick(stream.next(), free), chosen = -1;
            while (left >= 0) {
                ++chosen;
                left -= chosen != here && !joined(here, chosen);
            }
            joined(here, there) = false;
            joined(here, chosen) = true;
        }
}

// Every position but the first has one cause, any of the earlier ones.
SETTX_CALL void draw_tree(const GraphDraw& g) {
    fill_places(g);
    for (int32_t to = 1 + g.team.number; to < g.n; to += g.team.size) g.edge(pick(g.place(to, 0), to), to) = true;
}

SETTX_CALL void take_user_graph(const GraphDraw& g) {
    for (int32_t i = 0, position = 0; i < g.V; ++i)
        if (g.graph.order[i] < g.n) g.order[position++] = g.graph.order[i];
    for (int32_t e = 0; e < g.graph.num_edges; ++e)
        g.adjacency[g.graph.edges[2 * e] * g.V + g.graph.edges[2 * e + 1]] = true;
}

SETTX_CALL void draw_edges(const GraphDraw& g) {
    if (g.graph.kind == USER_GRAPH) {
        if (g.team.leads()) take_user_graph(g);
        return;
    }
    shuffle_order(g);
    g.team.meet();
    switch (g.graph.kind) {
        case SCALE_FREE:
            if (g.team.leads()) draw_scale_free(g);
            return;
        case WATTS_STROGATZ:
            if (g.team.leads()) draw_watts_strogatz(g);
            return;
        case TREE:
            return draw_tree(g);
        default:
            return draw_independent_edges(g);
    }
}

}  // namespace

SETTX_CALL void draw_structure(const Graph& graph, uint64_t seed, int64_t index, int32_t n, int64_t V, bool* adjacency,
                               int64_t* order, int32_t* scratch, const Team& team) {
    const auto words = [&](uint32_t block) { return words_at(address(index, block, 0, FOR_SIZES), seed); };
    draw_edges({graph,
                seed,
                index,
                V,
                n,
                adjacency,
                order,
                scratch,
                {draw_number(graph.parameters[0], words(1)), draw_number(graph.parameters[1], words(2))},
                pick(words(3).w0, graph.count),
                team});
    team.meet();
}

}  // namespace settx::scm::SETTX_PATH
