// Reads refloss test vectors (.safetensors) and holds a kernel against them. C++17, no other library, little-endian.
//
//     int wrong = refloss::verify("arcface.float32.safetensors", kernel);   // 0: right
//
// kernel takes a refloss::Case and returns a std::map from stage names to numbers, any of the stages.
// The file is trusted: `refloss vectors --check DIR` says whether it may be.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace refloss {

struct Tensor {
    std::string dtype;           // F64, F32, F16, BF16, I64
    std::vector<size_t> shape;   // rows first
    const unsigned char* data = nullptr;
    size_t count() const { size_t n = 1; for (size_t k : shape) n *= k; return n; }
    const float* floats() const { return reinterpret_cast<const float*>(data); }         // of an F32
    const double* doubles() const { return reinterpret_cast<const double*>(data); }      // of an F64
    const int64_t* integers() const { return reinterpret_cast<const int64_t*>(data); }   // of an I64
    double operator[](size_t i) const {  // any dtype as double, exactly
        if (dtype == "F64") return doubles()[i];
        if (dtype == "F32") return floats()[i];
        if (dtype == "I64") return double(integers()[i]);
        uint16_t bits = reinterpret_cast<const uint16_t*>(data)[i];
        if (dtype == "BF16") { uint32_t wide = uint32_t(bits) << 16; float f; std::memcpy(&f, &wide, 4); return f; }
        int exponent = bits >> 10 & 31, mantissa = bits & 1023;
        double size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
        return bits >> 15 ? -size : size;
    }
};

using Stages = std::map<std::string, std::vector<double>>;
class Vectors;

struct Case {
    const Vectors* of;
    std::string id;
    bool has(const std::string& name) const;
    Tensor operator[](const std::string& name) const;   // x, W, b or logits, labels, upstream, and every stage
};

class Vectors {
public:
    explicit Vectors(const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        if (!file) throw std::runtime_error(path + ": cannot be opened");
        std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        uint64_t length = 0;
        if (bytes.size() >= 8) std::memcpy(&length, bytes.data(), 8);
        if (bytes.size() < 8 || length > bytes.size() - 8) throw std::runtime_error(path + ": no .safetensors file");
        header.assign(bytes.data() + 8, length);
        content.resize((bytes.size() - 8 - length + 7) / 8);   // of doubles, so that everything is aligned
        size = bytes.size() - 8 - length;
        if (size) std::memcpy(content.data(), bytes.data() + 8 + length, size);
        std::istringstream list(metadata("ids"));
        for (std::string id; list >> id;) ids.push_back(id);
        if (ids.empty()) throw std::runtime_error(path + ": no refloss vectors");
    }
    std::vector<std::string> ids;

    // schema, loss, dtype, grades, require, ids, parameter.scale, …
    std::string metadata(const std::string& key) const {
        size_t at = header.find("\"" + key + "\":\"");
        if (at == std::string::npos) return "";
        at += key.size() + 4;
        return header.substr(at, header.find('"', at) - at);
    }
    bool has(const std::string& name) const { return header.find("\"" + name + "\":{") != std::string::npos; }
    Tensor get(const std::string& name) const {
        size_t at = header.find("\"" + name + "\":{");
        if (at == std::string::npos) throw std::runtime_error("no tensor " + name);
        Tensor found;
        at = header.find("\"dtype\":\"", at) + 9;
        found.dtype = header.substr(at, header.find('"', at) - at);
        found.shape = numbers(header.find("\"shape\":[", at) + 9);
        std::vector<size_t> range = numbers(header.find("\"data_offsets\":[", at) + 16);
        if (range.size() != 2 || range[1] > size || range[0] > range[1]) throw std::runtime_error(name + ": cut off");
        found.data = reinterpret_cast<const unsigned char*>(content.data()) + range[0];
        return found;
    }

private:
    std::string header;
    std::vector<double> content;
    size_t size = 0;
    std::vector<size_t> numbers(size_t at) const {
        std::vector<size_t> found;
        for (const char* c = header.c_str() + at; *c && *c != ']'; c += *c == ',')
            found.push_back(std::strtoull(c, const_cast<char**>(&c), 10));
        return found;
    }
};

inline bool Case::has(const std::string& name) const { return of->has(id + "/" + name); }
inline Tensor Case::operator[](const std::string& name) const { return of->get(id + "/" + name); }

