/* hash.c - four lanes of multiply and rotate over 32 bytes at a time, then a mixing end (the finaliser of Steele, Lea
 * and Flood's SplitMix64, OOPSLA 2014). */
#include "base/hash.h"
#include <string.h>

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed) {
    const uint8_t *at = bytes;
    uint64_t lane[4] = {seed, seed ^ 0x9e3779b97f4a7c15u, ~seed, seed + n}, word;
    for (size_t left = n; left;) {
        for (int i = 0; i < 4 && left; i++) {
            size_t m = left < 8 ? left : 8;
            word = 0;
            memcpy(&word, at, m);
            lane[i] = (lane[i] ^ word) * 0x9e3779b97f4a7c15u;
            lane[i] = lane[i] << 29 | lane[i] >> 35;
            at += m;
            left -= m;
        }
    }
    return mix(mix(lane[0] ^ n) ^ mix(lane[1] + 1) * 3 ^ mix(lane[2] + 2) * 5 ^ mix(lane[3] + 3) * 7);
}
