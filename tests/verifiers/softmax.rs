// A softmax cross-entropy in float32, and the same ten times with a mistake: softmax.rs FILE [MISTAKE [OUTPUTS]]
mod refloss_vectors;
use refloss_vectors::{Case, Stages, status, verify};

fn half(v: f32) -> f32 { // v with 11 bits
    if v == 0.0 || !v.is_finite() {
        return v;
    }
    let exponent = (v.abs().to_bits() >> 23) as i32 - 126; // v < 2^exponent; of a subnormal number below -13 as well
    let unit = 2f32.powi(exponent.max(-13) - 11);
    let shift = 12582912.0; // 1.5 * 2^23: the sum has no digits behind the point
    let rounded = ((v / unit + shift) - shift) * unit;
    if rounded.abs() > 65504.0 { f32::INFINITY.copysign(v) } else { rounded }
}

fn softmax(case: &Case, mistake: &str) -> Stages {
    let is = |name: &str| mistake == name;
    if is("nothing") {
        return Stages::new();
    }
    let (tx, tw) = (case.get("x"), case.get("W"));
    let (n, d, c) = (tx.shape[0], tx.shape[1], tw.shape[0]);
    let (x, w, b) = (tx.floats(), tw.floats(), case.find("b").map(|b| b.floats()));
    let labels = case.get("labels").values;
    let upstream = if is("upstream_ignored") { 1.0 } else { case.get("upstream").floats()[0] };
    let (mut g, mut gx, mut gw, mut gb) = (vec![0f32; n * c], vec![0f32; n * d], vec![0f32; c * d], vec![0f32; c]);
    let (mut losses, mut loss) = (Vec::new(), 0f32);
    for i in 0..n {
        let label = (labels[i] as usize + usize::from(is("label_off_by_one"))) % c;
        let mut z = vec![0f32; c];
        for j in 0..c {
            for k in 0..d {
                let at = if is("transposed") { (j * d + k) % c * d + (j * d + k) / c } else { j * d + k };
                z[j] += x[i * d + k] * w[at];
                if is("float16_accumulation") {
                    z[j] = half(z[j]);
                }
            }
            if let Some(b) = &b {
                z[j] += b[j];
            }
            if is("clamp") {
                z[j] = z[j].clamp(-10.0, 10.0);
            }
        }
        let top = if is("no_max") { 0.0 } else { z.iter().fold(f32::NEG_INFINITY, |a, &v| a.max(v)) };
        let sum: f32 = z.iter().map(|v| (v - top).exp()).sum();
        let own = (top - z[label]) + sum.ln();
        losses.push(f64::from(own));
        loss += own / n as f32;
        for j in 0..c {
            let (p, target) = ((z[j] - top).exp() / sum, j == label);
            let mut v = (p - f32::from(u8::from(target))) * upstream / if is("sum_for_mean") { 1.0 } else { n as f32 };
            if is("zero_gradient") || is("target_only") && !target {
                v = 0.0;
            }
            if is("sign") {
                v = -v;
            }
            g[i * c + j] = v;
            gb[j] += v;
            for k in 0..d {
                gx[i * d + k] += v * w[j * d + k];
                gw[j * d + k] += v * x[i * d + k];
            }
        }
    }
    let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
    let mut made = vec![("losses", losses), ("loss", vec![f64::from(loss)]), ("grad_logits", wide(g))];
    made.extend([("grad_x", wide(gx)), ("grad_W", wide(gw))]);
    if b.is_some() {
        made.push(("grad_b", wide(gb)));
    }
    made
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let mistake = arguments.get(2).map_or("", String::as_str);
    status(verify(&arguments[1], |case| softmax(case, mistake), None, arguments.get(3).map(String::as_str)))
}
