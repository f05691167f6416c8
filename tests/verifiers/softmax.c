// A softmax cross-entropy in float32, and the same ten times with a mistake: softmax.c FILE [MISTAKE [OUTPUTS]]
#include "refloss_vectors.h"

static const char *mistake = "";
static int is(const char *name) { return !strcmp(mistake, name); }

static float half(float v) {  // v with 11 bits
    if (v == 0 || !isfinite(v)) return v;
    int e;
    frexpf(v, &e);
    float unit = ldexpf(1, (e > -13 ? e : -13) - 11), r = nearbyintf(v / unit) * unit;
    return fabsf(r) > 65504 ? copysignf(INFINITY, v) : r;
}

static void softmax(refloss_case *c) {
    if (is("nothing")) return;
    refloss_tensor tx = refloss_get(c, "x", ""), tW = refloss_get(c, "W", ""), tb = refloss_get(c, "b", "");
    refloss_tensor labels = refloss_get(c, "labels", ""), arriving = refloss_get(c, "upstream", "");
    size_t N = tx.shape[0], D = tx.shape[1], C = tW.shape[0];
    const float *x = tx.data, *W = tW.data, *b = tb.data;
    const int64_t *y = labels.data;
    float upstream = is("upstream_ignored") ? 1 : *(const float *)arriving.data, loss = 0;
    float *z = refloss_new(C * sizeof *z), *gx = refloss_new(N * D * sizeof *gx);
    float *gW = refloss_new(C * D * sizeof *gW), *gb = refloss_new(C * sizeof *gb);
    double *losses = refloss_output(c, "losses"), *grad_logits = refloss_output(c, "grad_logits");
    for (size_t i = 0; i < N; ++i) {
        size_t label = is("label_off_by_one") ? ((size_t)y[i] + 1) % C : (size_t)y[i];
        float top = -INFINITY, sum = 0;
        for (size_t j = 0; j < C; ++j) {
            z[j] = 0;
            for (size_t d = 0; d < D; ++d) {
                z[j] += x[i * D + d] * (is("transposed") ? W[(j * D + d) % C * D + (j * D + d) / C] : W[j * D + d]);
                if (is("float16_accumulation")) z[j] = half(z[j]);
            }
            if (b) z[j] += b[j];
            if (is("clamp")) z[j] = fminf(fmaxf(z[j], -10), 10);
            top = fmaxf(top, z[j]);
        }
        if (is("no_max")) top = 0;
        for (size_t j = 0; j < C; ++j) sum += expf(z[j] - top);
        float own = (top - z[label]) + logf(sum);
        losses[i] = own;
        loss += own / (float)N;
        for (size_t j = 0; j < C; ++j) {
            float v = (expf(z[j] - top) / sum - (j == label)) * upstream / (is("sum_for_mean") ? 1 : (float)N);
            if (is("zero_gradient")) v = 0;
            if (is("sign")) v = -v;
            if (is("target_only") && j != label) v = 0;
            grad_logits[i * C + j] = v;
            gb[j] += v;
            for (size_t d = 0; d < D; ++d) gx[i * D + d] += v * W[j * D + d], gW[j * D + d] += v * x[i * D + d];
        }
    }
    double *grad_x = refloss_output(c, "grad_x"), *grad_W = refloss_output(c, "grad_W");
    double *grad_b = b ? refloss_output(c, "grad_b") : NULL;
    *refloss_output(c, "loss") = loss;
    for (size_t k = 0; k < N * D; ++k) grad_x[k] = gx[k];
    for (size_t k = 0; k < C * D; ++k) grad_W[k] = gW[k];
    for (size_t k = 0; b && k < C; ++k) grad_b[k] = gb[k];
    free(z), free(gx), free(gW), free(gb);
}

int main(int count, char **arguments) {
    if (count > 2) mistake = arguments[2];
    return refloss_verify(arguments[1], softmax, NULL, count > 3 ? arguments[3] : NULL);
}
