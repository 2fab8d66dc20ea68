// What launches know of a device, whichever it is.
#pragma once
#include <cstdint>

namespace settx::scm {

struct DeviceLimits {
    int64_t shared_per_processor, shared_per_block;  // bytes
    int64_t processors;
    int64_t most_blocks;  // of a launch
};

struct Grid {
    int64_t blocks, threads, shared_bytes;  // threads and bytes of each block
};

}  // namespace settx::scm
