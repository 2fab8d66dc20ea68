#include "paths.h"

namespace settx::scm {

#define SETTX_DECLARE(name) \
    namespace name {        \
    extern const Path PATH; \
    }
SETTX_DECLARE(baseline)
#ifdef SETTX_X86_PATHS
SETTX_DECLARE(avx2)
SETTX_DECLARE(avx512)
#endif

namespace {

struct Found {
    const Path* paths[3] = {&baseline::PATH};
    int count = 1;

    Found() {
#ifdef SETTX_X86_PATHS
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
        paths[count++] = &avx2::PATH;
        if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq")) return;
        if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return;
        paths[count++] = &avx512::PATH;
#endif
    }
};

const Found& found() {
    static const Found found;
    return found;
}

}  // namespace

int num_paths() {
    return found().count;
}

const Path& path(int number) {
    return *found().paths[number];
}

}  // namespace settx::scm
