/* test_kernels.c - every entry of the table of kernels, at every level of this machine, against the portable one: all
 * lengths, all offsets that a kernel must bear, with a page without access behind or before each operand. And how a
 * level is found, lowered and refused. Beside the levels stand two that few machines have, in a form that more can run:
 * avx2vnni with its instruction as AVX-512 encodes it, and amx with its tile instructions in plain C; and avx512 with
 * the tile products of either width, of which a machine uses one. */
#include "cpu/detect.h"
#include "support/env.h"
#include "support/kernel_cases.h"
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __aarch64__
#include <sys/auxv.h>
#endif
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>
#ifdef __x86_64__
#include "cpu/fill.h"
#include "support/x86/evex.h"
#include "support/x86/tiles.h"
#endif

/* ---- operands between guard pages ---- */

enum { GUARD = 4096, CANARY = 0xa5, CANARY_BYTES = 192, MOST_BYTES = 1 << 20 };

static uint8_t *guarded[KERNEL_BUFFERS]; /* MOST_BYTES each, inaccessible pages around */

static void map_guarded(void) {
    for (int i = 0; i < KERNEL_BUFFERS && !guarded[KERNEL_BUFFERS - 1]; i++) {
        uint8_t *map = mmap(NULL, MOST_BYTES + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(map, MAP_FAILED);
        assert_int_equal(mprotect(map + GUARD, MOST_BYTES, PROT_READ | PROT_WRITE), 0);
        guarded[i] = map + GUARD;
    }
}

typedef struct operands {
    kernel_buffer shape[KERNEL_BUFFERS];
    void *at[KERNEL_BUFFERS];
    bool placed; /* in guarded memory, not owned */
} operands;

static size_t bytes_of(const kernel_buffer *b) {
    return b->n * kernel_element_bytes(b->element);
}

static operands operands_new(const kernel_case *c, const kernel_size *s) {
    operands o = {0};
    c->layout(c, s, o.shape);
    for (int i = 0; i < KERNEL_BUFFERS && o.shape[i].n; i++) {
        o.at[i] = aligned_alloc(64, (bytes_of(&o.shape[i]) + 63) / 64 * 64);
        assert_non_null(o.at[i]);
    }
    return o;
}

static void operands_free(operands *o) {
    for (int i = 0; i < KERNEL_BUFFERS && !o->placed; i++)
        free(o->at[i]);
}

static operands operands_copy(const operands *from, const kernel_case *c, const kernel_size *s) {
    operands o = operands_new(c, s);
    for (int i = 0; i < KERNEL_BUFFERS && o.shape[i].n; i++)
        memcpy(o.at[i], from->at[i], bytes_of(&o.shape[i]));
    return o;
}

/* offset 0: the last byte stands against the guard page (as far as alignment lets it); -1: the first byte does; k > 0:
 * k steps of its alignment from the start. Bytes around it are canaries. */
static operands operands_place(const operands *from, int offset) {
    operands o = *from;
    o.placed = true;
    for (int i = 0; i < KERNEL_BUFFERS && o.shape[i].n; i++) {
        size_t bytes = bytes_of(&o.shape[i]), align = (size_t)o.shape[i].align;
        assert_true(bytes + 16 * align + CANARY_BYTES < MOST_BYTES);
        size_t start = offset > 0 ? (size_t)offset * align : offset < 0 ? 0 : (MOST_BYTES - bytes) / align * align;
        size_t low = start < CANARY_BYTES ? 0 : start - CANARY_BYTES, high = start + bytes + CANARY_BYTES;
        memset(guarded[i] + low, CANARY, (high < MOST_BYTES ? high : MOST_BYTES) - low);
        o.at[i] = guarded[i] + start;
        memcpy(o.at[i], from->at[i], bytes);
    }
    return o;
}

static void check_canaries(const operands *o, const char *what) {
    for (int i = 0; i < KERNEL_BUFFERS && o->shape[i].n; i++) {
        const uint8_t *from = o->at[i], *to = from + bytes_of(&o->shape[i]);
        for (const uint8_t *p = from; p > guarded[i] && p > from - CANARY_BYTES; p--)
            if (p[-1] != CANARY)
                fail_msg("%s writes %zd bytes before operand %d", what, from - (p - 1), i);
        for (const uint8_t *p = to; p < guarded[i] + MOST_BYTES && p < to + CANARY_BYTES; p++)
            if (*p != CANARY)
                fail_msg("%s writes %zd bytes behind operand %d", what, p - to + 1, i);
    }
}

static void check_operand(const kernel_case *c, const kernel_buffer *b, const void *got, const void *wanted,
                          const void *magnitude, const char *what) {
    if (b->scratch || !memcmp(got, wanted, bytes_of(b)))
        return;
    if (c->rule == KERNEL_BITS || b->element != KERNEL_F32 || !b->out)
        fail_msg("%s: an operand that must be equal differs", what);
    const float *x = got, *y = wanted, *m = magnitude;
    for (size_t i = 0; i < b->n; i++) {
        float bound = 1e-5f * (c->rule == KERNEL_SUM ? fabsf(m[i]) : fabsf(y[i])) + 1e-30f;
        if (memcmp(&x[i], &y[i], sizeof(*x)) && !(fabsf(x[i] - y[i]) <= bound))
            fail_msg("%s: element %zu is %.9g; portable gives %.9g, %.3g apart are allowed", what, i, (double)x[i],
                     (double)y[i], (double)bound);
    }
}

static void check_operands(const kernel_case *c, const operands *got, const operands *wanted, const operands *magnitude,
                           const char *what) {
    for (int i = 0; i < KERNEL_BUFFERS && got->shape[i].n; i++)
        check_operand(c, &got->shape[i], got->at[i], wanted->at[i], magnitude->at[i], what);
}

/* ---- the tables ---- */

typedef struct tested {
    const char *name;
    const cpu_kernels *kernels;
} tested;
enum { MOST_TESTED = 16 };

#ifdef __x86_64__
/* avx512 with the tile products for one width of execution or the other; NULL where AVX-512 is not. */
static const cpu_kernels *tiles_of_width(bool narrow) {
    static cpu_kernels tables[2];
    const cpu_kernels *base = cpu_kernels_level("avx512");
    if (!base)
        return NULL;
    tables[narrow] = *base;
    tile_avx512_fill(&tables[narrow]);
    if (narrow)
        tile_narrow_avx512_fill(&tables[narrow]);
    return &tables[narrow];
}
#endif

static int tested_tables(tested list[MOST_TESTED]) {
    int n = 0;
    for (int l = 0; cpu_level_names()[l]; l++)
        list[n++] = (tested){cpu_level_names()[l], cpu_kernels_level(cpu_level_names()[l])};
#ifdef __x86_64__
    list[n++] = (tested){"avx2vnni in AVX-512's encoding", evex_level()};
    list[n++] = (tested){"amx, emulated", tiles_emulated_level()};
    list[n++] = (tested){"avx512, wide tiles", tiles_of_width(false)};
    list[n++] = (tested){"avx512, narrow tiles", tiles_of_width(true)};
#endif
    int n_here = 0;
    for (int i = 0; i < n; i++)
        if (list[i].kernels)
            list[n_here++] = list[i];
    return n_here;
}

/* ---- the cases ---- */

static void run_all(const cpu_kernels *kernels, const kernel_case *c, const kernel_size *s, const operands *o) {
    c->run(kernels, c, s, 0, s->n_rows, o->at);
    if (c->extract)
        c->extract(s, o->at);
}

static void check_size(const kernel_case *c, const kernel_size *s, uint64_t seed) {
    const cpu_kernels *portable = cpu_kernels_level("portable");
    operands master = operands_new(c, s);
    c->fill(c, s, seed, false, master.at);
    operands wanted = operands_copy(&master, c, s), magnitude = operands_new(c, s);
    c->fill(c, s, seed, true, magnitude.at);
    run_all(portable, c, s, &wanted);
    if (c->rule == KERNEL_SUM)
        run_all(portable, c, s, &magnitude);
    tested list[MOST_TESTED];
    int n_tested = tested_tables(list);
    for (int l = 0; l < n_tested; l++) {
        for (int place = 0; place < 3; place++) {
            char what[160];
            int offset = place == 2 ? 1 + (int)(seed % 15) : -place;
            snprintf(what, sizeof(what), "%s of %s (n %d, rows %d, out %d, variant %d, offset %d)", c->name,
                     list[l].name, s->n, s->n_rows, s->n_out, s->variant, offset);
            operands placed = operands_place(&master, offset);
            run_all(list[l].kernels, c, s, &placed);
            check_operands(c, &placed, &wanted, &magnitude, what);
            check_canaries(&placed, what);
        }
    }
    operands_free(&master);
    operands_free(&wanted);
    operands_free(&magnitude);
}

static int nth(int step, int most, int i) {
    return step + i % ((most - step) / step + 1) * step;
}

/* A case's i-th length with other dimensions and another variant in each round. */
static kernel_size size_of(const kernel_case *c, int i, int round) {
    return (kernel_size){.n = nth(c->step.n, c->most.n, i),
                         .n_rows = nth(c->step.n_rows, c->most.n_rows, i * 7 + round * 5),
                         .n_out = nth(c->step.n_out, c->most.n_out, i * 3 + round),
                         .variant = (i + round) % c->most.variant};
}

static void every_level_agrees_with_portable(void **state) {
    enum { ROUNDS = 6 };
    (void)state;
    map_guarded();
    for (int k = 0; kernel_cases()[k]; k++) {
        const kernel_case *c = kernel_cases()[k];
        for (int round = 0; round < ROUNDS; round++)
            for (int i = 0; i < (c->most.n - c->step.n) / c->step.n + 1; i++) {
                kernel_size s = size_of(c, i, round);
                check_size(c, &s, (uint64_t)(i * ROUNDS + round));
            }
        if (c->bench.n) {
            kernel_size s = c->bench;
            s.n_rows = s.n_rows < 16 ? s.n_rows : 16;
            s.n_out = s.n_out < 48 ? s.n_out : 48;
            check_size(c, &s, 1);
        }
    }
}

/* The contract behind equal bits alone and in a batch. */
static void rows_do_not_see_each_other(void **state) {
    (void)state;
    tested list[MOST_TESTED];
    int n_tested = tested_tables(list);
    for (int k = 0; kernel_cases()[k]; k++) {
        const kernel_case *c = kernel_cases()[k];
        for (int l = 0; c->rows_apart && l < n_tested; l++) {
            const cpu_kernels *kernels = list[l].kernels;
            for (int i = 0; i < 8; i++) {
                kernel_size s = size_of(c, 11 * i + 3, i);
                s.n_rows = c->most.n_rows - i;
                operands together = operands_new(c, &s);
                c->fill(c, &s, (uint64_t)i, false, together.at);
                operands alone = operands_copy(&together, c, &s);
                run_all(kernels, c, &s, &together);
                for (int r = 0; r < s.n_rows; r++)
                    c->run(kernels, c, &s, r, 1, alone.at);
                if (c->extract)
                    c->extract(&s, alone.at);
                for (int b = 0; b < KERNEL_BUFFERS && alone.shape[b].n; b++)
                    if (!alone.shape[b].scratch && memcmp(alone.at[b], together.at[b], bytes_of(&alone.shape[b])))
                        fail_msg("%s of %s: a row alone differs from the same row among %d", c->name, list[l].name,
                                 s.n_rows);
                operands_free(&together);
                operands_free(&alone);
            }
        }
    }
}

/* ---- no entry without a case, no level without its kernels ---- */

typedef void (*any_kernel)(void);

/* Functions of the table: those of a field from `first` on, and the levels that have their own. */
typedef struct entry {
    const char *field;
    size_t at, first, n;
    unsigned own; /* bits 1 << cpu_level */
} entry;

enum {
    BASE = 1 << CPU_AVX2 | 1 << CPU_AVX512 | 1 << CPU_NEON,
    X86 = 1 << CPU_AVX2 | 1 << CPU_AVX512,
    INTEGERS = 1 << CPU_AVX2VNNI | 1 << CPU_AVX512VNNI, /* better products of whole numbers, and nothing else */
};

#define PART(field, from, to, own)                                                                                     \
    { #field, offsetof(cpu_kernels, field) + (from) * sizeof(any_kernel), from, (to) - (from), own }
#define ENTRY(field, own) PART(field, 0, sizeof(((cpu_kernels *)0)->field) / sizeof(any_kernel), own)
/* A kernel that is not filled in leaves the level below in its place, which gives the same results. */
static const entry entries[] = {
    ENTRY(tile, BASE),
    ENTRY(fold, BASE),
    ENTRY(dot, 1 << CPU_AVX2 | INTEGERS | 1 << CPU_NEON),
    ENTRY(book, 1 << CPU_AVX2 | 1 << CPU_AVX512VNNI | 1 << CPU_NEON),
    ENTRY(low_rank_dots, X86),
    ENTRY(low_rank_add, X86),
    ENTRY(sparse, 1 << CPU_AVX2),
    ENTRY(column_ends, 1 << CPU_AVX2),
    ENTRY(mark_ends, 1 << CPU_AVX2),
    ENTRY(transpose, 1 << CPU_AVX2),
    ENTRY(softmax_pages, BASE),
    ENTRY(open_maps, BASE),
    ENTRY(bounds, BASE),
    ENTRY(scale, BASE),
    ENTRY(add_scaled, BASE),
    ENTRY(f32_to_f16, BASE),
    ENTRY(f16_to_f32, BASE),
    ENTRY(rms_norm, BASE),
    ENTRY(silu_mul, BASE),
    ENTRY(gelu_mul, BASE),
    ENTRY(add, BASE),
    ENTRY(rope, BASE),
    ENTRY(act_quantize, BASE),
    PART(matmul, 0, PACK_F16, BASE | INTEGERS | 1 << CPU_AMX),
    PART(matmul, PACK_F16, PACK_COUNT, BASE),
};
enum { N_ENTRIES = sizeof(entries) / sizeof(*entries) };

/* What a level is built on. */
static const cpu_level below[CPU_LEVEL_COUNT] = {
    [CPU_AVX2] = CPU_PORTABLE,     [CPU_AVX2VNNI] = CPU_AVX2,  [CPU_AVX512] = CPU_AVX2,
    [CPU_AVX512VNNI] = CPU_AVX512, [CPU_AMX] = CPU_AVX512VNNI, [CPU_NEON] = CPU_PORTABLE,
};

static any_kernel kernel_at(const cpu_kernels *table, const entry *e, size_t i) {
    any_kernel kernel;
    memcpy(&kernel, (const char *)table + e->at + i * sizeof(kernel), sizeof(kernel));
    return kernel;
}

static void entries_are_the_whole_table(void **state) {
    (void)state;
    size_t at = offsetof(cpu_kernels, level) + sizeof(((cpu_kernels *)0)->level);
    for (int e = 0; e < N_ENTRIES; at += entries[e++].n * sizeof(any_kernel))
        assert_int_equal(entries[e].at, at);
    assert_int_equal(at, sizeof(cpu_kernels));
}

static void used(void) {
    _exit(77);
}

static bool some_case_calls(const cpu_kernels *table) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (int k = 0; kernel_cases()[k]; k++) {
            const kernel_case *c = kernel_cases()[k];
            kernel_size s = size_of(c, 0, 0);
            operands o = operands_new(c, &s);
            c->fill(c, &s, 1, false, o.at);
            c->run(table, c, &s, 0, s.n_rows, o.at);
        }
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 77;
}

static void every_entry_has_a_case(void **state) {
    (void)state;
    const cpu_kernels *portable = cpu_kernels_level("portable");
    for (const entry *e = entries; e < entries + N_ENTRIES; e++)
        for (size_t i = 0; i < e->n; i++) {
            cpu_kernels table = *portable;
            any_kernel trap = used;
            memcpy((char *)&table + e->at + i * sizeof(trap), &trap, sizeof(trap));
            if (!some_case_calls(&table))
                fail_msg("no case calls %s[%zu] of the table of kernels", e->field, e->first + i);
        }
}

static void levels_have_kernels_of_their_own(void **state) {
    (void)state;
    for (int l = CPU_PORTABLE + 1; l < CPU_LEVEL_COUNT; l++) {
        const char *name = cpu_level_names()[l], *base = cpu_level_names()[below[l]];
        const cpu_kernels *table = cpu_kernels_level(name), *other = cpu_kernels_level(base);
        for (const entry *e = entries; table && e < entries + N_ENTRIES; e++)
            for (size_t i = 0; i < e->n; i++) {
                bool own = kernel_at(table, e, i) != kernel_at(other, e, i), wanted = e->own >> l & 1;
                if (own != wanted)
                    fail_msg("%s %s a %s[%zu] of its own beside %s's", name, own ? "has" : "lacks", e->field,
                             e->first + i, base);
            }
    }
}

/* ---- levels ---- */

#ifdef __x86_64__
static void levels_are_what_the_compiler_finds(void **state) {
    (void)state;
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    assert_int_equal(cpu_detect(CPU_AVX2), avx2);
    assert_int_equal(cpu_detect(CPU_AVX512), avx512);
    assert_int_equal(cpu_detect(CPU_AVX512VNNI), avx512 && __builtin_cpu_supports("avx512vnni"));
    assert_false(cpu_detect(CPU_NEON));
}

/* Zen 4 says 6 here, Zen 5 of servers 0xa, Intel's nothing. */
static void vectors_in_two_passes_are_found(void **state) {
    (void)state;
    cpu_features zen4 = {.eax1a = 0x6}, zen5 = {.eax1a = 0xa}, none = {.eax1a = 0};
    assert_true(cpu_detect_narrow(&zen4));
    assert_false(cpu_detect_narrow(&zen5));
    assert_false(cpu_detect_narrow(&none));
    const cpu_kernels *table = cpu_kernels_level("avx512");
    cpu_features here = cpu_detect_features();
    const cpu_kernels *wanted = tiles_of_width(cpu_detect_narrow(&here));
    assert_true(!table || !memcmp(table->tile, wanted->tile, sizeof(table->tile)));
}

/* What the narrow file promises: a change of machine between the two widths changes nothing. */
static void tiles_of_both_widths_give_equal_bits(void **state) {
    (void)state;
    if (!tiles_of_width(false))
        skip();
    for (int k = 0; kernel_cases_tile[k]; k++)
        for (int i = 0; i < 40; i++) {
            const kernel_case *c = kernel_cases_tile[k];
            kernel_size s = size_of(c, i, i / 3);
            operands wide = operands_new(c, &s);
            c->fill(c, &s, (uint64_t)i, false, wide.at);
            operands narrow = operands_copy(&wide, c, &s);
            run_all(tiles_of_width(false), c, &s, &wide);
            run_all(tiles_of_width(true), c, &s, &narrow);
            for (int b = 0; b < KERNEL_BUFFERS && wide.shape[b].n; b++)
                if (memcmp(wide.at[b], narrow.at[b], bytes_of(&wide.shape[b])))
                    fail_msg("%s: the widths differ (n %d, rows %d)", c->name, s.n, s.n_rows);
            operands_free(&wide);
            operands_free(&narrow);
        }
}

/* A processor with everything, of which one thing at a time is taken away. */
static void a_level_needs_registers_and_permission(void **state) {
    (void)state;
    cpu_features all = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~(uint64_t)0, true, ~(uint64_t)0}, f;
    for (int l = 0; l < CPU_LEVEL_COUNT; l++)
        assert_int_equal(cpu_detect_from(&all, (cpu_level)l), l != CPU_NEON);
    f = all, f.tiles_permitted = false;
    assert_false(cpu_detect_from(&f, CPU_AMX));
    assert_true(cpu_detect_from(&f, CPU_AVX512VNNI));
    f = all, f.saved = 0xe7; /* no tiles */
    assert_false(cpu_detect_from(&f, CPU_AMX));
    assert_true(cpu_detect_from(&f, CPU_AVX512VNNI));
    f = all, f.saved = 0x7; /* no upper halves, no masks */
    assert_false(cpu_detect_from(&f, CPU_AMX));
    assert_false(cpu_detect_from(&f, CPU_AVX512VNNI));
    assert_false(cpu_detect_from(&f, CPU_AVX512));
    assert_true(cpu_detect_from(&f, CPU_AVX2VNNI));
    f = all, f.saved = 0x3;
    assert_false(cpu_detect_from(&f, CPU_AVX2));
    f = all, f.eax71 = 0;
    assert_false(cpu_detect_from(&f, CPU_AVX2VNNI));
    assert_true(cpu_detect_from(&f, CPU_AVX512VNNI));
    f = all, f.ecx7 = 0;
    assert_false(cpu_detect_from(&f, CPU_AVX512VNNI));
    assert_false(cpu_detect_from(&f, CPU_AMX));
    assert_true(cpu_detect_from(&f, CPU_AVX512));
    f = all, f.ebx7 &= ~(1u << 30); /* AVX512BW */
    assert_false(cpu_detect_from(&f, CPU_AVX512));
    assert_true(cpu_detect_from(&f, CPU_AVX2));
}

