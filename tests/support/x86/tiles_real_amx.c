/* tiles_real_amx.c - single tile instructions of the processor. */
#include "support/x86/tiles_trial.h"

void tiles_trial_real(const tiles_trial *trial) {
    tiles_trial_run(trial);
}
