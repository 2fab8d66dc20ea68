#pragma once
#include <pybind11/pybind11.h>

#include <exception>

namespace settx {

// Runs a call without the interpreter's lock. Not by a guard: where the interpreter ends meanwhile, to take the lock
// again ends a thread by unwinding its stack, which a destructor does not let pass.
template <class Call>
void without_lock(const Call& call) {
    std::exception_ptr thrown;
    PyThreadState* const state = PyEval_SaveThread();
    try {
        call();
    } catch (const std::exception&) {
        thrown = std::current_exception();
    }
    PyEval_RestoreThread(state);
    if (thrown) std::rethrow_exception(thrown);
}

}  // namespace settx
