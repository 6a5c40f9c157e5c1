"""Of two threads that claim an engine at the same moment one gets it: in C, without a GIL."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.engines()
NATIVE = Path(__file__).parents[2] / "uringzc" / "_native"
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
CLAIM = """
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "slots/owner.c"

#define TURNS 20000

static uzc_slots made[TURNS];
static bool got[2][TURNS];
static atomic_int begun[2], asked[2];

/* Returns when the other thread has come as far. */
static void meet(atomic_int *step, int me, int i) {
    atomic_store(&step[me], i + 1);
    for (int spins = 0; atomic_load(&step[!me]) <= i; spins++)
        if (spins > 1000)
            sched_yield();
}

static int claim(uzc_slots *s, int me, int i) {
#ifdef NOT_ATOMIC
    bool nobodys = !owner_of(s);
    meet(asked, me, i); /* what now and then happens by itself */
    if (nobodys)
        s->owner = this_thread();
    return nobodys ? 0 : UZC_E_THREAD;
#else
    (void)me, (void)i;
    return uzc_slots_claim(s);
#endif
}

static void *run(void *which) {
    int me = which != NULL;
    for (int i = 0; i < TURNS; i++) {
        meet(begun, me, i);
        got[me][i] = claim(&made[i], me, i) == 0;
    }
    return NULL;
}

int main(void) {
    pthread_t other;
    int counts[3] = {0};
    if (pthread_create(&other, NULL, run, &other))
        return 1;
    run(NULL);
    pthread_join(other, NULL);
    for (int i = 0; i < TURNS; i++)
        counts[got[0][i] + got[1][i]]++;
    printf("%d %d %d\\n", counts[0], counts[1], counts[2]);
}
"""


def claims(folder: Path, *options: str) -> tuple[int, ...]:
    """Two threads claim 20,000 engines at the same time: how many nobody has, one, and both."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"needs a compiler: {COMPILER}")
    (folder / "claim.c").write_text(CLAIM)
    command = [COMPILER, "-std=gnu11", "-O2", "-pthread", f"-I{NATIVE}", *options, "-o", "claim", "claim.c"]
    subprocess.run(command, cwd=folder, check=True)
    out = subprocess.run([folder / "claim"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, out.split()))


def test_an_engine_is_claimed_by_one_thread(tmp_path: Path) -> None:
    assert claims(tmp_path) == (0, 20_000, 0)


def test_control_without_an_atomic_claim_both_get_it(tmp_path: Path) -> None:
    assert claims(tmp_path, "-DNOT_ATOMIC") == (0, 0, 20_000)
