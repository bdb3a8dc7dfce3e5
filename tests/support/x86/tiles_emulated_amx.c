/* tiles_emulated_amx.c - matmul_amx.c once more, with tiles in plain C. */
#include "support/x86/tiles.h"
#define TILES_EMULATED  "support/x86/tiles_emulated.h"
#define matmul_amx_fill tiles_emulated_fill
#include "cpu/x86/matmul_amx.c"
#include "support/x86/tiles_trial.h"

const cpu_kernels *tiles_emulated_level(void) {
    static cpu_kernels table;
    const cpu_kernels *below = cpu_kernels_level("avx512vnni");
    if (!below)
        return NULL;
    table = *below;
    tiles_emulated_fill(&table);
    return &table;
}

void tiles_trial_emulated(const tiles_trial *trial) {
    tiles_trial_run(trial);
}

bool tiles_emulated_open(void) {
    return tiles_state.config.palette != 0;
}

long tiles_emulated_products(void) {
    return tiles_n_products;
}
