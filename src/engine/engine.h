/* engine.h - inside of an engine: threads, pool, scratch, and the sequences of static batches. Other folders use
 * pleat.h; `measure` also uses the functions declared here.
 *
 * Which file does what: engine.c opens and closes, seq.c is the life of a sequence, step.c checks, reserves and runs a
 * step, gather.c keeps the memory behind the pool near its budget, plan.c says how many bytes a request will take,
 * generate.c is the loop from prompt to answer. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include "base/threads.h"
#include "kv/cache.h"
#include "model/model.h"

/* What pleat_engine_options' zeros stand for. */
enum { ENGINE_STEP_TOKENS = 512, ENGINE_SEQUENCES = 64 };

/* A sequence of n synthetic tokens: an ended prompt whose cache was filled, not computed (kv_cache_fill). For timing
 * decode. PLEAT_EFULL names the bytes needed. */
pleat_status engine_seq_fill(pleat_engine *engine, const pleat_method *method, int n_tokens, int max_new, uint64_t seed,
                             pleat_seq **seq, pleat_error *error);
/* Asks that seq also keep what `method` wants, so that it can be forked to it (before its first token). */
void engine_seq_want(pleat_seq *seq, const pleat_method *method);
/* Ends an open prompt without further tokens: the prompt-end event and its seals (for forks). PLEAT_EFULL: no pages for
 * sealing. */
pleat_status engine_seq_end_prompt(pleat_engine *engine, pleat_seq *seq, pleat_error *error);
const pleat_model *engine_model(const pleat_engine *engine);
kv_pool *engine_pool(pleat_engine *engine);
kv_cache *engine_seq_cache(pleat_seq *seq);
int engine_threads(const pleat_engine *engine);
/* Half of the available memory that a mapped model's weights, which are not there yet as a rule, leave free; 0: none.
 */
size_t engine_pool_share(const pleat_model *model, size_t available_bytes);
int engine_max_step_tokens(const pleat_engine *engine);
/* Upper bound of pool bytes for a sequence of prompt + new tokens under a method, peak of an exact prefill included. */
size_t engine_plan_bytes(const pleat_model *model, const kv_method *method, int prompt_tokens, int new_tokens);
#endif
