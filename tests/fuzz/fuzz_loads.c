/* fuzz_loads.c - what a simulated load is read from: traces of three forms, ShareGPT's JSON, sizes and growth as CSV.
 * Read or refused in one sentence that names the file; what is read is within bounds. */
#include "fuzz/fuzz.h"
#include "route/workload.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const char fuzz_name[] = "loads";
const int fuzz_rounds = 120000;

static char path[64]; /* the readers want a file: one in memory */

static void put(const uint8_t *bytes, size_t n) {
    static int file = -1;
    if (file < 0)
        file = memfd_create("fuzz-loads", 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    if (file < 0 || ftruncate(file, (off_t)n) || pwrite(file, bytes, n, 0) != (ssize_t)n)
        abort();
}

static void check(pleat_status status, const pleat_error *error) {
    if (status && (!strstr(error->text, path) || strchr(error->text, '\n')))
        abort();
}

static void check_size(sim_size size) {
    if (size.prompt < 1 || size.answer < 1)
        abort();
}

static void check_trace(void) {
    sim_trace t;
    pleat_error error = {""};
    pleat_status status = sim_trace_read(path, &t, &error);
    check(status, &error);
    for (int i = 0; !status && i < t.n; i++) {
        check_size(t.row[i].size);
        if (!(t.row[i].at_s >= (i ? t.row[i - 1].at_s : 0)))
            abort();
    }
    if (!status)
        sim_trace_free(&t);
}

static void check_sizes(bool sharegpt) {
    sim_sizes s;
    pleat_error error = {""};
    pleat_status status = sharegpt ? sim_sizes_sharegpt(path, 100, &s, &error) : sim_sizes_read(path, &s, &error);
    check(status, &error);
    for (int i = 0; !status && i < s.n; i++)
        check_size(s.size[i]);
    if (!status)
        sim_sizes_free(&s);
}

static void check_growth(void) {
    sim_growths g;
    pleat_error error = {""};
    pleat_status status = sim_growths_read(path, &g, &error);
    check(status, &error);
    for (int i = 0; !status && i < g.n; i++)
        for (double q = 0; q < 1; q += 0.25)
            if (!(sim_growth_at(&g.of[i], q) > 0 && sim_growth_at(&g.of[i], q) <= sim_growth_at(&g.of[i], q + 0.25)))
                abort();
    if (!status)
        sim_growths_free(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    put(bytes, n);
    check_trace();
    check_sizes(true);
    check_sizes(false);
    check_growth();
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const files[] = {
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 "
        "18:17:02,1,0\r\n",
        "timestamp_ms,input_tokens,output_tokens\n0,6758,500\n1e3,7322,490\n",
        "{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, "
        "47]}\n\n{\"timestamp\": "
        "0, \"input_length\": 1, \"output_length\": 2}",
        "[ {\"id\": \"a\", \"conversations\": [{\"from\": \"human\", \"value\": \"caf\\u00e9 } \\\" ]\"}, {\"from\": "
        "\"gpt\", \"value\": \"b\"}]},\n {\"conversations\": []}, {\"conversations\": [{\"from\": \"gpt",
        "prompt_tokens,answer_tokens\n5,7\n1,1\n",
        "method,quantile,growth\nx,0,0.5\nx,0.5,1\ny,1,3\n",
    };
    if (i >= 6)
        return false;
    *seed = fuzz_text(files[i]);
    return true;
}
