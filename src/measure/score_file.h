/* score_file.h - published score files (algorithm, config, dataset, id, score) into the store. */
#ifndef MEASURE_SCORE_FILE_H
#define MEASURE_SCORE_FILE_H
#include "store/store.h"

/* Reads a CSV with at least these columns (an empty config cell is no configuration) and adds its scores to the store
 * as one run ("scores"); a file with the same contents that the store already has is not added again. path "-": stdin.
 * PLEAT_EINPUT names file and line: a score that is not a number from 0 to 1, an empty name, a second score for the
 * same sample and method, no scores at all. PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status score_file_import(const char *path, store *db, int64_t *run, pleat_error *error);
#endif
