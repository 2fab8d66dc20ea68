// What this build can run on: was it built with CUDA, and how many devices the driver shows.
#pragma once
#include <string>

namespace settx {

struct Devices {
    bool built_with_cuda;
    int count;            // 0 without a driver
    std::string problem;  // the runtime's own words when it sees no device
};

Devices find_devices();

}  // namespace settx
