/* exchange.h - a study as a folder of CSV files, one a table: to be committed, read by anything, and gone on from
 * elsewhere. Numbers are written so that they come back to the bit; floats of a window stand as decimals in one cell.
 */
#ifndef STORE_EXCHANGE_H
#define STORE_EXCHANGE_H
#include "store/store.h"

/* Called with each table and its number of rows. */
typedef void store_table_told(void *context, const char *table, int64_t n_rows);

/* FOLDER/TABLE.csv for every table; the folder is made (not those above it). PLEAT_EIO names the file. */
pleat_status store_export(store *s, const char *folder, store_table_told *told, void *context, pleat_error *error);
/* Into a store that holds no run yet, all or nothing. A table without a file is left empty, but for `run`.
 * PLEAT_EINPUT: runs are there already, or a file is bad (names file, line and column). */
pleat_status store_import(store *s, const char *folder, store_table_told *told, void *context, pleat_error *error);
#endif
