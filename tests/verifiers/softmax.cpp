// A softmax cross-entropy in float32, and the same ten times with a mistake: softmax.cpp FILE [MISTAKE [OUTPUTS]]
#include "refloss_vectors.hpp"

static std::string mistake;
static bool is(const char* name) { return mistake == name; }

static float half(float v) {  // v with 11 bits
    if (v == 0 || !std::isfinite(v)) return v;
    int e;
    std::frexp(v, &e);
    float unit = std::ldexp(1.0f, std::max(e, -13) - 11), r = std::nearbyint(v / unit) * unit;
    return std::fabs(r) > 65504.0f ? std::copysign(INFINITY, v) : r;
}

static refloss::Stages softmax(const refloss::Case& c) {
    if (mistake == "nothing") return {};
    auto tx = c["x"], tW = c["W"], ty = c["labels"];
    size_t N = tx.shape[0], D = tx.shape[1], C = tW.shape[0];
    const float *x = tx.floats(), *W = tW.floats(), *b = c.has("b") ? c["b"].floats() : nullptr;
    const int64_t* y = ty.integers();
    float upstream = is("upstream_ignored") ? 1.0f : c["upstream"].floats()[0];
    std::vector<float> g(N * C), gx(N * D), gW(C * D), gb(C);
    std::vector<double> losses(N);
    double loss = 0;
    for (size_t i = 0; i < N; ++i) {
        size_t label = is("label_off_by_one") ? (size_t(y[i]) + 1) % C : size_t(y[i]);
        std::vector<float> z(C);
        float top = -INFINITY, sum = 0;
        for (size_t j = 0; j < C; ++j) {
            for (size_t d = 0; d < D; ++d) {
                z[j] += x[i * D + d] * (is("transposed") ? W[(j * D + d) % C * D + (j * D + d) / C] : W[j * D + d]);
                if (is("float16_accumulation")) z[j] = half(z[j]);
            }
            if (b) z[j] += b[j];
            if (is("clamp")) z[j] = std::min(std::max(z[j], -10.0f), 10.0f);
            top = std::max(top, z[j]);
        }
        if (is("no_max")) top = 0;
        for (size_t j = 0; j < C; ++j) sum += std::exp(z[j] - top);
        float own = (top - z[label]) + std::log(sum);
        losses[i] = own;
        loss += own / float(N);
        for (size_t j = 0; j < C; ++j) {
            float p = std::exp(z[j] - top) / sum;
            float v = (p - (j == label ? 1.0f : 0.0f)) * upstream / (is("sum_for_mean") ? 1.0f : float(N));
            if (is("zero_gradient")) v = 0;
            if (is("sign")) v = -v;
            if (is("target_only") && j != label) v = 0;
            g[i * C + j] = v;
            gb[j] += v;
            for (size_t d = 0; d < D; ++d) gx[i * D + d] += v * W[j * D + d], gW[j * D + d] += v * x[i * D + d];
        }
    }
    auto wide = [](const std::vector<float>& v) { return std::vector<double>(v.begin(), v.end()); };
    refloss::Stages made{{"losses", losses}, {"loss", {double(float(loss))}}, {"grad_logits", wide(g)},
                         {"grad_x", wide(gx)}, {"grad_W", wide(gW)}};
    if (b) made["grad_b"] = wide(gb);
    return made;
}

int main(int count, char** arguments) {
    if (count > 2) mistake = arguments[2];
    return refloss::verify(arguments[1], softmax, "", count > 3 ? arguments[3] : "");
}
