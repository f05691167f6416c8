// Reads refloss test vectors (.safetensors) and holds a kernel against them. C99, no other library, little-endian.
//
//     int wrong = refloss_verify("arcface.float32.safetensors", kernel, NULL, NULL);   // 0: right
//
// kernel takes a refloss_case and fills what refloss_output gives it for any of the stages.
// The file is trusted: `refloss vectors --check DIR` says whether it may be.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REFLOSS_STAGES = 15, REFLOSS_RANK = 8 };
static const char *const refloss_stages[REFLOSS_STAGES] = {
    "x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss",
    "grad_logits", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha"};

typedef struct {
    char dtype[8];   // F64, F32, F16, BF16, I64
    size_t rank, count, shape[REFLOSS_RANK];   // count of the numbers; rows first
    const void *data;   // NULL: there is no such tensor. float of an F32, double of an F64, int64_t of an I64
} refloss_tensor;

typedef struct { char *header, *content; size_t size; } refloss_vectors;   // size: of the content
typedef struct { const refloss_vectors *of; const char *id; double *outputs[REFLOSS_STAGES]; } refloss_case;

static inline void refloss_fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why), exit(2);
}

static inline void *refloss_new(size_t bytes) {
    void *made = calloc(bytes + 1, 1);
    if (!made) refloss_fail("refloss", "out of memory");
    return made;
}

static inline refloss_vectors refloss_open(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) refloss_fail(path, "cannot be read");
    long total = ftell(file);
    uint64_t length = 0;
    rewind(file);
    if (total < 8 || fread(&length, 8, 1, file) != 1 || length > (uint64_t)total - 8)
        refloss_fail(path, "no .safetensors file");
    size_t size = (size_t)total - 8 - length;
    refloss_vectors v = {refloss_new(length), refloss_new(size), size};
    if (fread(v.header, 1, length, file) != length || fread(v.content, 1, size, file) != size)
        refloss_fail(path, "cannot be read");
    fclose(file);
    return v;
}

// schema, loss, dtype, grades, require, ids, parameter.scale, …; "" if it is not there. The caller frees it.
static inline char *refloss_metadata(const refloss_vectors *v, const char *key) {
    char quoted[256];
    snprintf(quoted, sizeof quoted, "\"%s\":\"", key);
    const char *at = strstr(v->header, quoted);
    size_t count = at ? strcspn(at += strlen(quoted), "\"") : 0;
    return count ? memcpy(refloss_new(count), at, count) : refloss_new(0);
}

static inline size_t refloss_numbers(const char *at, size_t *numbers, size_t most) {
    size_t count = 0;
    for (char *end; *at != ']' && count < most; at = end + (*end == ',')) {
        numbers[count++] = strtoull(at, &end, 10);
        if (end == at) refloss_fail("header", "a number is due");
    }
    return count;
}

// name: x, W, b or logits, labels, upstream, and every stage; suffix: "", "/cone", "/bound_C"
static inline refloss_tensor refloss_get(const refloss_case *c, const char *name, const char *suffix) {
    refloss_tensor found = {.count = 1};
    char key[512];
    snprintf(key, sizeof key, "\"%s/%s%s\":{", c->id, name, suffix);
    const char *at = strstr(c->of->header, key);
    if (!at) return found;
    size_t range[2] = {1, 0};
    sscanf(strstr(at, "\"dtype\":\""), "\"dtype\":\"%7[^\"]", found.dtype);
    found.rank = refloss_numbers(strstr(at, "\"shape\":[") + 9, found.shape, REFLOSS_RANK);
    refloss_numbers(strstr(at, "\"data_offsets\":[") + 16, range, 2);
    if (range[1] > c->of->size || range[0] > range[1]) refloss_fail(key, "cut off");
    for (size_t axis = 0; axis < found.rank; ++axis) found.count *= found.shape[axis];
    found.data = c->of->content + range[0];
    return found;
}

// Any dtype as double, exactly.
static inline double refloss_at(const refloss_tensor *t, size_t i) {
    if (!strcmp(t->dtype, "F64")) return ((const double *)t->data)[i];
    if (!strcmp(t->dtype, "F32")) return ((const float *)t->data)[i];
    if (!strcmp(t->dtype, "I64")) return (double)((const int64_t *)t->data)[i];
    uint16_t bits = ((const uint16_t *)t->data)[i];
    uint32_t wide = (uint32_t)bits << 16;
    float brain;
    memcpy(&brain, &wide, 4);
    if (!strcmp(t->dtype, "BF16")) return brain;
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                  : exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return bits >> 15 ? -size : size;
}

// Where the kernel writes this stage: as many numbers as are due, NaN until it does. The loss must have the stage.
static inline double *refloss_output(refloss_case *c, const char *stage) {
    refloss_tensor want = refloss_get(c, stage, "");
    int s = 0;
    while (s < REFLOSS_STAGES && strcmp(stage, refloss_stages[s])) ++s;
    if (!want.data || s == REFLOSS_STAGES) refloss_fail(stage, "is no stage of this loss");
    if (!c->outputs[s]) c->outputs[s] = refloss_new(want.count * sizeof(double));
    for (size_t k = 0; k < want.count; ++k) c->outputs[s][k] = NAN;
    return c->outputs[s];
}

