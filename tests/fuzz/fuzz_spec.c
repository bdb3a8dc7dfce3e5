/* fuzz_spec.c - method specs: whatever is accepted has a canonical form that is accepted and is its own. */
#include "fuzz/fuzz.h"
#include "kv/method.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char fuzz_name[] = "spec";
const int fuzz_rounds = 300000;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static kv_layer_shape shape[4];
    static const kv_model model = {.name = "fuzz",
                                   .n_layer = 4,
                                   .n_head = 4,
                                   .n_head_kv = 2,
                                   .head_dim = 64,
                                   .n_rot = 64,
                                   .rope_neox = true,
                                   .score_scale = 0.125f,
                                   .context_tokens = 8192,
                                   .layer = shape};
    char *spec = malloc(n + 1);
    memcpy(spec, bytes, n);
    spec[n] = 0;
    for (int with_model = 0; with_model < 2; with_model++) {
        kv_method method, again;
        pleat_error error = {""};
        if (kv_method_parse(spec, with_model ? &model : NULL, &method, &error)) {
            if (!error.text[0] || strchr(error.text, '\n'))
                abort();
            continue;
        }
        if (kv_method_parse(method.spec, with_model ? &model : NULL, &again, &error) ||
            strcmp(method.spec, again.spec)) {
            fprintf(stderr, "\"%s\" is \"%s\", which is \"%s\" (%s)\n", spec, method.spec, again.spec, error.text);
            abort();
        }
    }
    free(spec);
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const specs[] = {
        "f16",
        "kivi:bits=2,group=32,residual=128+h2o:heavy=64,recent=448",
        "k=kivi(bits=4,group=64),v=int8(group=row)",
        "streaming:sinks=4,recent=508+prefill:bounded+sinks:n=4",
        "int8:group=32+all+even+pin+critical",
        "layers:first=2,last=2,format=int8+kivi-2",
        "kivi-4+h2o-512",
    };
    int n_presets = 0, n_specs = sizeof(specs) / sizeof(*specs);
    while (kv_presets[n_presets].name)
        n_presets++;
    if (i >= n_specs + n_presets)
        return false;
    *seed = fuzz_text(i < n_specs ? specs[i] : kv_presets[i - n_specs].spec);
    return true;
}
