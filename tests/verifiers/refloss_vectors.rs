// Reads refloss test vectors (.safetensors) and holds a kernel against them. Rust without crates.
//
//     let wrong = refloss_vectors::verify("arcface.float32.safetensors", kernel, None, None);   // Ok(false): right
//
// kernel takes a Case and returns pairs of stage names and numbers, any of the stages.
// The file is trusted: `refloss vectors --check DIR` says whether it may be.
#![allow(dead_code)]
use std::{error::Error, fs, process::ExitCode};

pub type Stages = Vec<(&'static str, Vec<f64>)>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const STAGES: [&str; 15] = [
    "x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss",
    "grad_logits", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha",
];

pub struct Tensor {
    pub shape: Vec<usize>, // rows first
    pub values: Vec<f64>,  // of any dtype, exactly
}

impl Tensor {
    pub fn floats(&self) -> Vec<f32> { self.values.iter().map(|&v| v as f32).collect() }
}

pub struct Vectors {
    header: String,
    content: Vec<u8>,
}

pub struct Case<'a> {
    of: &'a Vectors,
    pub id: &'a str,
}

impl Case<'_> {
    // x, W, b or logits, labels, upstream, and every stage; None where the case has none
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.of.find(&format!("{}/{name}", self.id))
    }
    pub fn get(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("{}: there is no tensor {name}", self.id))
    }
}

fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        31 => if mantissa > 0.0 { f64::NAN } else { f64::INFINITY },
        0 => mantissa * 2f64.powi(-24),
        _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

impl Vectors {
    pub fn open(path: &str) -> Result<Self> {
        let mut header = fs::read(path)?;
        let length = header.get(..8).and_then(|b| usize::try_from(u64::from_le_bytes(b.try_into().unwrap())).ok());
        let length = length.filter(|&n| n <= header.len() - 8).ok_or(format!("{path}: no .safetensors file"))?;
        let content = header.split_off(8 + length);
        let vectors = Vectors { header: String::from_utf8(header.split_off(8))?, content };
        if vectors.metadata("ids").is_empty() { Err(format!("{path}: no refloss vectors"))? }
        Ok(vectors)
    }

    // schema, loss, dtype, grades, require, ids, parameter.scale, …
    pub fn metadata(&self, key: &str) -> &str {
        let after = self.header.split_once(&format!("\"{key}\":\""));
        after.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("")
    }

    pub fn find(&self, name: &str) -> Option<Tensor> {
        let (_, entry) = self.header.split_once(&format!("\"{name}\":{{"))?;
        let list = |key: &str| -> Vec<usize> {
            let (_, rest) = entry.split_once(&format!("\"{key}\":[")).unwrap();
            let inside = rest.split(']').next().unwrap();
            inside.split(',').filter(|n| !n.is_empty()).map(|n| n.trim().parse().unwrap()).collect()
        };
        let range = list("data_offsets");
        let data = &self.content.get(range[0]..range[1]).unwrap_or_else(|| panic!("{name}: cut off"));
        let dtype = entry.split_once("\"dtype\":\"").unwrap().1.split('"').next().unwrap();
        let width = match dtype { "F64" | "I64" => 8, "F32" => 4, "F16" | "BF16" => 2, _ => panic!("{name}: {dtype}") };
        let number = |b: &[u8]| match dtype {
            "F64" => f64::from_le_bytes(b.try_into().unwrap()),
            "F32" => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
            "I64" => i64::from_le_bytes(b.try_into().unwrap()) as f64,
            "BF16" => f64::from(f32::from_le_bytes([0, 0, b[0], b[1]])),
            _ => half(u16::from_le_bytes(b.try_into().unwrap())),
        };
        Some(Tensor { shape: list("shape"), values: data.chunks_exact(width).map(number).collect() })
    }
}

