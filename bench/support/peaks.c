/* peaks.c - a kernel belongs to the lowest level whose table holds the same function; products by tiles fall back to
 * the level below for fewer rows than a tile has. Its peak is that of the best instruction of that level for its codes.
 */
#include "support/peaks.h"
#include <string.h>

enum { TILE_ROWS = 16 };

typedef void (*any_kernel)(void);

static bool starts(const kernel_case *c, const char *prefix) {
    return !strncmp(c->name, prefix, strlen(prefix));
}

static any_kernel kernel_of(const kernel_case *c, const cpu_kernels *k) {
    if (starts(c, "matmul"))
        return (any_kernel)k->matmul[c->type];
    if (starts(c, "dot"))
        return (any_kernel)k->dot[c->type];
    if (starts(c, "low_rank.dots"))
        return (any_kernel)k->low_rank_dots;
    if (starts(c, "low_rank"))
        return (any_kernel)k->low_rank_add;
    if (starts(c, "sparse"))
        return (any_kernel)k->sparse;
    return starts(c, "book") ? (any_kernel)k->book[c->type] : (any_kernel)k->tile[c->type];
}

static cpu_level level_of(const kernel_case *c, const cpu_kernels *kernels, int n_rows) {
    any_kernel wanted = kernel_of(c, kernels);
    for (int l = 0; l < CPU_LEVEL_COUNT; l++) {
        const cpu_kernels *table = cpu_kernels_level(cpu_level_names()[l]);
        if (table && kernel_of(c, table) == wanted)
            return l == CPU_AMX && n_rows < TILE_ROWS ? CPU_AVX512VNNI : (cpu_level)l;
    }
    return CPU_PORTABLE;
}

typedef struct limit {
    const char *codes;
    double (*measure)(cpu_level);
    double ops_per_s[CPU_LEVEL_COUNT];
    bool known[CPU_LEVEL_COUNT];
} limit;

static limit *limit_of(const kernel_case *c) {
    static limit int8 = {"int8", limits_int8, {0}, {0}}, int4 = {"int4", limits_int4, {0}, {0}},
                 f32 = {"f32", limits_f32, {0}, {0}};
    if (starts(c, "matmul.i4") || starts(c, "dot.u4") || starts(c, "dot.u2"))
        return &int4;
    return starts(c, "matmul.i8") || starts(c, "dot") ? &int8 : &f32;
}

peak peak_of_case(const kernel_case *c, const cpu_kernels *kernels, int n_rows) {
    cpu_level level = level_of(c, kernels, n_rows);
    limit *l = limit_of(c);
    if (!l->known[level]) {
        l->known[level] = true;
        l->ops_per_s[level] = l->measure(level);
    }
    return (peak){l->ops_per_s[level], level, l->codes};
}
