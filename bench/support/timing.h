/* timing.h - what every benchmark does alike: medians with their spread, and memory that lies far beyond the last
 * cache. */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H
#include <stddef.h>

enum { TIMING_MOST = 64 };

typedef struct timing { /* repeats of one figure */
    double x[TIMING_MOST];
    int n;
} timing;

void timing_add(timing *t, double x); /* at most TIMING_MOST */
double timing_median(const timing *t);
double timing_low(const timing *t);
double timing_high(const timing *t);
double timing_spread(const timing *t); /* (high - low) / median */
/* a / b repeat by repeat: what was measured in the same round is divided. */
timing timing_ratio(const timing *a, const timing *b);

/* The arguments must be pairs of an option that usage names and its value: else a sentence and exit status 2; --help
 * prints usage. */
void timing_arguments(int argc, char **argv, const char *usage);
/* The value of "--name N" among the arguments, else fallback. What is no number ends the program with a sentence. */
double timing_option(int argc, char **argv, const char *name, double fallback);
/* The same for how many figures a timing is to get; a number that it cannot hold ends the program with a sentence. */
int timing_rounds(int argc, char **argv, const char *name, int fallback);
/* The text of "--name TEXT", else fallback. */
const char *timing_text(int argc, char **argv, const char *name, const char *fallback);
/* Seconds of this thread: other programs that take the core away do not count. */
double timing_cpu_seconds(void);
/* Bytes of the largest cache that the system tells of; 32 MB when it tells of none. */
size_t timing_last_cache_bytes(void);
#endif
