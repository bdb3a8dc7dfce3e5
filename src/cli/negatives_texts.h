/* negatives_texts.h - the parts of `pleat negatives` that work on texts: checking LongBench files, scoring answers,
 * exporting the negative samples. Each returns the exit code. */
#ifndef CLI_NEGATIVES_TEXTS_H
#define CLI_NEGATIVES_TEXTS_H
#include "cli/negatives_print.h"

/* files: paths separated by commas. Reads and checks LongBench samples and says what they are. */
int negatives_check(const char *files, bool json);
/* Scores the answers; output (may be NULL): a score CSV under the name `as` ("algorithm" or "algorithm/config"). */
int negatives_score(const char *files, const char *as, const char *output, bool json);
/* The samples that are negative for all methods at the one threshold, as JSON lines; files (may be NULL): LongBench
 * samples whose texts go along. *n: how many. */
int negatives_export(const negatives_result *result, const char *files, const char *output, int *n);
#endif
