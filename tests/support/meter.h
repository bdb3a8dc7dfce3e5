/* meter.h - tests: how much heap a piece of code holds at most. To be included by the one file of a test program: it
 * defines malloc and its like, which glibc allows, and passes on to glibc's own by their other names. Not under
 * sanitizers, which own the allocator: there meter_peak gives 0. */
#ifndef TESTS_METER_H
#define TESTS_METER_H
#include <stddef.h>

#ifdef __SANITIZE_ADDRESS__
static void meter_start(void) {
}
/* Most bytes held at a time since meter_start, above what was held then. */
static size_t meter_peak(void) {
    return 0;
}
#else
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);

static _Atomic size_t held, peak, base;

static void *count(void *p) {
    size_t now = atomic_fetch_add(&held, malloc_usable_size(p)) + malloc_usable_size(p), seen = atomic_load(&peak);
    while (now > seen && !atomic_compare_exchange_weak(&peak, &seen, now))
        ;
    return p;
}

static void discount(void *p) {
    atomic_fetch_sub(&held, malloc_usable_size(p));
}

void *malloc(size_t n) {
    return count(__libc_malloc(n));
}

void *calloc(size_t n, size_t bytes) {
    return count(__libc_calloc(n, bytes));
}

void *realloc(void *p, size_t n) {
    size_t before = malloc_usable_size(p);
    void *moved = __libc_realloc(p, n);
    if (moved || n == 0)
        atomic_fetch_sub(&held, before);
    return moved ? count(moved) : NULL;
}

void *aligned_alloc(size_t alignment, size_t n) {
    return count(__libc_memalign(alignment, n));
}

void *memalign(size_t alignment, size_t n) {
    return count(__libc_memalign(alignment, n));
}

int posix_memalign(void **out, size_t alignment, size_t n) {
    void *p = count(__libc_memalign(alignment, n));
    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

void free(void *p) {
    discount(p);
    __libc_free(p);
}

static void meter_start(void) {
    base = held;
    peak = base;
}

/* Most bytes held at a time since meter_start, above what was held then. */
static size_t meter_peak(void) {
    return peak - base;
}
#endif
#endif
