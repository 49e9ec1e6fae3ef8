// Python's lock, left to other threads while kernels run.
#pragma once
#include <Python.h>
#include <unistd.h>

// Taking the lock back while the interpreter shuts down ends a daemon thread (before Python 3.14): PyEval_RestoreThread
// unwinds it, and std::terminate follows at the first destructor or noexcept function. Here the unwinding stops, and
// the thread sleeps until the process is gone, as from 3.14 on. The thread that shuts down gets its lock as ever.
class Unlocked {
  PyThreadState* thread_ = PyEval_SaveThread();

 public:
  Unlocked() = default;
  ~Unlocked() {
    try {
      PyEval_RestoreThread(thread_);
    } catch (...) {
      while (true) pause();  // leaving would be fatal: this exception must not be swallowed
    }
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
};
