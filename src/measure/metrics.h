/* metrics.h - LongBench's metrics (arXiv 2308.14508; THUDM/LongBench, metrics.py and eval.py): one answer against one
 * reference, a fraction from 0 to 1.
 *
 * They equal the Python originals (rouge 1.0.1, fuzzywuzzy 0.18.0 over difflib) to the last bit on valid UTF-8;
 * scripts/compare_metrics.py runs both side by side. Differences, all deliberate:
 * - two words or lines so long that the `rouge` package runs into Python's recursion limit, which LongBench then counts
 *   as 0, get their true score here;
 * - a retrieval reference without "Paragraph N" is an error here, where the original dies with an IndexError;
 * - Unicode's tables are utf8proc's (15.0 in Debian 12); Python 3.11 has 14.0.
 * The Chinese question answering and summaries need a word segmenter (jieba) and are refused by name.
 *
 * Text ends by 0 and is UTF-8; a byte that is not counts as U+FFFD. */
#ifndef MEASURE_METRICS_H
#define MEASURE_METRICS_H
#include "pleat.h"

typedef enum metrics_kind {
    METRICS_F1,             /* bag-of-words F1 after normalisation */
    METRICS_ROUGE_L,        /* summary level, on distinct words */
    METRICS_CLASSIFICATION, /* which of the classes the answer names */
    METRICS_RETRIEVAL,      /* share of the answer's numbers that are the reference's "Paragraph N" */
    METRICS_RETRIEVAL_ZH,   /* the same with the Chinese word for paragraph */
    METRICS_COUNT,          /* share of the answer's numbers that are the reference */
    METRICS_EDIT,           /* the first line of code, by difflib's ratio rounded to hundredths */
    METRICS_SEGMENTED,      /* Chinese F1 and ROUGE-L: refused */
} metrics_kind;

/* "f1", "rouge-l", "classification", "retrieval", "count", "edit", "segmented". */
const char *metrics_name(metrics_kind kind);

/* classes [n_classes]: of METRICS_CLASSIFICATION, else ignored. PLEAT_EINPUT, PLEAT_EMEMORY. */
pleat_status metrics_score(metrics_kind kind, const char *answer, const char *reference, const char *const *classes,
                           int n_classes, double *score, pleat_error *error);
#endif
