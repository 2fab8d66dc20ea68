#pragma once
#include <pybind11/pybind11.h>

#include "scm/parallel.h"
#include "without_lock.h"

namespace settx {

struct Listening {
    Listening() { scm::is_interrupted = is_signalled; }
    ~Listening() { scm::is_interrupted = nullptr; }

  private:
    static bool is_signalled() {
        const pybind11::gil_scoped_acquire acquire;
        return PyErr_CheckSignals() != 0;
    }
};

// Without the lock, but not deaf: a signal whose handler raises, as that of Ctrl-C, ends the call.
template <class Call>
void run_interruptibly(const Call& call) {
    try {
        without_lock([&] {
            const Listening listening;
            call();
        });
    } catch (const scm::Interrupted&) {
        throw pybind11::error_already_set();
    }
}

}  // namespace settx
