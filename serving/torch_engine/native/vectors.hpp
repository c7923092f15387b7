// Sixteen-lane vectors on the compiler's vector extension: one source for AVX-512, AVX2 and others. Every lane holds one
// output element and is accumulated in one fixed order, which makes results independent of how work is tiled.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace agentsys {

constexpr int64_t kLanes = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));

template <class Vector>
inline Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Vector>
inline void store(void* to, Vector vector) {
    std::memcpy(to, &vector, sizeof vector);
}

inline Floats all(float value) { return Floats{} + value; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline Floats magnitude(Floats a) { return (Floats)((Words)a & 0x7fffffffu); }

// Halves are combined pairwise, so the order is fixed.
template <class Combine>
inline float reduce(Floats vector, Combine combine) {
    float lanes[kLanes];
    store(lanes, vector);
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (int64_t lane = 0; lane < width; ++lane) lanes[lane] = combine(lanes[lane], lanes[lane + width]);
    }
    return lanes[0];
}

inline float sum(Floats vector) {
    return reduce(vector, [](float a, float b) { return a + b; });
}

inline float maximum(Floats vector) {
    return reduce(vector, [](float a, float b) { return a > b ? a : b; });
}

// Round to nearest even for |x| < 2^22.
inline Floats round_even(Floats x) {
    const Floats magic = all(12582912.0f);
    return (x + magic) - magic;
}

// Relative error about 2e-7; 0 below -87. Cody-Waite reduction and the Cephes polynomial.
inline Floats exponential(Floats x) {
    const Floats bounded = larger(x < all(88.0f) ? x : all(88.0f), all(-87.0f));
    const Floats n = round_even(bounded * 1.44269504088896341f);
    const Floats r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
    return x < all(-87.0f) ? Floats{} : p * (Floats)exponent;
}

inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }

struct Half {
    uint16_t bits;
};

inline Floats load_cache(const float* from) { return load<Floats>(from); }

inline void store_cache(float* to, Floats vector) { store(to, vector); }

inline Floats load_cache(const Half* from) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#else
    Floats vector;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        _Float16 half;
        std::memcpy(&half, from + lane, sizeof half);
        vector[lane] = static_cast<float>(half);
    }
    return vector;
#endif
}

inline void store_cache(Half* to, Floats vector) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        const _Float16 half = static_cast<_Float16>(vector[lane]);
        std::memcpy(to + lane, &half, sizeof half);
    }
}

}  // namespace agentsys
