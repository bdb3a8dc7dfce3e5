/* fuzz_jsonl.c - JSON lines: prompts and LongBench's samples, read or refused with a line. */
#include "fuzz/fuzz.h"
#include "measure/lengths.h"
#include "measure/longbench.h"
#include <stdlib.h>
#include <string.h>

const char fuzz_name[] = "jsonl";
const int fuzz_rounds = 120000;

static void check(pleat_status status, const pleat_error *error) {
    if (status && (!strstr(error->text, "fuzz") || strchr(error->text, '\n')))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    lengths_prompts prompts = {.n = 0};
    pleat_error error = {""};
    pleat_status status = lengths_read("fuzz.jsonl", (const char *)bytes, n, &prompts, &error);
    check(status, &error);
    if (!status)
        lengths_free(&prompts);
    for (int need = LONGBENCH_TEXTS; need <= LONGBENCH_ANSWERS; need++) {
        longbench_samples samples = {.n = 0};
        status = longbench_read(&samples, (longbench_need)need, "fuzz_qasper.jsonl", (const char *)bytes, n, &error);
        check(status, &error);
        for (int i = 0; !status && need == LONGBENCH_ANSWERS && i < samples.n; i++) {
            double score;
            longbench_score(&samples.sample[i], &score, &error);
        }
        longbench_free(&samples);
    }
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const files[] = {
        "{\"prompt\": \"hi\", \"id\": \"1\", \"class\": \"x\"}\n{\"prompt\": \"caf\\u00e9 \\ud83d\\ude00\"}\n",
        "{\"input\": \"q\", \"context\": \"c\", \"answers\": [\"a\"], \"length\": 3, \"dataset\": \"qasper\", "
        "\"language\": "
        "\"en\", \"all_classes\": null, \"_id\": \"x\"}\n",
        "{\"pred\": \"yes it is\", \"answers\": [\"yes\"], \"all_classes\": null, \"dataset\": \"qasper\"}\r\n\r\n",
        "{\"pred\": \"a\", \"answers\": [\"a\", \"b\"], \"all_classes\": [\"a\", \"b\"], \"dataset\": \"trec\"}",
        "{\"qasper\": [{\"pred\": \"a b c\", \"answers\": [\"b\"], \"all_classes\": null}]}",
        "{\"prompt\": [1e999, -0, {\"a\": null}]}\n[]\n",
    };
    if (i >= 6)
        return false;
    *seed = fuzz_text(files[i]);
    return true;
}