/* 64 products of 1 and 2 by the tile unit itself. */
static int try_tiles(void) {
    struct {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {.palette = 1};
    static uint8_t a[1024], b[1024];
    static int32_t sum[256];
    for (int i = 0; i < 3; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    memset(a, 1, sizeof(a));
    memset(b, 2, sizeof(b));
    __asm__ volatile("ldtilecfg %0\n\ttilezero %%tmm0\n\t"
                     "tileloadd (%1, %3), %%tmm1\n\ttileloadd (%2, %3), %%tmm2\n\t"
                     "tdpbusd %%tmm2, %%tmm1, %%tmm0\n\ttilestored %%tmm0, (%4, %3)\n\ttilerelease"
                     :
                     : "m"(config), "r"(a), "r"(b), "r"((size_t)64), "r"(sum)
                     : "memory");
    return sum[0];
}

/* Where CPUID promises AMX but its registers trap, the level must not be there. */
static void amx_is_offered_only_where_it_works(void **state) {
    (void)state;
    cpu_features f = cpu_detect_features();
    bool advertised = f.edx7 >> 24 & 1, offered = cpu_detect(CPU_AMX);
    if (!advertised) {
        assert_false(offered);
        env_skip("this processor does not advertise AMX");
    }
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);           /* a sanitizer's report of the trap */
        signal(SIGILL, SIG_DFL); /* cmocka would go on with the next test */
        _exit(try_tiles() == 128 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    bool works = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("AMX is advertised; the system %s; its instructions %s\n", f.tiles_permitted ? "permits it" : "refuses it",
           works ? "work" : "trap");
    assert_int_equal(offered, works);
}
#endif

#ifdef __aarch64__
/* 4 times 1 x 2 by the instruction itself, in a process of its own. */
static bool sdot_works(void) {
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int32_t sum;
        signal(SIGILL, SIG_DFL); /* cmocka would go on with the next test */
        __asm__("movi v0.4s, #0\n\tmovi v1.16b, #1\n\tmovi v2.16b, #2\n\t"
                ".inst 0x4e829420\n\tumov %w0, v0.s[0]" /* sdot v0.4s, v1.16b, v2.16b */
                : "=r"(sum)
                :
                : "v0", "v1", "v2");
        _exit(sum == 8 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void neon_is_offered_where_it_works(void **state) {
    (void)state;
    assert_int_equal(cpu_detect(CPU_NEON), sdot_works());
    for (int l = CPU_AVX2; l <= CPU_AMX; l++)
        assert_false(cpu_detect((cpu_level)l));
    assert_false(cpu_detect_from(&(cpu_features){.hwcap = ~(uint64_t)HWCAP_ASIMDDP}, CPU_NEON));
    assert_true(cpu_detect_from(&(cpu_features){.hwcap = HWCAP_ASIMDDP}, CPU_NEON));
    if (cpu_detect(CPU_NEON))
        assert_string_equal(cpu_kernels_level("neon")->level, "neon");
}
#endif

static const char *self;

/* This program once more, to ask for the level under a PLEAT_CPU; its exit status. */
static int ask_level(const char *wanted, char *answer, size_t cap) {
    char command[600];
    snprintf(command, sizeof(command), "PLEAT_CPU='%s' '%s' --level", wanted, self);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(answer, 1, cap - 1, f);
    answer[n] = 0;
    return pclose(f);
}

static void a_level_can_be_lowered(void **state) {
    (void)state;
    char answer[600];
    for (int l = 0; cpu_level_names()[l]; l++) {
        const char *name = cpu_level_names()[l];
        const cpu_kernels *table = cpu_kernels_level(name);
        int status = ask_level(name, answer, sizeof(answer));
        if (table) {
            assert_int_equal(status, 0);
            assert_string_equal(answer, table->level);
        } else {
            assert_int_not_equal(status, 0);
            assert_non_null(strstr(answer, name));
        }
    }
    assert_int_equal(ask_level("", answer, sizeof(answer)), 0);
}

static void an_unknown_level_is_refused(void **state) {
    (void)state;
    char answer[600];
    assert_int_not_equal(ask_level("avx1024", answer, sizeof(answer)), 0);
    assert_non_null(strstr(answer, "avx1024"));
    assert_non_null(strstr(answer, "portable"));
    assert_null(strchr(answer, '\n'));
}

static int print_level(void) {
    const cpu_kernels *kernels;
    pleat_error error;
    pleat_status status = cpu_kernels_get(&kernels, &error);
    printf("%s", status ? error.text : kernels->level);
    return status ? 1 : 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--level"))
        return print_level();
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_agrees_with_portable),
        cmocka_unit_test(rows_do_not_see_each_other),
        cmocka_unit_test(entries_are_the_whole_table),
        cmocka_unit_test(every_entry_has_a_case),
        cmocka_unit_test(levels_have_kernels_of_their_own),
#ifdef __x86_64__
        cmocka_unit_test(levels_are_what_the_compiler_finds),
        cmocka_unit_test(vectors_in_two_passes_are_found),
        cmocka_unit_test(tiles_of_both_widths_give_equal_bits),
        cmocka_unit_test(a_level_needs_registers_and_permission),
        cmocka_unit_test(amx_is_offered_only_where_it_works),
#endif
#ifdef __aarch64__
        cmocka_unit_test(neon_is_offered_where_it_works),
#endif
        cmocka_unit_test(a_level_can_be_lowered),
        cmocka_unit_test(an_unknown_level_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
