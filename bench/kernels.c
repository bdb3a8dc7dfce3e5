/* kernels.c - every kernel at every level of this machine, on operands that stay in a core's cache: one thread.
 *
 *   bench/kernels [--kernel PREFIX] [--repeats N]
 *
 * The closures are those of the kernel tests. Levels take turns, medians of the repeats. Products: GOPS and the share
 * of the arithmetic peak of the level whose kernel it is. Row kernels: bytes read and written a second and their share
 * of what a core reads from L2. */
#include "base/memory.h"
#include "support/kernel_cases.h"
#include "support/limits.h"
#include "support/peaks.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COPIES = 256, RESIDENT_BYTES = 256 << 10, CALLS = 64 };
static const double least_seconds = 2e-3;

/* The operands; of a kernel that works in place copies that together stay in L2, each of which it gets fresh. */
typedef struct operands {
    kernel_buffer shape[KERNEL_BUFFERS];
    void *master[KERNEL_BUFFERS], *copy[MOST_COPIES][KERNEL_BUFFERS];
    int n_copies;
    size_t bytes; /* of one copy */
} operands;

static size_t bytes_of(const kernel_buffer *b) {
    return b->n * kernel_element_bytes(b->element);
}

static void *take(size_t bytes) {
    void *p = mem_alloc(bytes, 1);
    if (!p)
        abort();
    return p;
}

static operands *operands_open(const kernel_case *c) {
    operands *o = take(sizeof(*o));
    c->layout(c, &c->bench, o->shape);
    for (int i = 0; i < KERNEL_BUFFERS && o->shape[i].n; i++) {
        o->master[i] = take(bytes_of(&o->shape[i]));
        o->bytes += bytes_of(&o->shape[i]);
    }
    c->fill(c, &c->bench, 1, false, o->master);
    o->n_copies = (int)(RESIDENT_BYTES / o->bytes);
    o->n_copies = o->n_copies < 1 || !c->in_place ? 1 : o->n_copies > MOST_COPIES ? MOST_COPIES : o->n_copies;
    for (int k = 0; k < o->n_copies; k++)
        for (int i = 0; i < KERNEL_BUFFERS && o->shape[i].n; i++)
            o->copy[k][i] = take(bytes_of(&o->shape[i]));
    return o;
}

static void operands_reset(operands *o) {
    for (int k = 0; k < o->n_copies; k++)
        for (int i = 0; i < KERNEL_BUFFERS && o->shape[i].n; i++)
            memcpy(o->copy[k][i], o->master[i], bytes_of(&o->shape[i]));
}

static void operands_close(operands *o) {
    for (int i = 0; i < KERNEL_BUFFERS; i++) {
        mem_free(o->master[i]);
        for (int k = 0; k < o->n_copies; k++)
            mem_free(o->copy[k][i]);
    }
    mem_free(o);
}

/* Seconds of one call: rounds over all copies until the time is up. */
static double call_seconds(const cpu_kernels *kernels, const kernel_case *c, operands *o) {
    double took = 0;
    long n_calls = 0;
    while (took < least_seconds) {
        operands_reset(o);
        double started = timing_cpu_seconds();
        for (int k = 0; k < o->n_copies; k++)
            for (int i = 0; i < (c->in_place ? 1 : CALLS); i++)
                c->run(kernels, c, &c->bench, 0, c->bench.n_rows, o->copy[k]);
        took += timing_cpu_seconds() - started;
        n_calls += o->n_copies * (c->in_place ? 1 : CALLS);
    }
    return took / (double)n_calls;
}

static void print_level(const kernel_case *c, const cpu_kernels *kernels, const timing *seconds, size_t bytes,
                        double cached) {
    double each = timing_median(seconds);
    printf("%-14s %-11s %10.0f ns %6.0f%%", c->name, kernels->level, each * 1e9, 100 * timing_spread(seconds));
    if (!c->ops) {
        printf(" %8.1f GB/s %5.0f%% of L2\n", (double)bytes / each / 1e9, 100 * (double)bytes / each / cached);
        return;
    }
    double rate = c->ops(c, &c->bench) / each;
    peak top = peak_of_case(c, kernels, c->bench.n_rows);
    printf(" %8.1f GOPS", rate / 1e9);
    if (top.ops_per_s > 0)
        printf(" %5.0f%% of %s peak of %s", 100 * rate / top.ops_per_s, top.codes, cpu_level_names()[top.level]);
    printf("\n");
}

static void bench_case(const kernel_case *c, int repeats, double cached) {
    timing seconds[CPU_LEVEL_COUNT] = {{.n = 0}};
    operands *o = operands_open(c);
    for (int round = 0; round < repeats; round++)
        for (int l = 0; l < CPU_LEVEL_COUNT; l++) {
            const cpu_kernels *kernels = cpu_kernels_level(cpu_level_names()[l]);
            if (!kernels || strcmp(kernels->level, cpu_level_names()[l]))
                continue; /* it has no kernels of its own */
            timing_add(&seconds[l], call_seconds(kernels, c, o));
        }
    for (int l = 0; l < CPU_LEVEL_COUNT; l++)
        if (seconds[l].n)
            print_level(c, cpu_kernels_level(cpu_level_names()[l]), &seconds[l], o->bytes, cached);
    operands_close(o);
}

int main(int argc, char **argv) {
    timing_arguments(argc, argv, "[--kernel PREFIX] [--repeats N]");
    int repeats = timing_rounds(argc, argv, "repeats", 5);
    const char *prefix = timing_text(argc, argv, "kernel", "");
    double cached = limits_read_cached();
    printf("%s, one thread, medians of %d\n", cpu_model_name(), repeats);
    for (int i = 0; kernel_cases()[i]; i++)
        if (kernel_cases()[i]->bench.n && !strncmp(kernel_cases()[i]->name, prefix, strlen(prefix)))
            bench_case(kernel_cases()[i], repeats, cached);
    return 0;
}
