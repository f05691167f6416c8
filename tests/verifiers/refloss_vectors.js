// Reads refloss test vectors (.safetensors) and holds a kernel against them. Node.js without packages, little-endian.
//
//     process.exitCode = verify("arcface.float32.safetensors", kernel);   // 0: right
//
// kernel takes a case and returns an object from stage names to numbers, any of the stages.
// The file is trusted: `refloss vectors --check DIR` says whether it may be.
"use strict";
const fs = require("node:fs");

const STAGES = ["x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss",
    "grad_logits", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha"];

function half(bits) {
    const exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const size = exponent === 31 ? (mantissa ? NaN : Infinity)
        : exponent ? (1024 + mantissa) * 2 ** (exponent - 25) : mantissa * 2 ** -24;
    return bits >> 15 ? -size : size;
}

// A numbers' array of any dtype, exactly: Float32Array of an F32 or BF16, else Float64Array.
function numbers(dtype, bytes) {
    const buffer = new Uint8Array(bytes).buffer;   // a copy, so that it is aligned
    switch (dtype) {
        case "F64": return new Float64Array(buffer);
        case "F32": return new Float32Array(buffer);
        case "I64": return Float64Array.from(new BigInt64Array(buffer), Number);
        case "F16": return Float64Array.from(new Uint16Array(buffer), half);
        case "BF16": return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
        default: throw new Error(`dtype ${dtype}`);
    }
}

class Vectors {
    constructor(path) {
        const bytes = fs.readFileSync(path);
        const length = bytes.length < 8 ? Infinity : Number(bytes.readBigUInt64LE());
        if (length > bytes.length - 8) throw new Error(`${path}: no .safetensors file`);
        this.header = JSON.parse(bytes.toString("utf8", 8, 8 + length));
        this.content = bytes.subarray(8 + length);
        this.metadata = this.header.__metadata__ ?? {};   // schema, loss, dtype, grades, require, ids, parameter.scale …
        this.ids = (this.metadata.ids ?? "").split(" ").filter(Boolean);
        if (!this.ids.length) throw new Error(`${path}: no refloss vectors`);
    }

    // {shape, values}, or undefined
    get(name) {
        if (!Object.hasOwn(this.header, name)) return undefined;
        const { dtype, shape, data_offsets: [begin, end] } = this.header[name];
        if (begin > end || end > this.content.length) throw new Error(`${name}: cut off`);
        return { shape, values: numbers(dtype, this.content.subarray(begin, end)) };
    }
}

class Case {
    constructor(of, id) {
        this.of = of;
        this.id = id;
    }

    // x, W, b or logits, labels, upstream, and every stage; undefined where the case has none
    get(name) {
        return this.of.get(`${this.id}/${name}`);
    }
}

const short = (v, digits) => String(Number(v.toPrecision(digits)));

// "" if the stage is right at this grade, else what is wrong. An entry is right if it is what is due or off by no more
// than its bound; where the bound has one column, the length of the row's error is held against it. A row of `cone`
// points along x or W: of the error across it, so much as the row is long is taken away. Infinity: nothing is due.
function judge(c, stage, got, grade) {
    const want = c.get(stage), bound = c.get(`${stage}/bound_${grade}`), cone = c.get(`${stage}/cone`);
    if (!want) return " is no stage of this loss";
    if (!bound) throw new Error(`${stage}: there are no bounds of grade ${grade}`);
    if (got.length !== want.values.length) return `: ${got.length} numbers, ${want.values.length} are due`;
    const rows = want.shape.length === 2 && String(bound.shape) !== String(want.shape);
    const width = rows ? want.shape[1] : 1;
    for (const [unit, allowed] of bound.values.entries()) {
        let length = 0, radius = 0, along = 0, most = 0, worst = unit * width;   // worst: the entry that is off most
        for (let k = unit * width; k < (unit + 1) * width; ++k) {
            const error = got[k] === want.values[k] ? 0 : got[k] - want.values[k];
            if (Number.isNaN(error) || Math.abs(error) > most) [worst, most] = [k, Math.abs(error)];
            length = rows ? Math.hypot(length, error) : Math.abs(error);
            if (!cone) continue;
            radius = Math.hypot(radius, cone.values[k]);
            along += error * cone.values[k];
        }
        if (radius > 0) {
            const t = along / radius, q = Math.sqrt(Math.max(length * length - t * t, 0));
            length = Math.hypot(t, Math.max(q - radius, 0));
        }
        if (length <= allowed || allowed === Infinity) continue;
        const at = [];
        for (let axis = want.shape.length, rest = worst; axis-- > 0; rest = Math.floor(rest / want.shape[axis]))
            at.unshift(rest % want.shape[axis]);
        return `[${at.join(", ")}] is ${short(got[worst], 9)}, ${short(want.values[worst], 9)} is due: ` +
            `${rows ? "its row is " : ""}off by ${short(length, 2)}, ${short(allowed, 2)} allowed`;
    }
    return "";
}

// Writes what a kernel gave, as float32 (float64 for vectors in float64), for `refloss check --outputs FILE`.
function save(path, vectors, outputs) {
    const wide = vectors.metadata.dtype === "float64", header = {}, data = [];
    let end = 0;
    for (const [id, stages] of outputs)
        for (const [stage, values] of Object.entries(stages)) {
            const array = wide ? Float64Array.from(values) : Float32Array.from(values), begin = end;
            data.push(new Uint8Array(array.buffer));
            end += array.byteLength;
            const shape = vectors.get(`${id}/${stage}`)?.shape ?? [array.length];
            header[`${id}/${stage}`] = { dtype: wide ? "F64" : "F32", shape, data_offsets: [begin, end] };
        }
    const text = Buffer.from(JSON.stringify(header)), padding = Buffer.alloc((8 - text.length % 8) % 8, " ");
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length + padding.length));
    fs.writeFileSync(path, Buffer.concat([length, text, padding, ...data]));
}

// Runs the kernel on every case; prints the first wrong entry of every case. Returns 0 if all is right, else 1.
// outputs: a file for `refloss check --outputs`.
function verify(path, kernel, grade, outputs) {
    const vectors = new Vectors(path), all = [];
    grade ??= vectors.metadata.require;
    let wrong = 0;
    for (const id of vectors.ids) {
        const c = new Case(vectors, id), got = kernel(c);
        all.push([id, got]);
        if (!Object.keys(got).length && ++wrong) console.log(`${id}: no stage came back`);
        for (const stage of [...STAGES, ...Object.keys(got)]) {   // and names that may be none
            const words = stage in got ? judge(c, stage, got[stage], grade) : "";
            if (!words) continue;
            console.log(`${id}: ${stage}${words}`);
            ++wrong;
            break;
        }
    }
    if (outputs) save(outputs, vectors, all);
    console.log(`${path}: ${wrong} of ${all.length} cases wrong at grade ${grade}`);
    return wrong ? 1 : 0;
}

module.exports = { Vectors, Case, judge, save, verify };
