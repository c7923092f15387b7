// One forward step of a Llama-family model over the rows of a batch.

#include <cstdlib>
#include <memory>
#include <new>

#include "attention.hpp"
#include "linear.hpp"

namespace agentsys {

constexpr int64_t kAlign = 64;

inline int64_t padded(int64_t width) { return (width + 63) / 64 * 64; }

// Aligned scratch memory that only grows; new memory is zero, so padding stays zero.
template <class T>
class Scratch {
  public:
    T* at_least(int64_t count) {
        if (count > count_) {
            const size_t bytes = static_cast<size_t>(padded(count * static_cast<int64_t>(sizeof(T))));
            void* memory = std::aligned_alloc(kAlign, bytes);
            if (memory == nullptr) throw std::bad_alloc();
            std::memset(memory, 0, bytes);
            memory_.reset(static_cast<T*>(memory));
            count_ = count;
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T[], Free> memory_;
    int64_t count_ = 0;
};

class Session {
  public:
    Session(const AgentsysModel& model, int threads) : model_(model), pool_(threads) {}

    void step(const AgentsysBatch& batch) {
        switch (model_.format * 2 + (model_.cache_is_half != 0)) {
            case 0: return forward<Float32Format, float>(batch);
            case 1: return forward<Float32Format, Half>(batch);
            case 2: return forward<BFloat16Format, float>(batch);
            case 3: return forward<BFloat16Format, Half>(batch);
            case 4: return forward<Int8Format, float>(batch);
            default: return forward<Int8Format, Half>(batch);
        }
    }

  private:
    template <class Format, class Cache>
    void forward(const AgentsysBatch& batch);

    template <class Format>
    Inputs prepare(const float* rows, int64_t stride, int64_t count, int64_t width, const float* norm);

    void normalize(const float* row, int64_t width, const float* weights, float* result) const;

    template <class Cache>
    void store_heads(const AgentsysBatch& batch, const AgentsysLayer& layer, int64_t index, float* heads, int64_t stride);

    template <class Cache>
    void attend_rows(
        const AgentsysBatch& batch, const AgentsysLayer& layer, int64_t index, const float* heads, int64_t stride,
        float* outputs, int64_t output_stride);

    void plan(const AgentsysBatch& batch);

    struct Run {
        int64_t row;
        int64_t rows;
    };
    static constexpr int64_t kRunRows = 8;

    template <class Cache>
    Cache* layer_cache(void* base, int64_t index) const {
        return static_cast<Cache*>(base) + index * model_.blocks * model_.kv_heads * model_.head_dim * model_.block_size;
    }

    const AgentsysModel model_;
    Pool pool_;
    std::vector<Run> runs_;
    int64_t longest_ = 0;
    Scratch<int32_t> corrections_;
    Scratch<float> heads_, attended_, inner_, normalized_, prepared_, scales_, scores_, last_;
};

void Session::normalize(const float* row, int64_t width, const float* weights, float* result) const {
    Floats squares{};
    const int64_t end = (width + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < end; i += kLanes) squares += load<Floats>(row + i) * load<Floats>(row + i);
    const float factor = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + model_.epsilon);
    for (int64_t i = 0; i < end; i += kLanes) store(result + i, load<Floats>(row + i) * factor * load<Floats>(weights + i));
}

// Norm (where weights are given) and conversion of rows to the inputs of a product.
template <class Format>
Inputs Session::prepare(const float* rows, int64_t stride, int64_t count, int64_t width, const float* norm) {
    const int64_t out = padded(width), spans = out / kSpan;
    const Inputs inputs{
        prepared_.at_least(count * out), scales_.at_least(count * spans), corrections_.at_least(count * spans), out};
    float* normalized = norm == nullptr ? nullptr : normalized_.at_least(pool_.size() * out);
    pool_.run(count, [&](int64_t row, int thread) {
        const float* source = rows + row * stride;
        if (norm != nullptr) {
            normalize(source, width, norm, normalized + thread * out);
            source = normalized + thread * out;
        }
        prepare_row(Format{}, source, inputs, row);
    });
    return inputs;
}

// Normalise and rotate queries and keys in place; write keys and values to the cache.
template <class Cache>
void Session::store_heads(
    const AgentsysBatch& batch, const AgentsysLayer& layer, int64_t index, float* heads, int64_t stride) {
    const int64_t dim = model_.head_dim, half = dim / 2, block = model_.block_size;
    Cache* keys = layer_cache<Cache>(model_.keys, index);
    Cache* values = layer_cache<Cache>(model_.values, index);
    pool_.run(batch.rows, [&](int64_t row, int) {
        const int64_t position = batch.positions[row];
        const float* cosines = model_.cosines + position * half;
        const float* sines = model_.sines + position * half;
        float* head = heads + row * stride;
        for (int64_t h = 0; h < model_.heads + model_.kv_heads; ++h, head += dim) {
            const float* norm = h < model_.heads ? layer.query_norm : layer.key_norm;
            if (norm != nullptr) normalize(head, dim, norm, head);
            for (int64_t d = 0; d < half; ++d) {
                const float first = head[d], second = head[d + half];
                head[d] = first * cosines[d] - second * sines[d];
                head[d + half] = second * cosines[d] + first * sines[d];
            }
        }
        const float* key = heads + row * stride + model_.heads * dim;
        const float* value = key + model_.kv_heads * dim;
        const int64_t slot = position % block;
        const int64_t home = batch.tables[batch.sequences[row] * batch.table_stride + position / block];
        for (int64_t h = 0; h < model_.kv_heads; ++h, key += dim, value += dim) {
            const int64_t base = (home * model_.kv_heads + h) * dim * block;
            for (int64_t d = 0; d < dim; d += kLanes) {
                Cache converted[kLanes];
                store_cache(converted, load<Floats>(key + d));
                for (int64_t i = 0; i < kLanes; ++i) keys[base + (d + i) * block + slot] = converted[i];
                store_cache(values + base + slot * dim + d, load<Floats>(value + d));
            }
        }
    });
}

template <class Cache>
void Session::attend_rows(
    const AgentsysBatch& batch, const AgentsysLayer& layer, int64_t index, const float* heads, int64_t stride,
    float* outputs, int64_t output_stride) {
    const int64_t dim = model_.head_dim, group = model_.heads / model_.kv_heads;
    const int64_t room = padded(longest_ + 2 * kLanes);
    float* scores = scores_.at_least(pool_.size() * kMostQueries * room);
    pool_.run(static_cast<int64_t>(runs_.size()) * model_.kv_heads, [&](int64_t chunk, int thread) {
        const Run& run = runs_[chunk / model_.kv_heads];
        const int64_t head = chunk % model_.kv_heads, offset = head * dim * model_.block_size;
        const Pages<Cache> pages{
            layer_cache<Cache>(model_.keys, index) + offset, layer_cache<Cache>(model_.values, index) + offset,
            batch.tables + batch.sequences[run.row] * batch.table_stride, model_.kv_heads * dim * model_.block_size,
            model_.block_size, dim};
        Query queries[kMostQueries];
        int64_t count = 0;
        for (int64_t i = 0; i < run.rows * group; ++i) {
            const int64_t row = run.row + i / group, column = (head * group + i % group) * dim;
            const int64_t last = batch.positions[row];
            const int64_t first = layer.window > 0 && last >= layer.window ? last - layer.window + 1 : 0;
            queries[count++] = {heads + row * stride + column, outputs + row * output_stride + column, first, last};
            if (count == kMostQueries || i + 1 == run.rows * group) {
                attend_all(pages, queries, count, scores + thread * kMostQueries * room, room);
                count = 0;
            }
        }
    });
}

// Group neighbouring rows of one sequence, which read the same keys.
void Session::plan(const AgentsysBatch& batch) {
    runs_.clear();
    longest_ = 0;
    for (int64_t row = 0; row < batch.rows; ++row) {
        const bool joins = !runs_.empty() && runs_.back().rows < kRunRows &&
                           batch.sequences[runs_.back().row] == batch.sequences[row];
        if (joins) ++runs_.back().rows;
        else runs_.push_back({row, 1});
        if (batch.positions[row] >= longest_) longest_ = batch.positions[row] + 1;
    }
}

template <class Format, class Cache>
void Session::forward(const AgentsysBatch& batch) {
    plan(batch);
    const int64_t rows = batch.rows, width = model_.hidden_padded;
    const int64_t attention_width = model_.heads * model_.head_dim, attention_stride = padded(attention_width);
    const auto add = [&](int64_t row, int64_t column, Floats left, Floats right) {
        float* to = batch.hidden + row * width + column;
        store(to, load<Floats>(to) + left);
        store(to + kLanes, load<Floats>(to + kLanes) + right);
    };
    for (int64_t index = 0; index < model_.layers; ++index) {
        const AgentsysLayer& layer = model_.layer[index];
        const int64_t stride = padded(layer.query_key_value.outputs);
        float* heads = heads_.at_least(rows * stride);
        float* attended = attended_.at_least(rows * attention_stride);
        Inputs inputs = prepare<Format>(batch.hidden, width, rows, model_.hidden, layer.attention_norm);
        multiply<Format>(pool_, layer.query_key_value, inputs, rows, [&](int64_t row, int64_t column, Floats left, Floats right) {
            store(heads + row * stride + column, left);
            store(heads + row * stride + column + kLanes, right);
        });
        store_heads<Cache>(batch, layer, index, heads, stride);
        attend_rows<Cache>(batch, layer, index, heads, stride, attended, attention_stride);
        inputs = prepare<Format>(attended, attention_stride, rows, attention_width, nullptr);
        multiply<Format>(pool_, layer.output, inputs, rows, add);

        // A tile of gate_up holds 16 gate columns and the 16 up columns that belong to them.
        const int64_t inner_width = layer.gate_up.outputs / 2, inner_stride = padded(inner_width);
        float* inner = inner_.at_least(rows * inner_stride);
        inputs = prepare<Format>(batch.hidden, width, rows, model_.hidden, layer.feed_forward_norm);
        multiply<Format>(pool_, layer.gate_up, inputs, rows, [&](int64_t row, int64_t column, Floats gate, Floats up) {
            store(inner + row * inner_stride + column / 2, silu(gate) * up);
        });
        inputs = prepare<Format>(inner, inner_stride, rows, inner_width, nullptr);
        multiply<Format>(pool_, layer.down, inputs, rows, add);
    }
    if (batch.wanted_rows == 0) return;
    float* last = last_.at_least(batch.wanted_rows * width);
    for (int64_t i = 0; i < batch.wanted_rows; ++i) {
        std::memcpy(last + i * width, batch.hidden + batch.wanted[i] * width, static_cast<size_t>(width) * sizeof(float));
    }
    const Inputs inputs = prepare<Format>(last, width, batch.wanted_rows, model_.hidden, model_.norm);
    multiply<Format>(pool_, model_.head, inputs, batch.wanted_rows, [&](int64_t row, int64_t column, Floats left, Floats right) {
        store(batch.logits + row * model_.head.outputs + column, left);
        store(batch.logits + row * model_.head.outputs + column + kLanes, right);
    });
}

}  // namespace agentsys

extern "C" {

// Null when memory ran out.
void* agentsys_open(const AgentsysModel* model, int64_t threads) {
    try {
        return new agentsys::Session(*model, static_cast<int>(threads));
    } catch (...) {  // an exception must not reach C
        return nullptr;
    }
}

// 0 on success, 1 when memory ran out.
int agentsys_step(void* session, const AgentsysBatch* batch) {
    try {
        static_cast<agentsys::Session*>(session)->step(*batch);
        return 0;
    } catch (...) {  // nothing but std::bad_alloc is thrown
        return 1;
    }
}

void agentsys_close(void* session) { delete static_cast<agentsys::Session*>(session); }
}
