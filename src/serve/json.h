/* json.h - jansson, watched: a value that it could not allocate is missing without a word, so an answer that was built
 * of many asks once, in the end, whether all of it is there. */
#ifndef SERVE_JSON_H
#define SERVE_JSON_H
#include <jansson.h>
#include <stdbool.h>

/* Once, before the first value is made. */
void json_watch(void);
/* Forgets what failed on this thread before. */
void json_begin(void);
/* Whether something could not be allocated on this thread since json_begin. */
bool json_ran_out(void);
#endif
