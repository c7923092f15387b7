// A pool whose phases end when their chunks are done, not when every thread has arrived: a thread that the system has
// taken off its core delays nobody unless it holds a chunk, so a busy neighbour cannot stall the whole step.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include <sched.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace agentsys {

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

class Pool {
  public:
    // Where the system grants fewer threads than asked for, those it grants serve.
    explicit Pool(int threads) {
        workers_.reserve(threads < 1 ? 0 : static_cast<size_t>(threads));
        try {
            for (; size_ < threads; ++size_) workers_.emplace_back([this, index = size_] { work(index); });
        } catch (const std::exception&) {
        }
    }

    ~Pool() {
        stopping_.store(true);
        ticket_.fetch_add(kPhase);
        ticket_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    int size() const { return size_; }

    // Call job(chunk, thread) once for each chunk in [0, chunks); return when all calls have returned.
    template <class Job>
    void run(int64_t chunks, Job&& job) {
        if (chunks <= 0) return;
        if (chunks == 1 || size_ == 1) {
            for (int64_t chunk = 0; chunk < chunks; ++chunk) job(chunk, 0);
            return;
        }
        call_ = [](void* context, int64_t chunk, int thread) { (*static_cast<Job*>(context))(chunk, thread); };
        context_ = &job;
        done_.store(0, std::memory_order_relaxed);
        const uint64_t phase = (ticket_.load(std::memory_order_relaxed) / kPhase + 1) * kPhase;
        ticket_.store(phase + static_cast<uint64_t>(chunks), std::memory_order_release);
        ticket_.notify_all();
        while (claim(0)) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) < chunks; ++spins) {
            spins < kSpins ? relax() : static_cast<void>(sched_yield());
        }
    }

  private:
    static constexpr uint64_t kPhase = uint64_t{1} << 32;
    static constexpr int kSpins = 2000;

    // The ticket holds the phase above and the unclaimed chunks below, so a claim cannot mix two phases.
    bool claim(int thread) {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (ticket % kPhase != 0) {
            if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) {
                call_(context_, static_cast<int64_t>(ticket % kPhase) - 1, thread);
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        }
        return false;
    }

    void work(int thread) {
        int spins = 0;
        while (!stopping_.load(std::memory_order_relaxed)) {
            if (claim(thread)) {
                spins = 0;
                continue;
            }
            if (++spins < kSpins) {
                relax();
                continue;
            }
            const uint64_t ticket = ticket_.load(std::memory_order_acquire);
            if (ticket % kPhase == 0 && !stopping_.load()) ticket_.wait(ticket);
            spins = 0;
        }
    }

    int size_ = 1;
    std::vector<std::thread> workers_;
    void (*call_)(void*, int64_t, int) = nullptr;
    void* context_ = nullptr;
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) std::atomic<bool> stopping_{false};
};

}  // namespace agentsys
