/* sealed.h - a format's pages outside of any cache, for tests of formats. Pages and blocks are allocations of exactly
 * their bytes, zeroed as the cache does it. */
#ifndef TESTS_SEALED_H
#define TESTS_SEALED_H
#include "kv/method.h"

enum { SEALED_PAGES = 16, SEALED_ROWS = SEALED_PAGES * PAGE_TOKENS, SEALED_QUERIES = 64 };

typedef struct sealed {
    const kv_format *format;
    kv_config config;
    kv_side side;
    int d, n_rows, n_pages;
    kv_geometry geometry;
    kv_page page[SEALED_PAGES];
    size_t run_bytes; /* of all runs */
} sealed;

/* The format and parameters that spec ("rot:bits=8") gives a side; the test fails when it is refused at this d. */
sealed sealed_open(const char *spec, kv_side side, int d);
/* As sealed_open from parts; false when the format refuses or never seals. */
bool sealed_of(const kv_format *format, const kv_config *config, kv_side side, int d, sealed *out);
/* Seals rows x [n][d], in runs of the format's run_pages. */
void sealed_rows(sealed *s, const float *x, int n, bool decode, uint64_t seed);
void sealed_open_rows(const sealed *s, float *x); /* [n_rows][d] */
/* The format's score of one page, of rows q [n_rows][d] that met no other; SEALED_QUERIES rows at most. */
void sealed_score(const sealed *s, const cpu_kernels *kernels, int page, const float *q, int n_rows, float *out,
                  const void *prefetch);
size_t sealed_bytes(const sealed *s); /* pages and blocks */
void sealed_close(sealed *s);

/* Every format of methods.def with its default parameters and with each parameter at each choice or end of its range.
 * i counts from 0; false behind the last. name: the spec, until the next call. */
bool sealed_corner(int i, const kv_format **format, kv_config *config, const char **name);

/* Rows: normal, with a few large channels, as keys have; constants; fp16 extremes. */
void rows_normal(uint64_t seed, int n, int d, float *x);
void rows_like_keys(uint64_t seed, int n, int d, float *x);
double rows_error(const float *x, const float *y, int n); /* |x - y|^2 / |x|^2 */
#endif
