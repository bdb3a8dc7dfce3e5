/* driver.c - the plain program around a fuzz target; see fuzz.h. Round r of the mutations depends on r alone: a crash
 * names it, and FUZZ_ROUND=r runs it by itself. */
#include "fuzz/fuzz.h"
#include "base/rng.h"
#include "support/env.h"
#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MOST_SEEDS = 64, MOST_BYTES = 1 << 20, MOST_CHANGES = 6, PATIENCE_S = 400 };

static fuzz_input seeds[MOST_SEEDS];
static int n_seeds;
static volatile int round_now = -1;

/* ---- what broke ---- */

static void tell_round(void) {
    char line[100];
    int n = snprintf(line, sizeof(line), "fuzz %s: round %d (FUZZ_ROUND repeats it)\n", fuzz_name, round_now);
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return;
}

static void on_death(int number) {
    tell_round();
    signal(number, SIG_DFL);
    raise(number);
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

/* ---- mutation ---- */

typedef struct draws {
    uint64_t round, next;
} draws;

static uint64_t draw(draws *d, uint64_t below) {
    uint64_t x = rng_u64(1, d->round, d->next++);
    return below ? x % below : x;
}

/* Puts n_new bytes in place of n_old at a place. */
static void replace(fuzz_input *x, size_t at, size_t n_old, const uint8_t *bytes, size_t n_new) {
    if (x->n - n_old + n_new > MOST_BYTES)
        return;
    uint8_t *out = malloc(x->n - n_old + n_new + 1);
    if (at)
        memcpy(out, x->bytes, at);
    if (n_new)
        memcpy(out + at, bytes, n_new);
    if (x->n > at + n_old)
        memcpy(out + at + n_new, x->bytes + at + n_old, x->n - at - n_old);
    x->n = x->n - n_old + n_new;
    free(x->bytes);
    x->bytes = out;
}

static void put_number(draws *d, fuzz_input *x) {
    static const uint64_t liked[] = {
        0,          1,          2,          0x7f,       0x80,       0xff,          0x7fff,
        0xffff,     0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32, 1ull << 62,    INT64_MAX,
        1ull << 63, UINT64_MAX, 16,         64,         1000,       (uint64_t)-32, 65536};
    size_t width = (size_t)1 << draw(d, 4);
    if (x->n < width)
        return;
    uint64_t value = liked[draw(d, sizeof(liked) / sizeof(*liked))] + (draw(d, 4) == 0 ? draw(d, 3) - 1 : 0);
    memcpy(x->bytes + draw(d, x->n - width + 1), &value, width);
}

static void change(draws *d, fuzz_input *x) {
    size_t at = x->n ? draw(d, x->n) : 0, left = x->n - at, n = left ? 1 + draw(d, left < 32 ? left : 32) : 0;
    const fuzz_input *other = &seeds[draw(d, (uint64_t)n_seeds)];
    uint8_t byte = (uint8_t)draw(d, 0);
    switch (draw(d, 8)) {
    case 0:
        if (x->n)
            x->bytes[at] ^= (uint8_t)(1 << byte % 8);
        break;
    case 1:
        if (x->n)
            x->bytes[at] = byte;
        break;
    case 2:
        put_number(d, x);
        break;
    case 3: /* out */
        replace(x, at, n, NULL, 0);
        break;
    case 4: /* twice */
        if (n) {
            uint8_t copy[32];
            memcpy(copy, x->bytes + at, n);
            replace(x, draw(d, x->n + 1), 0, copy, n);
        }
        break;
    case 5: /* a piece of another seed */
        if (other->n) {
            size_t from = draw(d, other->n), m = 1 + draw(d, other->n - from < 64 ? other->n - from : 64);
            replace(x, at, draw(d, 2) ? n : 0, other->bytes + from, m);
        }
        break;
    case 6:
        replace(x, at, 0, &byte, 1);
        break;
    case 7:
        if (draw(d, 4) == 0)
            x->n = at; /* cut off */
        break;
    }
}

static void run_round(int round) {
    draws d = {.round = (uint64_t)round};
    const fuzz_input *seed = &seeds[draw(&d, (uint64_t)n_seeds)];
    fuzz_input x = {malloc(seed->n + 1), seed->n};
    round_now = round;
    memcpy(x.bytes, seed->bytes, seed->n);
    for (uint64_t i = 1 + draw(&d, MOST_CHANGES); i > 0; i--)
        change(&d, &x);
    uint8_t *exact = malloc(x.n ? x.n : 1); /* so that ASan sees one byte too many */
    memcpy(exact, x.bytes, x.n);
    LLVMFuzzerTestOneInput(exact, x.n);
    free(exact);
    free(x.bytes);
}

/* ---- the program ---- */

static void seeds_are_taken(void **state) {
    (void)state;
    for (int i = 0; i < n_seeds; i++)
        LLVMFuzzerTestOneInput(seeds[i].bytes, seeds[i].n);
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
}

static void run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s cannot be opened", path);
    uint8_t *bytes = malloc(MOST_BYTES), *exact;
    size_t n = fread(bytes, 1, MOST_BYTES, f);
    fclose(f);
    exact = malloc(n ? n : 1);
    memcpy(exact, bytes, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    free(bytes);
}

static void kept_inputs_are_taken(void **state) {
    (void)state;
    char folder[200], path[500];
    snprintf(folder, sizeof(folder), "tests/fuzz/kept/%s", fuzz_name);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
            run_file(path);
        }
    if (d)
        closedir(d);
}

static void damaged_seeds_are_taken(void **state) {
    (void)state;
    const char *one = getenv("FUZZ_ROUND");
    int n = env_all() ? 30 * fuzz_rounds : env_sanitized() ? fuzz_rounds / 8 : fuzz_rounds;
    for (int round = 0; !one && round < n; round++)
        run_round(round);
    if (one)
        run_round(atoi(one));
    round_now = -1;
}

static int write_seeds(const char *folder) {
    for (int i = 0; i < n_seeds; i++) {
        char path[400];
        snprintf(path, sizeof(path), "%s/seed-%02d", folder, i);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(seeds[i].bytes, 1, seeds[i].n, f) != seeds[i].n || fclose(f)) {
            fprintf(stderr, "%s cannot be written\n", path);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    while (n_seeds < MOST_SEEDS && fuzz_seed(n_seeds, &seeds[n_seeds]))
        n_seeds++;
    if (argc == 3 && !strcmp(argv[1], "--seeds"))
        return write_seeds(argv[2]);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(tell_round);
    } else {
        signal(SIGSEGV, on_death);
        signal(SIGABRT, on_death);
    }
    signal(SIGALRM, on_death); /* a loop that never ends */
    alarm(PATIENCE_S);
    for (int i = 1; i < argc; i++)
        run_file(argv[i]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_are_taken),
        cmocka_unit_test(kept_inputs_are_taken),
        cmocka_unit_test(damaged_seeds_are_taken),
    };
    int failed = argc > 1 ? 0 : cmocka_run_group_tests_name(fuzz_name, tests, NULL, NULL);
    for (int i = 0; i < n_seeds; i++)
        free(seeds[i].bytes);
    return failed;
}
