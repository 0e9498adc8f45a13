/* Times a command from fork to its end, without a runtime of its own in between: spawn RUNS COMMAND [ARGUMENT...]
 * Prints the milliseconds of each run, one a line. The command's output is dropped; a status other than 0 ends the whole with it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: spawn RUNS COMMAND [ARGUMENT...]\n");
        return 2;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    for (int run = atoi(argv[1]); run > 0; run--) {
        pid_t child;
        int status;
        double start = now_ms();
        if (posix_spawn(&child, argv[2], &actions, NULL, argv + 2, environ) != 0 || waitpid(child, &status, 0) != child) {
            perror(argv[2]);
            return 1;
        }
        double milliseconds = now_ms() - start;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return 1;
        printf("%.3f\n", milliseconds);
    }
    return 0;
}
