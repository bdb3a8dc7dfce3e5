/* fuzz.h - what a fuzz target is made of: one function over bytes that must come back, whatever they are, and seeds
 * made by code, so that no corpus has to be kept.
 *
 *   make tests          build/tests/test_fuzz_NAME, a plain program over seeds, kept inputs (tests/fuzz/kept/NAME) and
 * a few seconds of seeded mutation; part of ./check, also under sanitizers make fuzz           build/fuzz/NAME, the
 * same under clang's libFuzzer, ASan and UBSan: build/tests/test_fuzz_NAME --seeds DIR && build/fuzz/NAME DIR
 * -max_total_time=300
 *
 * An input that broke something is kept. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct fuzz_input {
    uint8_t *bytes; /* malloc'ed */
    size_t n;
} fuzz_input;
/* The i-th seed; false: there are no more. */
bool fuzz_seed(int i, fuzz_input *seed);
/* A copy of a text, for seeds. */
static inline fuzz_input fuzz_text(const char *s) {
    return (fuzz_input){(uint8_t *)strdup(s), strlen(s)};
}

extern const char fuzz_name[];
extern const int fuzz_rounds; /* of mutation: some two seconds */
#endif
