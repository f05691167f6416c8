// A softmax cross-entropy in float32, and the same ten times with a mistake: softmax.js FILE [MISTAKE [OUTPUTS]]
"use strict";
const { verify } = require("./refloss_vectors.js");
const [, , file, mistake = "", outputs] = process.argv;
const is = (name) => mistake === name, f32 = Math.fround;

function half(v) {  // v with 11 bits
    if (v === 0 || !Number.isFinite(v)) return v;
    let unit = 2 ** -24;
    while (Math.abs(v) >= 2048 * unit) unit *= 2;
    let r = Math.floor(v / unit), rest = v / unit - r;
    if (rest > 0.5 || (rest === 0.5 && r % 2)) ++r;
    return Math.abs(r * unit) > 65504 ? Math.sign(v) * Infinity : r * unit;
}

function softmax(c) {
    if (is("nothing")) return {};
    const tx = c.get("x"), tW = c.get("W"), [N, D] = tx.shape, C = tW.shape[0];
    const x = tx.values, W = tW.values, b = c.get("b")?.values, labels = c.get("labels").values;
    const upstream = is("upstream_ignored") ? 1 : c.get("upstream").values[0];
    const losses = new Float32Array(N), grad_logits = new Float32Array(N * C), grad_x = new Float32Array(N * D);
    const grad_W = new Float32Array(C * D), grad_b = new Float32Array(C), loss = new Float32Array(1);
    for (let i = 0; i < N; ++i) {
        const label = (labels[i] + (is("label_off_by_one") ? 1 : 0)) % C;
        const z = new Float32Array(C);
        for (let j = 0; j < C; ++j) {
            for (let d = 0; d < D; ++d) {
                const at = j * D + d;
                z[j] += f32(x[i * D + d] * W[is("transposed") ? at % C * D + Math.floor(at / C) : at]);
                if (is("float16_accumulation")) z[j] = half(z[j]);
            }
            if (b) z[j] += b[j];
            if (is("clamp")) z[j] = Math.min(Math.max(z[j], -10), 10);
        }
        const top = is("no_max") ? 0 : Math.max(...z), e = Float32Array.from(z, (v) => Math.exp(f32(v - top)));
        const sum = e.reduce((a, v) => f32(a + v), 0);
        losses[i] = f32(top - z[label]) + f32(Math.log(sum));
        loss[0] += f32(losses[i] / N);
        for (let j = 0; j < C; ++j) {
            let v = f32(f32(f32(e[j] / sum) - (j === label ? 1 : 0)) * upstream);
            if (!is("sum_for_mean")) v = f32(v / N);
            if (is("zero_gradient") || (is("target_only") && j !== label)) v = 0;
            if (is("sign")) v = -v;
            grad_logits[i * C + j] = v;
            grad_b[j] += v;
            for (let d = 0; d < D; ++d) {
                grad_x[i * D + d] += f32(v * W[j * D + d]);
                grad_W[j * D + d] += f32(v * x[i * D + d]);
            }
        }
    }
    return { losses, loss, grad_logits, grad_x, grad_W, ...(b && { grad_b }) };
}

process.exitCode = verify(file, softmax, undefined, outputs);
