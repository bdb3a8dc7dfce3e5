/* rng.h - counter-based random numbers: a pure function of (seed, stream, counter), so nothing has to be carried along
 * and two runs that ask the same question get the same answer. */
#ifndef BASE_RNG_H
#define BASE_RNG_H
#include <stdint.h>

/* Philox 2x64-10 (Salmon et al., SC 2011). */
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter);
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter); /* [0, 1), 53 bits */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t counter);  /* Box-Muller on two draws */
#endif
