/* peaks.c - a kernel belongs to the lowest level whose table holds the same function; products by tiles fall back to
 * the level below for fewer rows than a tile has. Its peak is that of the best instruction of that level for its codes.
 */
#include "support/peaks.h"

enum { TILE_ROWS = 16 };

typedef void (*any_kernel)(void);

static any_kernel kernel_of(const kernel_case *c, const cpu_kernels *k) {
    switch (c->entry) {
    case ENTRY_TILE:
        return (any_kernel)k->tile[c->type];
    case ENTRY_BOOK:
        return (any_kernel)k->book[c->type];
    case ENTRY_DOT:
        return (any_kernel)k->dot[c->type];
    case ENTRY_LOW_RANK_DOTS:
        return (any_kernel)k->low_rank_dots;
    case ENTRY_LOW_RANK_ADD:
        return (any_kernel)k->low_rank_add;
    case ENTRY_SPARSE:
        return (any_kernel)k->sparse;
    case ENTRY_MATMUL:
        return (any_kernel)k->matmul[c->type];
    case ENTRY_ROW:
        break;
    }
    return NULL;
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

/* Without VNNI a row's two planes of bytes are joined to numbers of 16 bits, and one product by vpmaddwd, which is the
 * instruction of limits_int8 there, does the work of two. */
static double joined_planes(cpu_level level) {
    return 2 * limits_int8(level);
}

static bool joins_planes(cpu_level level) {
    return level == CPU_AVX2 || level == CPU_AVX512;
}

static limit *limit_of(const kernel_case *c, cpu_level level) {
    static limit int16 = {"int16", joined_planes, {0}, {0}}, int8 = {"int8", limits_int8, {0}, {0}},
                 int4 = {"int4", limits_int4, {0}, {0}}, f32 = {"f32", limits_f32, {0}, {0}};
    if (c->entry == ENTRY_BOOK) /* words: vpdpwssd multiplies half as many as vpdpbusd bytes, of which a row has two */
        return joins_planes(level) ? &int16 : &int8;
    if (c->entry == ENTRY_DOT)
        return joins_planes(level) ? &int16 : c->type == CODE_U8 ? &int8 : &int4;
    if (c->entry != ENTRY_MATMUL || pack_is_float((pack_type)c->type))
        return &f32;
    /* codes of 6 bits are multiplied as bytes */
    return pack_parts_of((pack_type)c->type).code == PACK_ROWS * PACK_BLOCK / 2 ? &int4 : &int8;
}

peak peak_of_case(const kernel_case *c, const cpu_kernels *kernels, int n_rows) {
    cpu_level level = level_of(c, kernels, n_rows);
    limit *l = limit_of(c, level);
    if (!l->known[level]) {
        l->known[level] = true;
        l->ops_per_s[level] = l->measure(level);
    }
    return (peak){l->ops_per_s[level], level, l->codes};
}
