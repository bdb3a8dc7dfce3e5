/* limits.c - peaks by loops of one instruction on independent registers, written as asm so that no compiler has a say;
 * reading by sums over plain vectors. */
#include "support/limits.h"
#include "base/clock.h"
#include "base/memory.h"
#include <stdint.h>
#include <string.h>

enum {
    PIECE_BYTES = 256 << 10,
    AHEAD_BYTES = 4096,
    LINE_BYTES = 64,
    CACHED_BYTES = 256 << 10,
    LOOPS = 200000,
    REPEATS = 7
};

#ifdef __x86_64__
#define TWELVE(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define CLOBBERS                                                                                                       \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14", "xmm15", "cc"
#define LOOP(name, width, op)                                                                                          \
    static void name(long n) {                                                                                         \
        __asm__ volatile("vpxor %%xmm12, %%xmm12, %%xmm12\n\tvpxor %%xmm13, %%xmm13, %%xmm13\n\t" TWELVE(              \
                             ZERO) "1:\n\t" TWELVE(op) "dec %0\n\tjnz 1b\n\tvzeroupper"                                \
                         : "+r"(n)                                                                                     \
                         :                                                                                             \
                         : CLOBBERS);                                                                                  \
    }
#define ZERO(r)       "vpxor %%xmm" #r ", %%xmm" #r ", %%xmm" #r "\n\t"
#define FMA256(r)     "vfmadd231ps %%ymm13, %%ymm12, %%ymm" #r "\n\t"
#define FMA512(r)     "vfmadd231ps %%zmm13, %%zmm12, %%zmm" #r "\n\t"
#define MADD256(r)    "vpmaddwd %%ymm13, %%ymm12, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #r ", %%ymm" #r "\n\t"
#define MADD512(r)    "vpmaddwd %%zmm13, %%zmm12, %%zmm14\n\tvpaddd %%zmm14, %%zmm" #r ", %%zmm" #r "\n\t"
#define MADDUBS256(r) "vpmaddubsw %%ymm13, %%ymm12, %%ymm14\n\tvpaddw %%ymm14, %%ymm" #r ", %%ymm" #r "\n\t"
#define MADDUBS512(r) "vpmaddubsw %%zmm13, %%zmm12, %%zmm14\n\tvpaddw %%zmm14, %%zmm" #r ", %%zmm" #r "\n\t"
#define DOT256(r)     "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm" #r "\n\t"
#define DOT512(r)     "vpdpbusd %%zmm13, %%zmm12, %%zmm" #r "\n\t"
#define BFLOAT512(r)  "vdpbf16ps %%zmm13, %%zmm12, %%zmm" #r "\n\t"

LOOP(loop_fma256, ymm, FMA256)
LOOP(loop_fma512, zmm, FMA512)
LOOP(loop_madd256, ymm, MADD256)
LOOP(loop_madd512, zmm, MADD512)
LOOP(loop_maddubs256, ymm, MADDUBS256)
LOOP(loop_maddubs512, zmm, MADDUBS512)
LOOP(loop_dot256, ymm, DOT256)
LOOP(loop_dot512, zmm, DOT512)
LOOP(loop_bfloat512, zmm, BFLOAT512)

