/* limit.c - the machine's limits, and which share of them each kernel reaches that streams cache pages or weights.
 *
 *   bench/limit [--threads N] [--gb N] [--repeats N]
 *
 * Reading: all threads over --gb gigabytes (default: four times the last cache), once each round. Kernels: the closures
 * of the kernel tests, all threads, each call on the next copy of its pages or weights in that same memory, so nothing
 * is read twice from a cache; the roof of a kernel is the lower of reading and arithmetic (the peak of the level whose
 * kernel it is, for its codes, x threads). Medians; rounds interleave. Kernels that stream more than one operand are
 * left to bench/kernels. */
#include "base/clock.h"
#include "base/memory.h"
#include "support/kernel_cases.h"
#include "support/limits.h"
#include "support/peaks.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CASES = 32, CALLS_PER_TASK = 16 };

typedef struct stream { /* one kernel over all memory */
    const kernel_case *c;
    kernel_size size;
    size_t bytes, stride; /* of the streamed operand */
    int at;               /* which operand that is */
    void **operand;       /* [workers][KERNEL_BUFFERS], the streamed one from memory */
    timing rate;          /* bytes a second */
} stream;

typedef struct run {
    const cpu_kernels *kernels;
    threads *pool;
    char *memory;
    size_t n_bytes;
    stream *stream;
} run;

static void stream_task(void *context, int task, int worker) {
    const run *r = context;
    stream *s = r->stream;
    void *operand[KERNEL_BUFFERS];
    memcpy(operand, s->operand + worker * KERNEL_BUFFERS, sizeof(operand));
    for (size_t i = (size_t)task * CALLS_PER_TASK; i < ((size_t)task + 1) * CALLS_PER_TASK; i++) {
        if ((i + 1) * s->stride > r->n_bytes)
            return;
        operand[s->at] = r->memory + i * s->stride;
        s->c->run(r->kernels, s->c, &s->size, 0, s->size.n_rows, operand);
    }
}

/* One pass over all copies. */
static double pass(run *r, stream *s) {
    size_t n_copies = r->n_bytes / s->stride;
    double started = clock_seconds();
    r->stream = s;
    threads_run(r->pool, (int)((n_copies + CALLS_PER_TASK - 1) / CALLS_PER_TASK), stream_task, r);
    return (double)(n_copies * s->bytes) / (clock_seconds() - started);
}

static bool streams_one(const kernel_case *c) {
    kernel_buffer shape[KERNEL_BUFFERS] = {0};
    int n = 0;
    c->layout(c, &c->bench, shape);
    for (int i = 0; i < KERNEL_BUFFERS; i++)
        n += shape[i].stream;
    return n == 1;
}

static bool stream_open(stream *s, const kernel_case *c, int n_workers) {
    kernel_buffer shape[KERNEL_BUFFERS] = {0};
    *s = (stream){.c = c, .size = c->bench};
    if (c->entry == ENTRY_MATMUL)
        s->size.n_rows = 1; /* decode: what memory limits */
    c->layout(c, &s->size, shape);
    s->operand = calloc((size_t)n_workers * KERNEL_BUFFERS, sizeof(*s->operand));
    bool ok = s->operand != NULL;
    for (int w = 0; w < n_workers && ok; w++) {
        void **operand = s->operand + w * KERNEL_BUFFERS;
        for (int i = 0; i < KERNEL_BUFFERS && shape[i].n && ok; i++) {
            size_t bytes = shape[i].n * kernel_element_bytes(shape[i].element);
            ok = (operand[i] = mem_alloc(bytes, 1)) != NULL;
            if (shape[i].stream) {
                s->at = i;
                s->bytes = bytes;
                s->stride = (bytes + 63) / 64 * 64;
            }
        }
        if (ok)
            c->fill(c, &s->size, 1, false, operand);
    }
    return ok;
}

static void stream_close(stream *s, int n_workers) {
    for (int i = 0; s->operand && i < n_workers * KERNEL_BUFFERS; i++)
        mem_free(s->operand[i]);
    free(s->operand);
}

