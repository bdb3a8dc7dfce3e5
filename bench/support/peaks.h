/* peaks.h - the arithmetic peak that a kernel stands under. */
#ifndef BENCH_PEAKS_H
#define BENCH_PEAKS_H
#include "support/kernel_cases.h"
#include "support/limits.h"

typedef struct peak {
    double ops_per_s;  /* of one core; 0: nothing is known (portable code) */
    cpu_level level;   /* whose kernel it is: a table holds those of lower levels where its own adds none */
    const char *codes; /* "int16", "int8", "int4" or "f32" */
} peak;

/* Of a case that multiplies (ops is set), as this table runs it for so many rows. Each limit is measured once, when it
 * is first wanted; one thread. */
peak peak_of_case(const kernel_case *c, const cpu_kernels *kernels, int n_rows);
#endif
