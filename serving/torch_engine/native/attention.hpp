// Paged attention, one query position at a time: the order of every sum depends on the position alone.
#pragma once

#include <cmath>

#include "model.hpp"
#include "vectors.hpp"

namespace agentsys {

struct Span {
    const int32_t* table;
    int64_t first;  // oldest visible position
    int64_t last;   // the query's own position
};

template <class Cache>
struct HeadCache {
    const Cache* keys;
    const Cache* values;
    int64_t block_stride;
    int64_t block_size;
    int64_t head_dim;
};

// Scores of kHeads queries that share a key head; scores[h] holds one float per position from the first block on.
template <int kHeads, class Cache>
inline void score(const HeadCache<Cache>& cache, const Span& span, const float* queries, float* scores, int64_t stride) {
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const float scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
    const int64_t origin = span.first / cache.block_size * cache.block_size;
    for (int64_t position = origin; position <= span.last; position += kLanes) {
        const Cache* keys = cache.keys + span.table[position / cache.block_size] * cache.block_stride +
                            position % cache.block_size;
        Floats sums[kHeads] = {};
        for (int64_t d = 0; d < cache.head_dim; ++d) {
            const Floats key = load_cache(keys + d * cache.block_size);
            for (int h = 0; h < kHeads; ++h) sums[h] += queries[h * cache.head_dim + d] * key;
        }
        const Ints at = lane + static_cast<int32_t>(position);
        const Ints visible = (at >= static_cast<int32_t>(span.first)) & (at <= static_cast<int32_t>(span.last));
        for (int h = 0; h < kHeads; ++h) {
            store(scores + h * stride + position - origin, visible ? sums[h] * scale : all(-INFINITY));
        }
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

template <int kHeads, int kVectors, class Cache>
inline void mix(
    const HeadCache<Cache>& cache, const Span& span, const float* scores, int64_t stride, const float* inverse, float* outputs) {
    const int64_t origin = span.first / cache.block_size * cache.block_size;
    for (int64_t d = 0; d < cache.head_dim; d += kVectors * kLanes) {
        Floats sums[kHeads][kVectors] = {};
        for (int64_t position = span.first; position <= span.last; ++position) {
            const Cache* values = cache.values + span.table[position / cache.block_size] * cache.block_stride +
                                  position % cache.block_size * cache.head_dim + d;
            for (int v = 0; v < kVectors; ++v) {
                const Floats value = load_cache(values + v * kLanes);
                for (int h = 0; h < kHeads; ++h) sums[h][v] += scores[h * stride + position - origin] * value;
            }
        }
        for (int h = 0; h < kHeads; ++h) {
            for (int v = 0; v < kVectors; ++v) {
                store(outputs + h * cache.head_dim + d + v * kLanes, sums[h][v] * inverse[h]);
            }
        }
    }
}

template <int kHeads, class Cache>
inline void attend(
    const HeadCache<Cache>& cache, const Span& span, const float* queries, float* outputs, float* scores, int64_t stride) {
    score<kHeads>(cache, span, queries, scores, stride);
    const int64_t origin = span.first / cache.block_size * cache.block_size;
    const int64_t count = (span.last - origin) / kLanes * kLanes + kLanes;
    float inverse[kHeads];
    for (int h = 0; h < kHeads; ++h) inverse[h] = soften(scores + h * stride, count);
    if (cache.head_dim % (4 * kLanes) == 0) {
        mix<kHeads, 4>(cache, span, scores, stride, inverse, outputs);
    } else {
        mix<kHeads, 1>(cache, span, scores, stride, inverse, outputs);
    }
}

// All query heads of one key head, at most four at a time so that their sums stay in registers.
template <class Cache>
inline void attend_group(
    const HeadCache<Cache>& cache, const Span& span, int64_t heads, const float* queries, float* outputs, float* scores,
    int64_t stride) {
    for (; heads > 0; heads -= 4, queries += 4 * cache.head_dim, outputs += 4 * cache.head_dim) {
        if (heads >= 4) attend<4>(cache, span, queries, outputs, scores, stride);
        else if (heads == 3) attend<3>(cache, span, queries, outputs, scores, stride);
        else if (heads == 2) attend<2>(cache, span, queries, outputs, scores, stride);
        else attend<1>(cache, span, queries, outputs, scores, stride);
    }
}

}  // namespace agentsys
