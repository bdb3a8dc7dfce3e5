/* predict.c - how long predict_step_ms takes.
 *
 *   bench/predict [DIR METHOD]
 *
 * Steps of no chunk or one and of batches of 1 to 70 with contexts to 5,000, drawn at random from a table larger than
 * the branch predictor remembers; the profile is published files or the tests' small one. Prints the best of 5 rounds.
 */
#include "base/clock.h"
#include "base/rng.h"
#include "predict/throughput.h"
#include <stdio.h>

enum { N_STEPS = 1 << 16, N_PASSES = 8, N_ROUNDS = 5 };

int main(int argc, char **argv) {
    static predict_chunk chunk[N_STEPS];
    static predict_step step[N_STEPS];
    pleat_error error;
    predict_profile *p;
    const char *directory = argc > 2 ? argv[1] : "tests/data/predict", *method = argc > 2 ? argv[2] : "plain";
    if (predict_profile_load(directory, method, NULL, &p, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    for (uint64_t i = 0; i < N_STEPS; i++) {
        chunk[i] = (predict_chunk){1, 64 + (int)(rng_u64(1, 0, i) % 960), (int)(rng_u64(1, 1, i) % 3000)};
        step[i] = (predict_step){&chunk[i], (int)(rng_u64(1, 2, i) & 1), 1 + (int)(rng_u64(1, 3, i) % 70),
                                 1 + (double)(rng_u64(1, 4, i) % 5000)};
    }
    double best = 1e9, sum = 0;
    for (int r = 0; r < N_ROUNDS; r++) {
        double started = clock_seconds();
        for (int pass = 0; pass < N_PASSES; pass++)
            for (int i = 0; i < N_STEPS; i++)
                sum += predict_step_ms(p, &step[i]);
        double ns = (clock_seconds() - started) * 1e9 / ((double)N_STEPS * N_PASSES);
        best = ns < best ? ns : best;
    }
    printf("predict_step_ms, %s of %s: %.0f ns a step (mean step %.2f ms)\n", method, directory, best,
           sum / ((double)N_STEPS * N_PASSES * N_ROUNDS));
    predict_profile_free(p);
    return 0;
}