// "" if the stage is right at this grade, else what is wrong. An entry is right if it is what is due or off by no more
// than its bound; where the bound has one column, the length of the row's error is held against it. A row of `cone`
// points along x or W: of the error across it, so much as the row is long is taken away. inf: nothing is due.
inline std::string judge(const Case& c, const std::string& stage, const std::vector<double>& got, char grade) {
    Tensor want = c[stage], bound = c[stage + "/bound_" + grade];
    char words[256];
    if (got.size() != want.count()) {
        std::snprintf(words, sizeof words, "%zu numbers, %zu are due", got.size(), want.count());
        return words;
    }
    bool rows = want.shape.size() == 2 && bound.shape != want.shape, cone = c.has(stage + "/cone");
    size_t width = rows ? want.shape[1] : 1;
    for (size_t unit = 0; unit < bound.count(); ++unit) {
        double length = 0, radius = 0, along = 0, most = 0;
        size_t worst = unit * width;   // of a row the entry that is off most
        for (size_t k = unit * width; k < (unit + 1) * width; ++k) {
            double error = got[k] == want[k] ? 0 : got[k] - want[k];
            if (std::isnan(error) || std::fabs(error) > most) worst = k, most = std::fabs(error);
            length = rows ? std::hypot(length, error) : std::fabs(error);
            if (cone) radius = std::hypot(radius, c[stage + "/cone"][k]), along += error * c[stage + "/cone"][k];
        }
        if (radius > 0) {
            double t = along / radius, q = std::sqrt(std::max(length * length - t * t, 0.0));
            length = std::hypot(t, std::max(q - radius, 0.0));
        }
        if (length <= bound[unit] || std::isinf(bound[unit])) continue;
        std::string at;
        for (size_t axis = want.shape.size(), rest = worst; axis-- > 0; rest /= want.shape[axis])
            at = std::to_string(rest % want.shape[axis]) + (at.empty() ? "" : ", ") + at;
        std::snprintf(words, sizeof words, "[%s] is %.9g, %.9g is due: %soff by %.2g, %.2g allowed", at.c_str(),
                      got[worst], want[worst], rows ? "its row is " : "", length, bound[unit]);
        return words;
    }
    return "";
}

// Writes what a kernel gave, as float32 (float64 for vectors in float64), for `refloss check --outputs FILE`.
inline void save(const std::string& path, const Vectors& vectors, const std::map<std::string, Stages>& outputs) {
    bool wide = vectors.metadata("dtype") == "float64";
    std::string header = "{", data;
    for (const auto& [id, stages] : outputs)
        for (const auto& [stage, values] : stages) {
            size_t begin = data.size();
            for (double v : values) {
                float f = float(v);
                data.append(wide ? reinterpret_cast<char*>(&v) : reinterpret_cast<char*>(&f), wide ? 8 : 4);
            }
            std::string shape;
            for (size_t k : vectors.get(id + "/" + stage).shape) shape += (shape.empty() ? "" : ",") + std::to_string(k);
            header += (header.size() > 1 ? ",\"" : "\"") + id + "/" + stage + "\":{\"dtype\":\"" + (wide ? "F64" : "F32") +
                      "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(begin) + "," +
                      std::to_string(data.size()) + "]}";
        }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    uint64_t length = header.size();
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<char*>(&length), 8) << header << data;
}

// Runs the kernel on every case; prints the first wrong entry of every case. Returns 0 if all is right, else 1.
inline int verify(const std::string& path, const std::function<Stages(const Case&)>& kernel, std::string grade = "",
                  const std::string& outputs = "") {
    Vectors vectors(path);
    if (grade.empty()) grade = vectors.metadata("require");
    std::map<std::string, Stages> all;
    int wrong = 0;
    for (const std::string& id : vectors.ids) {
        Case c{&vectors, id};
        Stages got = all[id] = kernel(c);
        if (got.empty() && ++wrong) std::printf("%s: no stage came back\n", id.c_str());
        std::vector<std::string> order = {"x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss",
                               "grad_logits", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha"};
        for (const auto& named : got) order.push_back(named.first);   // and names that may be none
        for (const std::string& stage : order) {
            if (!got.count(stage)) continue;
            std::string words = c.has(stage) ? judge(c, stage, got[stage], grade[0]) : " is no stage of this loss";
            if (words.empty()) continue;
            std::printf("%s: %s%s\n", id.c_str(), stage.c_str(), words.c_str());
            ++wrong;
            break;
        }
    }
    if (!outputs.empty()) save(outputs, vectors, all);
    std::printf("%s: %d of %zu cases wrong at grade %s\n", path.c_str(), wrong, vectors.ids.size(), grade.c_str());
    return wrong ? 1 : 0;
}

}  // namespace refloss