/* Four accumulating tiles of 16 x 16, two of each operand: the shape of a real product. */
#define TILE_LOOP(name, op)                                                                                            \
    static void name(long n) {                                                                                         \
        struct {                                                                                                       \
            uint8_t palette, start_row, zero[14];                                                                      \
            uint16_t row_bytes[16];                                                                                    \
            uint8_t rows[16];                                                                                          \
        } __attribute__((aligned(64))) config = {.palette = 1};                                                        \
        for (int i = 0; i < 8; i++) {                                                                                  \
            config.row_bytes[i] = 64;                                                                                  \
            config.rows[i] = 16;                                                                                       \
        }                                                                                                              \
        n *= 3;                                                                                                        \
        __asm__ volatile("ldtilecfg %1\n\ttilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\t"                   \
                         "tilezero %%tmm3\n\ttilezero %%tmm4\n\ttilezero %%tmm5\n\ttilezero %%tmm6\n\t"                \
                         "tilezero %%tmm7\n\t1:\n\t" op " %%tmm6, %%tmm4, %%tmm0\n\t" op                               \
                         " %%tmm7, %%tmm4, %%tmm1\n\t" op " %%tmm6, %%tmm5, %%tmm2\n\t" op                             \
                         " %%tmm7, %%tmm5, %%tmm3\n\tdec %0\n\tjnz 1b\n\ttilerelease"                                  \
                         : "+r"(n)                                                                                     \
                         : "m"(config)                                                                                 \
                         : "cc");                                                                                      \
    }

TILE_LOOP(loop_tiles, "tdpbsud")
TILE_LOOP(loop_tiles_bfloat, "tdpbf16ps")

static double peak(void (*loop)(long), double ops_per_loop) {
    timing t = {.n = 0};
    for (int i = 0; i < REPEATS; i++) {
        double started = clock_seconds();
        loop(LOOPS);
        timing_add(&t, LOOPS * ops_per_loop / (clock_seconds() - started));
    }
    return timing_high(&t); /* a limit is what it was at its best */
}

double limits_f32(cpu_level level) {
    if (!cpu_detect(level) || level < CPU_AVX2)
        return 0;
    return level >= CPU_AVX512 ? peak(loop_fma512, 12 * 32) : peak(loop_fma256, 12 * 16);
}

typedef struct instruction {
    void (*loop)(long);
    double ops_per_loop;
    const char *name;
} instruction;

static const instruction int8_of[CPU_LEVEL_COUNT] = {
    [CPU_AVX2] = {loop_madd256, 12 * 32, "vpmaddwd, 256 bits"},
    [CPU_AVX2VNNI] = {loop_dot256, 12 * 64, "vpdpbusd, 256 bits"},
    [CPU_AVX512] = {loop_madd512, 12 * 64, "vpmaddwd, 512 bits"},
    [CPU_AVX512VNNI] = {loop_dot512, 12 * 128, "vpdpbusd, 512 bits"},
    [CPU_AMX] = {loop_tiles, 12 * 32768, "tdpbsud, 16 x 16 x 64"},
};

static const instruction int4_of[CPU_LEVEL_COUNT] = {
    [CPU_AVX2] = {loop_maddubs256, 12 * 64, "vpmaddubsw, 256 bits"},
    [CPU_AVX512] = {loop_maddubs512, 12 * 128, "vpmaddubsw, 512 bits"},
};

static const instruction *int4_instruction(cpu_level level) {
    return int4_of[level].loop ? &int4_of[level] : &int8_of[level];
}

static double peak_of(const instruction *i, cpu_level level) {
    return i->loop && cpu_detect(level) ? peak(i->loop, i->ops_per_loop) : 0;
}

double limits_int8(cpu_level level) {
    return peak_of(&int8_of[level], level);
}

double limits_int4(cpu_level level) {
    return peak_of(int4_instruction(level), level);
}

const char *limits_int8_name(cpu_level level) {
    return int8_of[level].name;
}

const char *limits_int4_name(cpu_level level) {
    return int4_instruction(level)->name;
}

double limits_bf16(cpu_level level) {
    enum { AVX512_BF16 = 1 << 5, AMX_BF16 = 1 << 22 };
    cpu_features f = cpu_detect_features();
    if (level == CPU_AVX512 && cpu_detect(level) && (f.eax71 & AVX512_BF16))
        return peak(loop_bfloat512, 12 * 64);
    if (level == CPU_AMX && cpu_detect(level) && (f.edx7 & AMX_BF16))
        return peak(loop_tiles_bfloat, 12 * 16384);
    return 0;
}

