/* longbench.c - see longbench.h. */
#include "measure/longbench.h"
#include <string.h>

static const longbench_set sets[] = {
    {"narrativeqa", "qa-single", METRICS_F1, false},
    {"qasper", "qa-single", METRICS_F1, false},
    {"multifieldqa_en", "qa-single", METRICS_F1, false},
    {"multifieldqa_zh", "qa-single", METRICS_SEGMENTED, false},
    {"hotpotqa", "qa-multi", METRICS_F1, false},
    {"2wikimqa", "qa-multi", METRICS_F1, false},
    {"musique", "qa-multi", METRICS_F1, false},
    {"dureader", "qa-multi", METRICS_SEGMENTED, false},
    {"gov_report", "summarisation", METRICS_ROUGE_L, false},
    {"qmsum", "summarisation", METRICS_ROUGE_L, false},
    {"multi_news", "summarisation", METRICS_ROUGE_L, false},
    {"vcsum", "summarisation", METRICS_SEGMENTED, false},
    {"trec", "few-shot", METRICS_CLASSIFICATION, true},
    {"triviaqa", "few-shot", METRICS_F1, true},
    {"samsum", "few-shot", METRICS_ROUGE_L, true},
    {"lsht", "few-shot", METRICS_CLASSIFICATION, true},
    {"passage_retrieval_en", "synthetic", METRICS_RETRIEVAL, false},
    {"passage_retrieval_zh", "synthetic", METRICS_RETRIEVAL_ZH, false},
    {"passage_count", "synthetic", METRICS_COUNT, false},
    {"lcc", "code", METRICS_EDIT, false},
    {"repobench-p", "code", METRICS_EDIT, false},
};

const char *const longbench_classes[] = {"qa-single", "qa-multi", "summarisation", "few-shot",
                                         "synthetic", "code",     "other",         NULL};

const longbench_set *longbench_find(const char *name) {
    size_t n = strlen(name);
    if (n > 2 && !strcmp(name + n - 2, "_e"))
        n -= 2;
    for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++)
        if (strlen(sets[i].name) == n && !memcmp(sets[i].name, name, n))
            return &sets[i];
    return NULL;
}

const char *longbench_class(const char *name) {
    const longbench_set *set = longbench_find(name);
    return set ? set->klass : "other";
}
