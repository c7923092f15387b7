// Paged attention. Queries that share keys are handled together, but each query's sums run over the positions in one
// fixed order, so a result depends on the query's position alone: hidden positions add exact zeros.
#pragma once

#include <cmath>

#include "model.hpp"
#include "vectors.hpp"

namespace agentsys {

constexpr int kMostQueries = 6;
constexpr int64_t kAhead = 4;  // runs of 16 positions between a prefetch and its use

// The blocks of one sequence in one layer, seen from one key head.
template <class Cache>
struct Pages {
    const Cache* keys;
    const Cache* values;
    const int32_t* table;
    int64_t block_stride;
    int64_t block_size;
    int64_t head_dim;
};

// One query head of one row: it sees the positions from first to last.
struct Query {
    const float* values;
    float* outputs;
    int64_t first;
    int64_t last;
};

inline Floats hide(Floats scores, const Query& query, int64_t position) {
    const Ints at = Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + static_cast<int32_t>(position);
    const Ints visible = (at >= static_cast<int32_t>(query.first)) & (at <= static_cast<int32_t>(query.last));
    return visible ? scores : all(-INFINITY);
}

// Where a run of 16 positions begins among the keys.
template <class Cache>
inline const Cache* keys_at(const Pages<Cache>& pages, int64_t position) {
    return pages.keys + pages.table[position / pages.block_size] * pages.block_stride + position % pages.block_size;
}

template <class Cache>
inline const Cache* values_at(const Pages<Cache>& pages, int64_t position) {
    return pages.values + pages.table[position / pages.block_size] * pages.block_stride +
           position % pages.block_size * pages.head_dim;
}

// Scores of kQueries at kRuns runs of 16 positions from position on; fetches what is needed soon into the cache.
template <int kQueries, int kRuns, class Cache>
inline void score(
    const Pages<Cache>& pages, const Query* queries, int64_t position, int64_t end, float* scores, int64_t stride) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(pages.head_dim));
    const Cache *keys[kRuns], *later_keys[kRuns], *values[kRuns];
    for (int r = 0; r < kRuns; ++r) {
        const int64_t at = position + r * kLanes, later = at + kAhead * kLanes;
        keys[r] = keys_at(pages, at);
        later_keys[r] = later < end ? keys_at(pages, later) : keys[r];
        values[r] = values_at(pages, at);
    }
    Floats sums[kRuns][kQueries] = {};
    for (int64_t d = 0; d < pages.head_dim; ++d) {
#pragma GCC unroll 2
        for (int r = 0; r < kRuns; ++r) {
            __builtin_prefetch(later_keys[r] + d * pages.block_size);
            __builtin_prefetch(values[r] + d * kLanes, 0, 2);
            const Floats key = load_cache(keys[r] + d * pages.block_size);
#pragma GCC unroll 6
            for (int q = 0; q < kQueries; ++q) sums[r][q] += queries[q].values[d] * key;
        }
    }
    for (int r = 0; r < kRuns; ++r) {
        const int64_t at = position + r * kLanes;
        for (int q = 0; q < kQueries; ++q) store(scores + q * stride + at, hide(sums[r][q] * scale, queries[q], at));
    }
}

// Turn scores into exponentials in place and return 1 / their sum.
inline float soften(float* scores, int64_t count) {
    Floats largest = all(-INFINITY);
    for (int64_t i = 0; i < count; i += kLanes) largest = larger(largest, load<Floats>(scores + i));
    const Floats top = all(maximum(largest));
    Floats total{};
    for (int64_t i = 0; i < count; i += kLanes) {
        const Floats weight = exponential(load<Floats>(scores + i) - top);
        store(scores + i, weight);
        total += weight;
    }
    return 1.0f / sum(total);
}

// Sum the values of positions [begin, end) by their weights, kVectors vectors of the head at a time.
template <int kQueries, int kVectors, class Cache>
inline void mix(
    const Pages<Cache>& pages, const Query* queries, int64_t begin, int64_t end, const float* scores, int64_t stride,
    const float* inverse) {
    for (int64_t d = 0; d < pages.head_dim; d += kVectors * kLanes) {
        Floats sums[kQueries][kVectors] = {};
        for (int64_t position = begin; position < end;) {
            const int64_t block = position / pages.block_size;
            const int64_t stop = (block + 1) * pages.block_size < end ? (block + 1) * pages.block_size : end;
            const Cache* values = values_at(pages, position) + d;
            for (; position < stop; ++position, values += pages.head_dim) {
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) {
                    const Floats value = load_cache(values + v * kLanes);
#pragma GCC unroll 6
                    for (int q = 0; q < kQueries; ++q) sums[q][v] += scores[q * stride + position] * value;
                }
            }
        }
        for (int q = 0; q < kQueries; ++q) {
            for (int v = 0; v < kVectors; ++v) {
                store(queries[q].outputs + d + v * kLanes, sums[q][v] * inverse[q]);
            }
        }
    }
}

template <int kQueries, class Cache>
inline void attend(const Pages<Cache>& pages, const Query* queries, float* scores, int64_t stride) {
    constexpr int kRuns = kQueries <= 3 ? 2 : 1;  // enough independent sums to keep the multipliers busy
    int64_t begin = queries[0].first, end = 0;
    for (int q = 0; q < kQueries; ++q) {
        if (queries[q].first < begin) begin = queries[q].first;
        if (queries[q].last >= end) end = queries[q].last + 1;
    }
    const int64_t origin = begin / kLanes * kLanes;
    int64_t position = origin;
    for (; position + (kRuns - 1) * kLanes < end; position += kRuns * kLanes) {
        score<kQueries, kRuns>(pages, queries, position, end, scores, stride);
    }
    for (; position < end; position += kLanes) score<kQueries, 1>(pages, queries, position, end, scores, stride);
    float inverse[kQueries];
    for (int q = 0; q < kQueries; ++q) inverse[q] = soften(scores + q * stride + origin, position - origin);
    if (pages.head_dim % (4 * kLanes) == 0) {
        mix<kQueries, 4>(pages, queries, begin, end, scores, stride, inverse);
    } else {
        mix<kQueries, 1>(pages, queries, begin, end, scores, stride, inverse);
    }
}

// Any number of queries; scores has room for kMostQueries rows of stride floats.
template <class Cache>
inline void attend_all(const Pages<Cache>& pages, const Query* queries, int64_t count, float* scores, int64_t stride) {
    for (; count >= kMostQueries; count -= kMostQueries, queries += kMostQueries) {
        attend<kMostQueries>(pages, queries, scores, stride);
    }
    switch (count) {
        case 5: return attend<5>(pages, queries, scores, stride);
        case 4: return attend<4>(pages, queries, scores, stride);
        case 3: return attend<3>(pages, queries, scores, stride);
        case 2: return attend<2>(pages, queries, scores, stride);
        case 1: return attend<1>(pages, queries, scores, stride);
        default: return;
    }
}

}  // namespace agentsys