bool limits_arithmetic(void) {
    return true;
}
#else
double limits_f32(cpu_level level) {
    (void)level;
    return 0;
}

double limits_int8(cpu_level level) {
    (void)level;
    return 0;
}

double limits_int4(cpu_level level) {
    (void)level;
    return 0;
}

double limits_bf16(cpu_level level) {
    (void)level;
    return 0;
}

const char *limits_int8_name(cpu_level level) {
    (void)level;
    return NULL;
}

const char *limits_int4_name(cpu_level level) {
    (void)level;
    return NULL;
}

bool limits_arithmetic(void) {
    return false;
}
#endif

/* ---- reading ---- */

/* Reads n_bytes (a multiple of 256) in 32-byte loads, asking for lines AHEAD_BYTES further on; nothing is kept. */
#ifdef __x86_64__
static void read_avx2(const char *data, size_t n_bytes, size_t ahead) {
    const char *end = data + n_bytes;
    __asm__ volatile("1:\n\t"
                     "prefetcht1 (%0, %2)\n\tvmovdqa (%0), %%ymm0\n\tvmovdqa 32(%0), %%ymm1\n\t"
                     "prefetcht1 64(%0, %2)\n\tvmovdqa 64(%0), %%ymm2\n\tvmovdqa 96(%0), %%ymm3\n\t"
                     "prefetcht1 128(%0, %2)\n\tvmovdqa 128(%0), %%ymm4\n\tvmovdqa 160(%0), %%ymm5\n\t"
                     "prefetcht1 192(%0, %2)\n\tvmovdqa 192(%0), %%ymm6\n\tvmovdqa 224(%0), %%ymm7\n\t"
                     "add $256, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                     : "+r"(data)
                     : "r"(end), "r"(ahead)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "cc", "memory");
}
#endif

static volatile uint64_t seen; /* what was read cannot be left out */

static void read_words(const char *data, size_t n_bytes, size_t ahead) {
    const uint64_t *word = (const uint64_t *)(const void *)data;
    uint64_t sum = 0;
    for (size_t i = 0; i < n_bytes / 8; i += 8) {
        __builtin_prefetch(data + i * 8 + ahead, 0, 2);
        for (size_t k = 0; k < 8; k++)
            sum ^= word[i + k];
    }
    seen = sum;
}

static void read_bytes(const char *data, size_t n_bytes, size_t ahead) {
#ifdef __x86_64__
    static _Atomic int avx2 = -1;
    if (avx2 < 0)
        avx2 = cpu_detect(CPU_AVX2);
    if (avx2) {
        read_avx2(data, n_bytes, ahead);
        return;
    }
#endif
    read_words(data, n_bytes, ahead);
}

typedef struct read_job {
    const char *data;
    size_t n_bytes;
} read_job;

static void read_task(void *context, int task, int worker) {
    (void)worker;
    const read_job *job = context;
    size_t from = (size_t)task * PIECE_BYTES, left = job->n_bytes - from;
    read_bytes(job->data + from, left < PIECE_BYTES ? left : PIECE_BYTES, AHEAD_BYTES);
}

double limits_read(threads *pool, const void *data, size_t n_bytes) {
    read_job job = {data, n_bytes};
    double started = clock_seconds();
    threads_run(pool, (int)((n_bytes + PIECE_BYTES - 1) / PIECE_BYTES), read_task, &job);
    return (double)n_bytes / (clock_seconds() - started);
}

double limits_read_cached(void) {
    enum { TIMES = 400 };
    char *data = mem_alloc(CACHED_BYTES, 1);
    timing t = {.n = 0};
    for (int i = 0; data && i < REPEATS; i++) {
        double started = clock_seconds();
        for (int k = 0; k < TIMES; k++)
            read_bytes(data, CACHED_BYTES, 0);
        timing_add(&t, (double)TIMES * CACHED_BYTES / (clock_seconds() - started));
    }
    mem_free(data);
    return timing_high(&t);
}
