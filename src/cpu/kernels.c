/* kernels.c - the list of levels and the filling of the kernel tables.
 *
 * A table is made by letting every level up to the wanted one write its kernels over those of the levels below. All
 * tables are made once, the first time anyone asks. */
#include "cpu/kernels.h"
#include "base/status.h"
#include "cpu/detect.h"
#include "cpu/fill.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[CPU_LEVEL_COUNT + 1] = {
    [CPU_PORTABLE] = "portable",     [CPU_AVX2] = "avx2", [CPU_AVX2VNNI] = "avx2vnni", [CPU_AVX512] = "avx512",
    [CPU_AVX512VNNI] = "avx512vnni", [CPU_AMX] = "amx",   [CPU_NEON] = "neon",         NULL,
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static cpu_kernels tables[CPU_LEVEL_COUNT];
static bool present[CPU_LEVEL_COUNT];
static char model_name[256];
/* The answer of cpu_kernels_get: a table, or the sentence that says why not. */
static const cpu_kernels *chosen;
static pleat_error refusal;

static void fill_portable(cpu_kernels *k) {
    tile_portable_fill(k);
    dot_portable_fill(k);
    book_portable_fill(k);
    low_rank_portable_fill(k);
    sparse_portable_fill(k);
    ends_portable_fill(k);
    transpose_portable_fill(k);
    softmax_portable_fill(k);
    rows_portable_fill(k);
    matmul_portable_fill(k);
}

#ifdef __x86_64__
static void fill_avx2(cpu_kernels *k) {
    tile_avx2_fill(k);
    dot_avx2_fill(k);
    fold_avx2_fill(k);
    book_avx2_fill(k);
    low_rank_avx2_fill(k);
    sparse_avx2_fill(k);
    ends_avx2_fill(k);
    transpose_avx2_fill(k);
    softmax_avx2_fill(k);
    rows_avx2_fill(k);
    matmul_avx2_fill(k);
    matmul_float_avx2_fill(k);
}

static void fill_avx512(cpu_kernels *k) {
    cpu_features features = cpu_detect_features();
    tile_avx512_fill(k);
    fold_avx512_fill(k);
    low_rank_avx512_fill(k);
    softmax_avx512_fill(k);
    rows_avx512_fill(k);
    matmul_avx512_fill(k);
    matmul_float_avx512_fill(k);
    if (cpu_detect_narrow(&features))
        tile_narrow_avx512_fill(k);
}
#endif

#ifdef __aarch64__
static void fill_neon(cpu_kernels *k) {
    tile_neon_fill(k);
    dot_neon_fill(k);
    fold_neon_fill(k);
    book_neon_fill(k);
    softmax_neon_fill(k);
    rows_neon_fill(k);
    matmul_neon_fill(k);
    matmul_float_neon_fill(k);
}
#endif

static void fill(cpu_kernels *k, cpu_level level) {
    fill_portable(k);
    k->level = names[CPU_PORTABLE];
#ifdef __aarch64__
    if (level == CPU_NEON) {
        fill_neon(k);
        k->level = names[CPU_NEON];
    }
#endif
#ifdef __x86_64__
    if (level >= CPU_AVX2) {
        fill_avx2(k);
        k->level = names[CPU_AVX2];
    }
    if (level == CPU_AVX2VNNI) {
        dot_avx2vnni_fill(k);
        matmul_avx2vnni_fill(k);
        k->level = names[CPU_AVX2VNNI];
    }
    if (level >= CPU_AVX512) {
        fill_avx512(k);
        k->level = names[CPU_AVX512];
    }
    if (level >= CPU_AVX512VNNI) {
        dot_avx512vnni_fill(k);
        book_avx512vnni_fill(k);
        matmul_avx512vnni_fill(k);
        k->level = names[CPU_AVX512VNNI];
    }
    if (level >= CPU_AMX) {
        matmul_amx_fill(k);
        k->level = names[CPU_AMX];
    }
#endif
}

static void list_present(char *out, size_t cap) {
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < CPU_LEVEL_COUNT; i++)
        if (present[i] && n + strlen(names[i]) + 3 < cap) {
            n += (size_t)(stpcpy(stpcpy(out + n, n ? ", " : ""), names[i]) - (out + n));
        }
}

static void choose(void) {
    for (int i = 0; i < CPU_LEVEL_COUNT; i++)
        if (present[i])
            chosen = &tables[i];
    const char *wanted = getenv("PLEAT_CPU");
    if (!wanted || !*wanted)
        return;
    chosen = NULL;
    for (int i = 0; i < CPU_LEVEL_COUNT; i++)
        if (present[i] && strcmp(wanted, names[i]) == 0)
            chosen = &tables[i];
    if (!chosen) {
        char list[128];
        list_present(list, sizeof list);
        err_set(&refusal, PLEAT_EINPUT, "PLEAT_CPU is \"%.40s\", but this machine has these levels: %s.", wanted, list);
    }
}

static void prepare(void) {
    for (int i = 0; i < CPU_LEVEL_COUNT; i++) {
        present[i] = cpu_detect((cpu_level)i);
        if (present[i])
            fill(&tables[i], (cpu_level)i);
    }
    cpu_detect_name(model_name, sizeof model_name);
    choose();
}

pleat_status cpu_kernels_get(const cpu_kernels **out, pleat_error *error) {
    pthread_once(&once, prepare);
    if (!chosen) {
        if (error)
            *error = refusal;
        return PLEAT_EINPUT;
    }
    *out = chosen;
    return PLEAT_OK;
}

const cpu_kernels *cpu_kernels_level(const char *name) {
    pthread_once(&once, prepare);
    for (int i = 0; i < CPU_LEVEL_COUNT; i++)
        if (present[i] && strcmp(name, names[i]) == 0)
            return &tables[i];
    return NULL;
}

const char *const *cpu_level_names(void) {
    return names;
}

const char *cpu_model_name(void) {
    pthread_once(&once, prepare);
    return model_name;
}
