/* timing.c - see timing.h. */
#include "support/timing.h"
#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void timing_add(timing *t, double x) {
    assert(t->n < TIMING_MOST);
    t->x[t->n++] = x;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static timing sorted(const timing *t) {
    timing s = *t;
    qsort(s.x, (size_t)s.n, sizeof(*s.x), by_size);
    return s;
}

double timing_median(const timing *t) {
    timing s = sorted(t);
    return s.n == 0 ? 0 : s.n % 2 ? s.x[s.n / 2] : (s.x[s.n / 2 - 1] + s.x[s.n / 2]) / 2;
}

double timing_low(const timing *t) {
    timing s = sorted(t);
    return s.n ? s.x[0] : 0;
}

double timing_high(const timing *t) {
    timing s = sorted(t);
    return s.n ? s.x[s.n - 1] : 0;
}

double timing_spread(const timing *t) {
    return t->n ? (timing_high(t) - timing_low(t)) / timing_median(t) : 0;
}

timing timing_ratio(const timing *a, const timing *b) {
    timing r = {.n = 0};
    for (int i = 0; i < a->n && i < b->n; i++)
        timing_add(&r, a->x[i] / b->x[i]);
    return r;
}

static bool is_named(const char *usage, const char *option) {
    const char *at = strstr(usage, option);
    return at && at[strlen(option)] == ' ';
}

void timing_arguments(int argc, char **argv, const char *usage) {
    for (int i = 1; i < argc; i += 2) {
        bool help = !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
        if (!help && i + 1 < argc && !strncmp(argv[i], "--", 2) && is_named(usage, argv[i]))
            continue;
        if (!help)
            fprintf(stderr, "%s: %s is no option with a value\n", argv[0], argv[i]);
        fprintf(help ? stdout : stderr, "usage: %s %s\n", argv[0], usage);
        exit(help ? 0 : 2);
    }
}

const char *timing_text(int argc, char **argv, const char *name, const char *fallback) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strncmp(argv[i], "--", 2) && !strcmp(argv[i] + 2, name))
            return argv[i + 1];
    return fallback;
}

double timing_option(int argc, char **argv, const char *name, double fallback) {
    const char *text = timing_text(argc, argv, name, NULL);
    char *end = NULL;
    double n = text ? strtod(text, &end) : fallback;
    if (!text || (end != text && !*end && n >= 0 && n < 1e9))
        return n;
    fprintf(stderr, "%s: --%s takes a number, not \"%s\"\n", argv[0], name, text);
    exit(2);
}

int timing_rounds(int argc, char **argv, const char *name, int fallback) {
    double n = timing_option(argc, argv, name, fallback);
    if (n >= 1 && n <= TIMING_MOST)
        return (int)n;
    fprintf(stderr, "%s: --%s is from 1 to %d\n", argv[0], name, TIMING_MOST);
    exit(2);
}

double timing_cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t timing_last_cache_bytes(void) {
    long most = 32 << 20;
#ifdef _SC_LEVEL3_CACHE_SIZE
    const int names[] = {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL4_CACHE_SIZE};
    for (int i = 0; i < 2; i++)
        most = sysconf(names[i]) > most ? sysconf(names[i]) : most;
#endif
    return (size_t)most;
}