// What is wrong with the stage at this grade, if anything is. An entry is right if it is what is due or off by no more
// than its bound; where the bound has one column, the length of the row's error is held against it. A row of `cone`
// points along x or W: of the error across it, so much as the row is long is taken away. inf: nothing is due.
pub fn judge(case: &Case, stage: &str, got: &[f64], grade: &str) -> Option<String> {
    let want = match case.find(stage) { Some(want) => want, None => return Some(" is no stage of this loss".into()) };
    let (bound, cone) = (case.get(&format!("{stage}/bound_{grade}")), case.find(&format!("{stage}/cone")));
    if got.len() != want.values.len() {
        return Some(format!(": {} numbers, {} are due", got.len(), want.values.len()));
    }
    let rows = want.shape.len() == 2 && bound.shape != want.shape;
    let width = if rows { want.shape[1] } else { 1 };
    let off = |k: usize| if got[k] == want.values[k] { 0.0 } else { got[k] - want.values[k] };
    for (unit, &allowed) in bound.values.iter().enumerate() {
        let (mut length, mut radius, mut along) = (0f64, 0f64, 0f64);
        let mut worst = unit * width; // of a row the entry that is off most
        for k in unit * width..(unit + 1) * width {
            length = if rows { length.hypot(off(k)) } else { off(k).abs() };
            if let Some(cone) = &cone {
                radius = radius.hypot(cone.values[k]);
                along += off(k) * cone.values[k];
            }
            if off(k).is_nan() || off(k).abs() > off(worst).abs() { worst = k }
        }
        if radius > 0.0 {
            let t = along / radius;
            let q = (length * length - t * t).max(0.0).sqrt(); // of NaN 0, but then t is NaN
            length = t.hypot((q - radius).max(0.0));
        }
        if length <= allowed || allowed.is_infinite() {
            continue;
        }
        let (mut at, mut rest) = (Vec::new(), worst);
        for &n in want.shape.iter().rev() {
            at.insert(0, (rest % n).to_string());
            rest /= n;
        }
        return Some(format!(
            "[{}] is {:?}, {:?} is due: {}off by {length:.1e}, {allowed:.1e} allowed",
            at.join(", "), got[worst], want.values[worst], if rows { "its row is " } else { "" }
        ));
    }
    None
}

// Writes what a kernel gave, as float32 (float64 for vectors in float64), for `refloss check --outputs FILE`.
pub fn save(path: &str, vectors: &Vectors, outputs: &[(&str, Stages)]) -> Result<()> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let wide = vectors.metadata("dtype") == "float64";
    for (id, stages) in outputs {
        for (stage, values) in stages {
            let (begin, name) = (data.len(), format!("{id}/{stage}"));
            for &v in values {
                if wide { data.extend(v.to_le_bytes()) } else { data.extend((v as f32).to_le_bytes()) }
            }
            let shape = vectors.find(&name).map_or(vec![values.len()], |t| t.shape);
            let (dtype, end) = (if wide { "F64" } else { "F32" }, data.len());
            let range = format!("[{begin},{end}]");
            entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{range}}}"#));
        }
    }
    let mut header = format!("{{{}}}", entries.join(","));
    header += &" ".repeat((8 - header.len() % 8) % 8);
    let length = (header.len() as u64).to_le_bytes();
    Ok(fs::write(path, [&length[..], header.as_bytes(), &data[..]].concat())?)
}

// Runs the kernel on every case; prints the first wrong entry of every case. Whether any is wrong.
// grade: None for the one that is required; outputs: a file for `refloss check --outputs`.
pub fn verify<K>(path: &str, kernel: K, grade: Option<&str>, outputs: Option<&str>) -> Result<bool>
where K: Fn(&Case) -> Stages {
    let vectors = Vectors::open(path)?;
    let grade = grade.unwrap_or(vectors.metadata("require"));
    let (mut all, mut wrong) = (Vec::new(), 0);
    for id in vectors.metadata("ids").split(' ') {
        let case = Case { of: &vectors, id };
        let got = kernel(&case);
        // the stages in their order, then names that may be none
        let first = STAGES.iter().chain(got.iter().map(|(name, _)| name)).find_map(|stage| {
            let (_, values) = got.iter().find(|(name, _)| name == stage)?;
            Some(format!("{id}: {stage}{}", judge(&case, stage, values, grade)?))
        });
        let first = first.or_else(|| got.is_empty().then(|| format!("{id}: no stage came back")));
        if let Some(words) = first {
            println!("{words}");
            wrong += 1;
        }
        all.push((id, got));
    }
    if let Some(outputs) = outputs {
        save(outputs, &vectors, &all)?;
    }
    println!("{path}: {wrong} of {} cases wrong at grade {grade}", all.len());
    Ok(wrong > 0)
}

// The exit status of a program: 0 right, 1 wrong, 2 no answer.
pub fn status(verdict: Result<bool>) -> ExitCode {
    let code = verdict.map(u8::from).unwrap_or_else(|error| {
        eprintln!("{error}");
        2
    });
    ExitCode::from(code)
}
