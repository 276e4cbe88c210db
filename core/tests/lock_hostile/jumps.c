/* A thread that waits again and again, and a handler that jumps away from wherever the thread is. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static sigjmp_buf away;
static int word;

static void jump(int signal) { siglongjmp(away, signal); }

static void wait_a_moment(void) {
    struct timespec moment = {0, 1};
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &moment, 0, 0);
}

/* Waits this often. */
void waits(long times) {
    prctl(PR_SET_TIMERSLACK, 1);
    while (times-- > 0) wait_a_moment();
}

/* The same, somewhat deeper in the stack. */
__attribute__((noinline)) void waits_below(long times) {
    volatile char room[3000];
    memset((void *)room, 7, sizeof room);
    waits(times);
    room[0] = 1;
}

/* Waits and is jumped away from that, until `enough` says so. Returns how many jumps there were, or -1. */
long jumps(int (*enough)(void)) {
    volatile long count = 0;
    timer_t timer;
    struct sigaction action = {.sa_handler = jump};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    struct itimerspec often = {{0, 61000}, {0, 61000}}, never = {{0, 0}, {0, 0}};
    event._sigev_un._tid = syscall(SYS_gettid);
    prctl(PR_SET_TIMERSLACK, 1);
    if (sigaction(SIGUSR1, &action, 0) || timer_create(CLOCK_MONOTONIC, &event, &timer)) return -1;
    if (sigsetjmp(away, 1)) {
        count++;
        /* Not while something is looked at that is not for handlers. */
        timer_settime(timer, 0, &never, 0);
        if (enough()) {
            signal(SIGUSR1, SIG_IGN);
            timer_delete(timer);
            return count;
        }
    }
    timer_settime(timer, 0, &often, 0);
    for (;;) wait_a_moment();
}
