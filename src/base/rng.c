/* rng.c - Philox 2x64-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 * Key = seed; counter words = (counter, stream); the first output word is the number. rng_normal uses both words. */
#include "base/rng.h"

#include <math.h>

static void philox(uint64_t key, uint64_t word[2]) {
    for (int round = 0; round < 10; round++) {
        unsigned __int128 product = (unsigned __int128)0xD2B74407B1CE6E93u * word[0];
        word[0] = (uint64_t)(product >> 64) ^ key ^ word[1];
        word[1] = (uint64_t)product;
        key += 0x9E3779B97F4A7C15u;
    }
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint64_t word[2] = {counter, stream};
    philox(seed, word);
    return word[0];
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(rng_u64(seed, stream, counter) >> 11) * 0x1p-53;
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint64_t word[2] = {counter, stream};
    philox(seed, word);
    double radius = sqrt(-2.0 * log((double)((word[0] >> 11) + 1) * 0x1p-53)); /* (0, 1]: the logarithm is finite */
    return radius * cos(6.283185307179586 * ((double)(word[1] >> 11) * 0x1p-53));
}