/* What one core can compute at each level, by which instruction. */
static void print_arithmetic(void) {
    if (!limits_arithmetic()) {
        printf("no arithmetic peak is measured on this architecture\n");
        return;
    }
    for (cpu_level l = CPU_AVX2; l <= CPU_AMX; l++)
        if (cpu_detect(l))
            printf("%-10s a core       %7.0f GOPS int8 (%s), %.0f int4 (%s), %.0f GFLOPS f32\n", cpu_level_names()[l],
                   limits_int8(l) / 1e9, limits_int8_name(l), limits_int4(l) / 1e9, limits_int4_name(l),
                   limits_f32(l) / 1e9);
    double vectors = limits_bf16(CPU_AVX512), tiles = limits_bf16(CPU_AMX);
    if (vectors > 0)
        printf("bf16       a core       %7.0f GFLOPS (vdpbf16ps, 512 bits)\n", vectors / 1e9);
    if (tiles > 0)
        printf("bf16       a core       %7.0f GFLOPS (tdpbf16ps, 16 x 16 x 32)\n", tiles / 1e9);
    if (vectors == 0 && tiles == 0)
        printf("bf16       a core          no instruction\n");
}

static void print_limits(const run *r, const timing *read) {
    printf("%s\n%d threads, level %s, last cache %.0f MB, rotating over %.2f GB\n\n", cpu_model_name(),
           threads_count(r->pool), r->kernels->level, (double)timing_last_cache_bytes() / 1e6,
           (double)r->n_bytes / 1e9);
    printf("read, all threads       %7.1f GB/s   (%.1f to %.1f)\n", timing_median(read) / 1e9, timing_low(read) / 1e9,
           timing_high(read) / 1e9);
    printf("read from L2, a core    %7.1f GB/s\n", limits_read_cached() / 1e9);
    print_arithmetic();
}

static void print_streams(const run *r, const stream *list, int n, const timing *read) {
    printf("\n%-14s %5s %9s %8s %9s %9s %7s %-16s %7s\n", "kernel", "rows", "GB/s", "spread", "of read", "GOPS",
           "of peak", "of", "of roof");
    for (int i = 0; i < n; i++) {
        const stream *s = &list[i];
        timing share = timing_ratio(&s->rate, read);
        double rate = timing_median(&s->rate), ops_per_byte = s->c->ops(s->c, &s->size) / (double)s->bytes;
        peak top = peak_of_case(s->c, r->kernels, s->size.n_rows);
        double of_read = timing_median(&share), all = top.ops_per_s * threads_count(r->pool),
               of_peak = all > 0 ? rate * ops_per_byte / all : 0;
        char name[32], peak_share[16] = "-";
        snprintf(name, sizeof(name), "%s %s", cpu_level_names()[top.level], top.codes);
        if (all > 0)
            snprintf(peak_share, sizeof(peak_share), "%.0f%%", 100 * of_peak);
        printf("%-14s %5d %9.2f %7.0f%% %8.0f%% %9.0f %7s %-16s %6.0f%%\n", s->c->name, s->size.n_rows, rate / 1e9,
               100 * timing_spread(&s->rate), 100 * of_read, rate * ops_per_byte / 1e9, peak_share, name,
               100 * (of_peak > of_read ? of_peak : of_read));
    }
}

int main(int argc, char **argv) {
    static stream list[MOST_CASES];
    timing_arguments(argc, argv, "[--threads N] [--gb N] [--repeats N]");
    int n = 0, repeats = timing_rounds(argc, argv, "repeats", 5);
    pleat_error error;
    run r = {.n_bytes = (size_t)(timing_option(argc, argv, "gb", 4e-9 * (double)timing_last_cache_bytes()) * 1e9)};
    if (cpu_kernels_get(&r.kernels, &error) ||
        threads_open((int)timing_option(argc, argv, "threads", 0), &r.pool, &error)) {
        fprintf(stderr, "bench/limit: %s\n", error.text);
        return 1;
    }
    bool ok = (r.memory = mem_map(r.n_bytes)) != NULL;
    for (int i = 0; kernel_cases()[i] && n < MOST_CASES && ok; i++)
        if (kernel_cases()[i]->bench.n && kernel_cases()[i]->ops && streams_one(kernel_cases()[i]))
            ok = stream_open(&list[n++], kernel_cases()[i], threads_count(r.pool));
    if (!ok) {
        fprintf(stderr, "bench/limit: no memory for %.2f GB; --gb N asks for less\n", (double)r.n_bytes / 1e9);
        return 1;
    }
    memset(r.memory, 0x11, r.n_bytes);
    timing read = {.n = 0};
    for (int round = 0; round < repeats; round++) {
        timing_add(&read, limits_read(r.pool, r.memory, r.n_bytes));
        for (int i = 0; i < n; i++)
            timing_add(&list[i].rate, pass(&r, &list[i]));
    }
    print_limits(&r, &read);
    print_streams(&r, list, n, &read);
    for (int i = 0; i < n; i++)
        stream_close(&list[i], threads_count(r.pool));
    mem_unmap(r.memory, r.n_bytes);
    threads_close(r.pool);
    return 0;
}