// Prints what is wrong with the stage at this grade; whether anything is. An entry is right if it is what is due or off
// by no more than its bound; where the bound has one column, the length of the row's error is held against it. A row of
// `cone` points along x or W: of the error across it, so much as the row is long is taken away. inf: nothing is due.
static inline int refloss_judge(const refloss_case *c, const char *stage, const double *got, char grade) {
    const char suffix[] = {'/', 'b', 'o', 'u', 'n', 'd', '_', grade, 0};
    refloss_tensor want = refloss_get(c, stage, ""), bound = refloss_get(c, stage, suffix);
    refloss_tensor cone = refloss_get(c, stage, "/cone");
    if (!bound.data) refloss_fail(stage, "there are no bounds of this grade");
    size_t rows = want.rank == 2 && (bound.rank != 2 || bound.shape[1] != want.shape[1]);
    for (size_t unit = 0, width = rows ? want.shape[1] : 1; unit < bound.count; ++unit) {
        double length = 0, radius = 0, along = 0, most = 0, allowed = refloss_at(&bound, unit);
        size_t worst = unit * width;   // of a row the entry that is off most
        for (size_t k = unit * width; k < (unit + 1) * width; ++k) {
            double due = refloss_at(&want, k), error = got[k] == due ? 0 : got[k] - due;
            length = rows ? hypot(length, error) : fabs(error);
            if (cone.data) radius = hypot(radius, refloss_at(&cone, k)), along += error * refloss_at(&cone, k);
            if (isnan(error) || fabs(error) > most) worst = k, most = fabs(error);
        }
        if (radius > 0) {
            double t = along / radius, q = length * length - t * t;
            q = sqrt(q < 0 ? 0 : q) - radius;
            length = hypot(t, q < 0 ? 0 : q);
        }
        if (length <= allowed || isinf(allowed)) continue;
        printf("%s: %s[", c->id, stage);
        for (size_t axis = 0, rest = worst, inner = want.count; axis < want.rank; ++axis, rest %= inner)
            inner /= want.shape[axis], printf(axis ? ", %zu" : "%zu", rest / inner);
        printf("] is %.9g, %.9g is due: %soff by %.2g, %.2g allowed\n", got[worst], refloss_at(&want, worst),
               rows ? "its row is " : "", length, allowed);
        return 1;
    }
    return 0;
}

// Adds what a kernel gave for one case to header and data, as float32 (float64 for vectors in float64).
static inline void refloss_save(const refloss_case *c, int wide, FILE *header, FILE *data) {
    for (int s = 0; s < REFLOSS_STAGES; ++s) {
        if (!c->outputs[s]) continue;
        refloss_tensor want = refloss_get(c, refloss_stages[s], "");
        long begin = ftell(data), first = ftell(header) == 8;
        for (size_t k = 0; k < want.count; ++k) {
            float f = (float)c->outputs[s][k];
            fwrite(wide ? (void *)&c->outputs[s][k] : (void *)&f, wide ? 8 : 4, 1, data);
        }
        fprintf(header, "%s\"%s/%s\":{\"dtype\":\"F%d\",\"shape\":[", first ? "{" : ",", c->id, refloss_stages[s],
                wide ? 64 : 32);
        for (size_t axis = 0; axis < want.rank; ++axis) fprintf(header, axis ? ",%zu" : "%zu", want.shape[axis]);
        fprintf(header, "],\"data_offsets\":[%ld,%ld]}", begin, ftell(data));
    }
}

// Runs the kernel on every case; prints the first wrong entry of every case. Returns 0 if all is right, else 1.
// grade, outputs (a file for `refloss check --outputs`): NULL for the one that is required, and for none.
static inline int refloss_verify(const char *path, void (*kernel)(refloss_case *), const char *grade, const char *outputs) {
    refloss_vectors v = refloss_open(path);
    char *ids = refloss_metadata(&v, "ids"), *require = refloss_metadata(&v, "require"), *id = strtok(ids, " ");
    char *dtype = refloss_metadata(&v, "dtype");
    int wide = !strcmp(dtype, "float64"), wrong = 0, count = 0, given, byte;
    FILE *file = outputs ? fopen(outputs, "wb") : NULL, *data = outputs ? tmpfile() : NULL;
    if (outputs && (!file || !data)) refloss_fail(outputs, "cannot be written");
    if (!id) refloss_fail(path, "no refloss vectors");
    if (file) fwrite("        ", 8, 1, file);   // the header's length, once it is known
    if (!grade) grade = require;
    for (; id; id = strtok(NULL, " "), ++count) {
        refloss_case c = {.of = &v, .id = id};
        kernel(&c);
        for (int s = given = 0; s < REFLOSS_STAGES; ++s)
            if (c.outputs[s] && ++given && refloss_judge(&c, refloss_stages[s], c.outputs[s], *grade)) { ++wrong; break; }
        if (!given && ++wrong) printf("%s: no stage came back\n", id);
        if (file) refloss_save(&c, wide, file, data);
        for (int s = 0; s < REFLOSS_STAGES; ++s) free(c.outputs[s]);
    }
    if (file) {
        fputs(ftell(file) == 8 ? "{}" : "}", file);
        while (ftell(file) % 8) fputc(' ', file);
        uint64_t length = (uint64_t)ftell(file) - 8;
        for (rewind(data); (byte = fgetc(data)) != EOF;) fputc(byte, file);
        rewind(file);
        fwrite(&length, 8, 1, file);
        if (fclose(file) | fclose(data)) refloss_fail(outputs, "cannot be written");
    }
    printf("%s: %d of %d cases wrong at grade %s\n", path, wrong, count, grade);
    free(ids), free(require), free(dtype), free(v.header), free(v.content);
    return wrong ? 1 : 0;
}
