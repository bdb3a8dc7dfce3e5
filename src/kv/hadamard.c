/* hadamard.c - y = H D x: D flips fixed random signs, H is the Walsh-Hadamard matrix over sqrt(n), in blocks of n = the
 * largest power of two that divides d (64, 128, 256; d = 96 has three blocks of 32).
 *
 * H is symmetric and its own inverse, so dot products are unchanged, and one large channel is spread over its block
 * (QuaRot, arXiv 2404.00456). Without D a row of equal elements would become one spike of sqrt(n). log2(n) levels of
 * butterflies, in float; a row's bits do not depend on the others. Cost: d log2 d additions a row. */
#include "kv/hadamard.h"
#include "base/rng.h"
#include "kv/method.h"
#include <math.h>
#include <pthread.h>

enum { SIGN_SEED = 456, WORD = 64, SIGNS = KV_MAX_HEAD_DIM }; /* changing them changes every stored page */

static float signs_of[SIGNS];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void draw_signs(void) {
    for (int j = 0; j < SIGNS; j++)
        signs_of[j] = rng_u64(SIGN_SEED, 0, (uint64_t)(j / WORD)) >> (j % WORD) & 1 ? -1.0f : 1.0f;
}

static void flip(int d, float *restrict x, int n_rows) {
    pthread_once(&once, draw_signs);
    for (int r = 0; r < n_rows; r++)
        for (int j = 0; j < d; j++)
            x[r * d + j] *= signs_of[j];
}

static void butterflies(int n, float *x) {
    float scale = 1 / sqrtf((float)n);
    for (int wide = 1; wide < n; wide *= 2)
        for (int i = 0; i < n; i += 2 * wide)
            for (int k = i; k < i + wide; k++) {
                float a = x[k], b = x[k + wide];
                x[k] = a + b;
                x[k + wide] = a - b;
            }
    for (int i = 0; i < n; i++)
        x[i] *= scale;
}

void hadamard_turn(int d, bool signs, bool back, float *x, int n_rows) {
    int n = d & -d;
    if (signs && !back)
        flip(d, x, n_rows);
    for (int at = 0; at < n_rows * d; at += n)
        butterflies(n, x + at);
    if (signs && back)
        flip(d, x, n_rows);
}
